"""Saliency: what an encoder looks at by construction is found, and told in numbers."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from ctfm.__main__ import main
from ctfm.base.errors import UserError
from ctfm.commands.calling import call
from ctfm.networks.encoders import PooledEncoder
from ctfm.protocols.occlusion import occlusion
from ctfm.protocols.occlusion_saliency import run_saliency
from support import make_ct, save

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK: dict[str, Any] = {
    "spacing": (6, 6, 6),
    "patch": (16, 16, 16),
    "amp": False,
    "device": "cpu",
    "input_check": "off",
    "progress": False,
    "resamples": 50,
}


def test_what_is_looked_at_stands_out() -> None:
    """The embedding is the mean of one corner and a constant: only cubes there move it."""
    patch = torch.rand(1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    patch[0, :4, :4, :4] = 3.0

    def corner(batch: torch.Tensor) -> torch.Tensor:
        looked = batch[:, 0, :4, :4, :4].mean((1, 2, 3))
        return torch.stack([looked, torch.ones_like(looked)], dim=1)

    found = occlusion(patch, corner, (4, 4, 4), (2, 2, 2), batch_size=7)
    assert found.shape == (16, 16, 16)
    assert found[6:].max() < 1e-12
    assert np.unravel_index(found.argmax(), found.shape) < (4, 4, 4)
    # by hand: the cube in that corner
    covered = patch.clone()
    covered[0, :4, :4, :4] = patch.mean()
    expected = 1 - torch.cosine_similarity(corner(patch[None]), corner(covered[None]))[0]
    assert found[0, 0, 0] == pytest.approx(float(expected), abs=1e-6)


def test_cubes_reach_the_end() -> None:
    patch = torch.rand(1, 7, 5, 6, generator=torch.Generator().manual_seed(0))

    def everything(batch: torch.Tensor) -> torch.Tensor:
        return batch.flatten(1)

    assert (occlusion(patch, everything, (3, 3, 3), (2, 2, 2)) > 0).all()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("saliency")
    rows = []
    for number in range(3):  # files are called the same, as TotalSegmentator's are
        hu, label = make_ct(number)
        save(hu.astype(np.int16), folder / f"s{number}" / "ct.nii.gz")
        save(label.astype(np.uint8), folder / f"s{number}" / "label.nii.gz")
        rows.append({"image": f"s{number}/ct.nii.gz", "label": f"s{number}/label.nii.gz"})
    (folder / "datalist.json").write_text(json.dumps({"validation": rows}))
    torch.manual_seed(0)
    network = PooledEncoder(spatial_dims=3, in_channels=1, init_filters=4, blocks_down=(1, 1))
    torch.save(network.state_dict(), folder / "encoder.pt")
    return str(folder / "datalist.json")


def test_maps_and_tables_are_written(data: str, tmp_path: Path) -> None:
    encoder, out = str(Path(data).parent / "encoder.pt"), tmp_path / "out"
    told = call(run_saliency, [encoder], data, out=str(out), pictures=3, classes="1,5", **QUICK)
    assert "patches: 6, scans: 3" in told
    with (out / "organs.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["encoder"] == "encoder.pt"]
    assert [row["scan"] for row in rows] == [f"s{n}/ct.nii.gz" for n in (0, 0, 1, 1, 2, 2)]
    for row in rows:
        inside, volume = float(row["saliency in the organ"]), float(row["patch in the organ"])
        assert 0 < volume < 1
        assert float(row["saliency / volume"]) == pytest.approx(inside / volume, rel=1e-4)
    with (out / "metrics.csv").open() as file:
        found = {(row["encoder"], row["metric"]): row for row in csv.DictReader(file)}
    mean = np.mean([float(row["saliency / volume"]) for row in rows])
    assert float(found["encoder.pt", "saliency / volume"]["mean"]) == pytest.approx(mean, rel=1e-4)
    assert found["random, seed 0", "patch in the organ"]["count"] == "3"
    maps = sorted((out / "maps").glob("*_encoder.pt.nii.gz"))
    assert [path.name for path in maps] == [
        f"s{n}_ct_{organ}_encoder.pt.nii.gz"
        for n, organ in ((0, "liver"), (0, "spleen"), (1, "spleen"))
    ]
    stored = nib.load(Path(data).parent / "s0" / "ct.nii.gz")
    heat = nib.load(maps[0])
    assert heat.shape == stored.shape
    np.testing.assert_allclose(heat.affine, stored.affine)
    assert heat.get_fdata().max() > 0
    assert len([*(out / "maps").glob("*.png")]) == 3
    first = (out / "organs.csv").read_bytes()
    assert (
        call(run_saliency, [encoder], data, out=str(out), pictures=3, classes="1,5", **QUICK)
        == told
    )
    assert (out / "organs.csv").read_bytes() == first


def test_a_place_of_one_scan(data: str, tmp_path: Path) -> None:
    folder, out = Path(data).parent, tmp_path / "out"
    encoder, scan = str(folder / "encoder.pt"), str(folder / "s1" / "ct.nii.gz")
    told = call(run_saliency, [encoder], scan=scan, voxel=(20, 21, 22), out=str(out), **QUICK)
    assert "patches: 1, scans: 1" in told
    names = sorted(path.name for path in (out / "maps").iterdir())
    assert names == [
        "ct_place.png",
        "ct_place_encoder.pt.nii.gz",
        "ct_place_random_seed_0.nii.gz",
    ]
    heat = nib.load(out / "maps" / names[1])
    stored = nib.load(scan)
    np.testing.assert_allclose(heat.affine, stored.affine)
    there = np.argwhere(heat.get_fdata() > 0)
    middle = (there.min(0) + there.max(0)) / 2
    np.testing.assert_allclose(middle, (20, 21, 22), atol=2)
    with (out / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["mean"], row["count"]) for row in rows} == {("", "0")}
    assert rows[0]["encoder"] == "encoder.pt"


@pytest.mark.parametrize("typed", [["20,21,22"], ["20", "21", "22"]])
def test_a_voxel_is_typed_in_any_way(
    typed: list[str], data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = Path(data).parent, tmp_path / "out"
    arguments = [
        str(folder / "encoder.pt"),
        "--scan",
        str(folder / "s1" / "ct.nii.gz"),
        "--voxel",
        *typed,
        "--spacing",
        "6,6,6",
        "--patch",
        "16,16,16",
        "--device",
        "cpu",
        "--out",
        str(out),
        "--noprogress",
        "--resamples",
        "10",
    ]
    monkeypatch.setattr(sys, "argv", ["ctfm", "protocol", "saliency", *arguments])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    main()
    assert json.loads((out / "metrics.json").read_text())["settings"]["voxel"] == [20, 21, 22]


def test_an_organ_of_one_scan_is_that_of_the_datalist(data: str, tmp_path: Path) -> None:
    folder = Path(data).parent
    encoder, scan = str(folder / "encoder.pt"), str(folder / "s0" / "ct.nii.gz")
    label = str(folder / "s0" / "label.nii.gz")
    (folder / "s0" / "label.json").write_text(json.dumps({"labels": {"5": "liver"}}))
    call(
        run_saliency,
        [encoder],
        scan=scan,
        organ="liver",
        labels=label,
        out=str(tmp_path / "a"),
        **QUICK,
    )
    call(run_saliency, [encoder], data, classes=5, scans=1, out=str(tmp_path / "b"), **QUICK)
    found = [(tmp_path / run / "metrics.csv").read_bytes() for run in "ab"]
    assert found[0] == found[1]


def test_places_that_make_no_sense(data: str, tmp_path: Path) -> None:
    folder = Path(data).parent
    encoder, scan = str(folder / "encoder.pt"), str(folder / "s0" / "ct.nii.gz")
    for options, told in (
        ({}, "give --data DATALIST for the organs of many scans, or --scan FILE"),
        ({"data": data, "scan": scan}, "give --data DATALIST"),
        ({"data": data, "point": (1, 2, 3)}, "give --scan FILE in place of --data"),
        ({"scan": scan}, "no place is given: add --point"),
        ({"scan": scan, "organ": "liver"}, "--organ NAME with --labels FILE"),
        ({"scan": scan, "voxel": (900, 1, 1)}, "has no voxel 900,1,1"),
    ):
        with pytest.raises(UserError, match=told):
            call(run_saliency, [encoder], **options, out=str(tmp_path / "out"), **QUICK)
    assert not (tmp_path / "out").exists()


def test_what_is_not_there_is_one_line(data: str, tmp_path: Path) -> None:
    encoder = str(Path(data).parent / "encoder.pt")
    with pytest.raises(UserError, match="show none of the classes"):
        call(run_saliency, [encoder], data, out=str(tmp_path), classes=99, **QUICK)
    rows = {"validation": [{"image": "s0/ct.nii.gz"}]}
    bare = Path(data).with_name("bare.json")
    bare.write_text(json.dumps(rows))
    with pytest.raises(UserError, match="no label file"):
        call(run_saliency, [encoder], str(bare), out=str(tmp_path), **QUICK)

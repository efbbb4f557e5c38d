"""Saliency: what an encoder looks at by construction is found, and told in numbers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from ctfm.errors import UserError
from ctfm.networks import PooledEncoder
from ctfm.protocols import saliency
from ctfm.protocols.occlusion import occlusion
from support import make_ct, save

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK: dict[str, Any] = {
    "spacing": (6, 6, 6), "patch": (16, 16, 16), "amp": False, "device": "cpu",
    "input_check": "off", "progress": False, "resamples": 50,
}  # fmt: skip


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
    for number in range(3):
        hu, label = make_ct(number)
        save(hu.astype(np.int16), folder / f"{number}.nii.gz")
        save(label.astype(np.uint8), folder / f"{number}_label.nii.gz")
        rows.append({"image": f"{number}.nii.gz", "label": f"{number}_label.nii.gz"})
    (folder / "datalist.json").write_text(json.dumps({"validation": rows}))
    torch.manual_seed(0)
    network = PooledEncoder(spatial_dims=3, in_channels=1, init_filters=4, blocks_down=(1, 1))
    torch.save(network.state_dict(), folder / "encoder.pt")
    return str(folder / "datalist.json")


def test_maps_and_tables_are_written(data: str, tmp_path: Path) -> None:
    encoder, out = str(Path(data).parent / "encoder.pt"), tmp_path / "out"
    told = saliency([encoder], data, out=str(out), pictures=2, classes="1,5", **QUICK)
    assert "6 patches in 3 scans" in told
    with (out / "organs.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["encoder"] == "encoder.pt"]
    assert len(rows) == 6
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
    assert len(maps) == 2
    stored = nib.load(Path(data).parent / "0.nii.gz")
    heat = nib.load(maps[0])
    assert heat.shape == stored.shape
    np.testing.assert_allclose(heat.affine, stored.affine)
    assert heat.get_fdata().max() > 0
    assert len([*(out / "maps").glob("*.png")]) == 2
    first = (out / "organs.csv").read_bytes()
    assert saliency([encoder], data, out=str(out), pictures=2, classes="1,5", **QUICK) == told
    assert (out / "organs.csv").read_bytes() == first


def test_what_is_not_there_is_one_line(data: str, tmp_path: Path) -> None:
    encoder = str(Path(data).parent / "encoder.pt")
    with pytest.raises(UserError, match="show none of the classes"):
        saliency([encoder], data, out=str(tmp_path), classes=99, **QUICK)
    rows = {"validation": [{"image": "0.nii.gz"}]}
    bare = Path(data).with_name("bare.json")
    bare.write_text(json.dumps(rows))
    with pytest.raises(UserError, match="no label file"):
        saliency([encoder], str(bare), out=str(tmp_path), **QUICK)

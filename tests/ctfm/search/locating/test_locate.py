"""`ctfm locate` from files to files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from ctfm.__main__ import main
from ctfm.base.errors import UserError
from ctfm.commands.calling import call
from ctfm.embedding.embedder import Embedder
from ctfm.embedding.recipes import make_recipe
from ctfm.imaging.grids import voxels_to_mm
from ctfm.networks.encoders import PooledEncoder
from ctfm.search.locating.locate import locate
from ctfm.search.locating.locations import read_prepared
from support import make_ct, save

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL: dict[str, Any] = {"spacing": [3.0] * 3, "patch": [16] * 3, "overlap": 0.75, "amp": False}
OPTIONS = {**SMALL, "progress": False, "device": "cpu"}
OBLIQUE = np.array([[-2.9, 0.3, 0, 40], [0.3, 2.9, 0.2, -9], [0, -0.2, 3.1, 800], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    network = PooledEncoder(init_filters=4, in_channels=1, blocks_down=(1, 1, 1, 1, 1))
    path = tmp_path_factory.mktemp("weights") / "encoder.pt"
    torch.save(network.state_dict(), path)
    return str(path)


@pytest.fixture
def scans(tmp_path: Path) -> tuple[Path, Path]:
    """A scan with labels, and the same with its axes exchanged and turned round."""
    hu, label = make_ct(side=64)
    turn = ornt_transform(io_orientation(OBLIQUE), axcodes2ornt("ASL"))
    moved = OBLIQUE @ inv_ornt_aff(turn, hu.shape)
    for name, array in (("ct", hu), ("labels", label)):
        save(array, tmp_path / f"a_{name}.nii.gz", OBLIQUE)
        turned = nib.orientations.apply_orientation(array, turn)
        save(turned, tmp_path / f"b_{name}.nii.gz", moved)
    names = json.dumps({"labels": {"1": "spleen", "3": "kidney_left", "5": "liver"}})
    for letter in "abc":
        (tmp_path / f"{letter}_labels.json").write_text(names)
    return tmp_path / "a_ct.nii.gz", tmp_path / "b_ct.nii.gz"


def window_of(path: Path, checkpoint: str, number: int) -> np.ndarray:
    """Where one of a scan's windows stands, mm."""
    embedder = Embedder.load(checkpoint, make_recipe("semantic_search", **SMALL), device="cpu")
    image = embedder.read(str(path))
    start = embedder.grid(image).starts()[number]
    return voxels_to_mm(image.affine.numpy(), (start + 8)[None])[0]


def document(folder: Path) -> Any:
    return json.loads((folder / "locate.json").read_text())


@pytest.mark.parametrize("exhaustive", [True, False])
def test_the_same_place_is_found_however_a_scan_is_stored(
    exhaustive: bool, scans: tuple[Path, Path], checkpoint: str, tmp_path: Path
) -> None:
    point = window_of(scans[0], checkpoint, 171)
    out = tmp_path / "out"
    text = call(
        locate,
        str(scans[0]),
        str(scans[1]),
        str(out),
        checkpoint=checkpoint,
        point=point.tolist(),
        exhaustive=exhaustive,
        **OPTIONS,
    )
    found = document(out)
    np.testing.assert_allclose(found["answer"]["point_mm"], point, atol=0.02)
    assert found["answer"]["similarity"] > 0.9999
    voxel = np.rint((np.linalg.inv(nib.load(scans[1]).affine) @ [*point, 1])[:3])
    assert found["answer"]["voxel"] == voxel.tolist()
    assert all(one["similarity"] < found["answer"]["similarity"] for one in found["others"])
    windows = found["windows"]
    assert windows["total"] > 128
    assert (windows["in_full"] == windows["total"]) is exhaustive
    assert found["organ"] is None
    assert f"{windows['share_of_work']:.0%} of the work" in text

    heat = nib.load(out / "similarity.nii.gz")
    target = nib.load(scans[1])
    assert heat.shape == target.shape
    np.testing.assert_allclose(heat.affine, target.affine, atol=1e-4)
    values = np.asanyarray(heat.dataobj)
    assert values.dtype == np.float32
    warmest = np.array(np.unravel_index(values.argmax(), values.shape))
    assert np.abs(warmest - voxel).max() <= 1
    assert values[tuple(voxel.astype(int))] == pytest.approx(1, abs=0.1)
    assert (out / "locate.png").read_bytes()[:4] == b"\x89PNG"
    assert {path.name for path in out.iterdir()} == {
        "locate.json",
        "locate.png",
        "similarity.nii.gz",
    }


def test_labels_say_how_far_the_answer_lies(
    scans: tuple[Path, Path], checkpoint: str, tmp_path: Path
) -> None:
    text = call(
        locate,
        str(scans[0]),
        str(scans[1]),
        str(tmp_path / "out"),
        checkpoint=checkpoint,
        organ="liver",
        labels_query=str(tmp_path / "a_labels.nii.gz"),
        labels_target=str(tmp_path / "b_labels.nii.gz"),
        **OPTIONS,
    )
    found = document(tmp_path / "out")
    label = nib.load(tmp_path / "b_labels.nii.gz")
    mask = np.asanyarray(label.dataobj) == 5
    centre = (label.affine @ [*np.argwhere(mask).mean(0), 1])[:3]
    np.testing.assert_allclose(found["query"]["point_mm"], centre, atol=0.02)
    distance = np.linalg.norm(centre - found["answer"]["point_mm"])
    assert found["organ"] == {
        "class_id": 5,
        "name": "liver",
        "centroid_mm": pytest.approx(centre, abs=0.01),
        "distance_mm": pytest.approx(distance, abs=0.02),
        "inside": bool(mask[tuple(found["answer"]["voxel"])]),
    }
    assert f"{distance:.1f} mm from the centre of liver" in text


def test_an_organ_that_the_target_does_not_show_has_no_distance(
    scans: tuple[Path, Path], checkpoint: str, tmp_path: Path
) -> None:
    label = nib.load(tmp_path / "b_labels.nii.gz")
    without = np.where(np.asanyarray(label.dataobj) == 1, 0, np.asanyarray(label.dataobj))
    save(without.astype(np.uint8), tmp_path / "c_labels.nii.gz", label.affine)
    text = call(
        locate,
        str(scans[0]),
        str(scans[1]),
        str(tmp_path / "out"),
        checkpoint=checkpoint,
        organ="spleen",
        labels_query=str(tmp_path / "a_labels.nii.gz"),
        labels_target=str(tmp_path / "c_labels.nii.gz"),
        **OPTIONS,
    )
    assert "the labels do not show spleen" in text
    assert document(tmp_path / "out")["organ"]["distance_mm"] is None


@pytest.fixture
def typed(
    monkeypatch: pytest.MonkeyPatch, scans: tuple[Path, Path], checkpoint: str, tmp_path: Path
) -> Callable[..., Any]:
    """What a user types, with `A` and `B` for the scans; the document that comes out."""

    def run(*arguments: str) -> Any:
        names = {"A": str(scans[0]), "B": str(scans[1])}
        monkeypatch.setattr(
            sys,
            "argv",
            [
                "ctfm",
                "locate",
                *[names.get(one, one) for one in arguments],
                "--checkpoint",
                checkpoint,
                "--spacing",
                "3,3,3",
                "--patch",
                "32,32,32",
                "--noprogress",
                "--out",
                str(tmp_path / "out"),
            ],
        )
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        main()
        return document(tmp_path / "out")

    return run


@pytest.mark.parametrize(
    "arguments",
    [
        ["A", "--point", "-40.1,90.5,900.2", "B"],
        ["A", "--point", "-40.1", "90.5", "900.2", "B"],
        ["A", "B", "--point=-40.1,90.5,900.2"],
    ],
)
def test_a_point_is_typed_in_any_way(arguments: list[str], typed: Callable[..., Any]) -> None:
    assert typed(*arguments)["query"]["point_mm"] == [-40.1, 90.5, 900.2]


@pytest.mark.parametrize(
    "arguments",
    [
        ["A", "--voxel", "31,32,33", "B"],
        ["A", "--voxel", "31", "32", "33", "B"],
        ["A", "B", "--voxel=(31, 32, 33)"],
    ],
)
def test_a_voxel_is_typed_in_any_way(arguments: list[str], typed: Callable[..., Any]) -> None:
    assert typed(*arguments)["query"]["voxel"] == [31, 32, 33]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["A", "--point", "1,2,3"], "target is missing: add --target"),
        (["A", "B"], "no place is given"),
        (["A", "B", "--point", "1,2,3"], "lies outside of"),
        (["A", "B", "--voxel", "31,32,33", "--overlap", "1"], "overlap is 1"),
        (["A", "B", "--voxel", "31,32,33", "--work", "2"], "work is 2"),
        (["A", "none.nii.gz", "--voxel", "31,32,33"], "none.nii.gz: no such file"),
        (["A", "B", "--organ", "liver"], "add --labels_query"),
    ],
)
def test_mistakes_end_in_one_line(
    arguments: list[str], message: str, typed: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        typed(*arguments)
    assert not (tmp_path / "out").exists()


def test_a_place_far_from_the_body_is_told(
    checkpoint: str, tmp_path: Path, scans: tuple[Path, Path]
) -> None:
    hu = np.full((90, 90, 90), -1000, np.int16)
    hu[60:88, 60:88, 60:88] = 60
    path = save(hu, tmp_path / "far.nii.gz")
    with pytest.raises(UserError, match="lies outside of the body"):
        call(
            locate,
            str(path),
            str(scans[1]),
            str(tmp_path),
            checkpoint=checkpoint,
            voxel=(0, 0, 0),
            **OPTIONS,
        )


def test_another_scans_labels_are_refused(
    scans: tuple[Path, Path], checkpoint: str, tmp_path: Path
) -> None:
    embedder = Embedder.load(checkpoint, make_recipe("semantic_search", **SMALL), device="cpu")
    with pytest.raises(UserError, match="give its own label"):
        read_prepared(embedder, str(scans[0]), str(tmp_path / "b_labels.nii.gz"))


def test_a_patch_that_cannot_be_halved_is_refused(
    scans: tuple[Path, Path], checkpoint: str
) -> None:
    options = {**OPTIONS, "patch": [16, 16, 1]}
    with pytest.raises(UserError, match=r"patch is \[16, 16, 1\]: give sides from 16"):
        call(
            locate, str(scans[0]), str(scans[1]), checkpoint=checkpoint, voxel=(1, 1, 1), **options
        )


def test_no_encoder_no_search(scans: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match="add --checkpoint FILE"):
        call(locate, str(scans[0]), str(scans[1]), voxel=(1, 1, 1))

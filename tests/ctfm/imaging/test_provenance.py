"""A result counts as finished by what made it, not by its name."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from ctfm.imaging.listing import REFUSED, find_scans
from ctfm.imaging.provenance import MADE_BY, Provenance, made_by, source_identity, unfinished

SETTINGS = {"spacing": (1.5, 1.5, 1.5), "classes": None}


@pytest.fixture
def weights(tmp_path: Path) -> str:
    path = tmp_path / "model.pt"
    path.write_bytes(b"weights")
    return str(path)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "p1" / "ct.nii.gz"
    path.parent.mkdir()
    path.write_bytes(b"voxels")
    return path


def finish(scan: Path, out: Path, provenance: Provenance) -> None:
    """What a run leaves."""
    name = find_scans(str(scan))[0]["name"]
    out.mkdir(exist_ok=True)
    (out / f"{name}_seg.json").write_text(json.dumps({MADE_BY: provenance.of(str(scan))}))
    (out / f"{name}_seg.nii.gz").write_bytes(b"labels")


def left(scan: Path, out: Path, provenance: Provenance, **options: Any) -> list[dict[str, Any]]:
    return unfinished(find_scans(str(scan)), provenance, str(out), **options)


def test_the_same_command_leaves_out_what_is_finished(
    scan: Path, weights: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    made = Provenance(weights, SETTINGS, {"preview": True})
    assert len(left(scan, out, made)) == 1
    finish(scan, out, made)
    again = Provenance(weights, {"spacing": [1.5, 1.5, 1.5], "classes": None}, {"preview": False})
    assert left(scan, out, made) == left(scan, out, again) == []
    assert len(left(scan, out, made, overwrite=True)) == 1


@pytest.mark.parametrize("change", ["weights", "no weights", "settings", "outputs", "source"])
def test_what_others_made_of_the_same_scan_is_done_again(
    change: str, scan: Path, weights: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    finish(scan, out, Provenance(weights, SETTINGS, {"preview": True, "statistics": False}))
    settings, outputs = dict(SETTINGS), {"preview": True}
    if change == "weights":
        Path(weights).write_bytes(b"others")
    elif change == "settings":
        settings["spacing"] = (3.0, 3.0, 3.0)
    elif change == "outputs":
        outputs["statistics"] = True
    elif change == "source":
        scan.write_bytes(b"other voxels")
    provenance = Provenance(weights, settings, outputs, loaded=change != "no weights")
    rows = left(scan, out, provenance)
    assert [row.get(REFUSED) for row in rows] == [None]


def test_a_result_of_another_scan_is_left_alone(scan: Path, weights: str, tmp_path: Path) -> None:
    out, made = tmp_path / "out", Provenance(weights, SETTINGS)
    finish(scan, out, made)
    other = tmp_path / "p2" / "ct.nii.gz"
    other.parent.mkdir()
    other.write_bytes(b"somebody else")
    (row,) = left(other, out, made)
    expected = f"{out}/ct_seg.nii.gz was made of another scan, {scan}: choose another output folder"
    assert row[REFUSED].startswith(expected)
    assert REFUSED not in left(other, out, made, overwrite=True)[0]


def test_a_result_of_nobody_knows_what_is_left_alone(scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "ct_seg.nii.gz").write_bytes(b"drawn by hand")
    for content in (None, "{}", "[]", "not JSON"):
        if content is not None:
            (out / "ct_seg.json").write_text(content)
        (row,) = left(scan, out, Provenance())
        assert "does not say which scan it was made of" in row[REFUSED]


def test_a_scan_that_was_moved_is_the_same(scan: Path, weights: str, tmp_path: Path) -> None:
    out, made = tmp_path / "out", Provenance(weights, SETTINGS)
    finish(scan, out, made)
    moved = tmp_path / "moved" / "ct.nii.gz"
    moved.parent.mkdir()
    shutil.move(scan, moved)
    assert left(moved, out, made) == []


def test_a_series_is_known_by_all_of_its_files(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"{number}.dcm").write_bytes(b"12345")
        os.utime(tmp_path / f"{number}.dcm", ns=(number, number))
    assert source_identity(str(tmp_path)) == {
        "path": str(tmp_path.resolve()),
        "bytes": 10,
        "modified_ns": 1,
    }


def test_it_is_json_and_can_be_pickled(scan: Path, weights: str, tmp_path: Path) -> None:
    provenance = Provenance(weights, {"device": Path("x"), "spacing": (1, 2)})
    record = pickle.loads(pickle.dumps(provenance)).of(str(scan))
    assert record == json.loads(json.dumps(record))
    assert record["weights"]["file"] == "model.pt"
    assert made_by(tmp_path / "none.json") is None

"""Lesions counted by hand and by a slow transcription of the rule; files, table, folders."""

from __future__ import annotations

import csv
import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from ctfm.base.errors import UserError
from ctfm.evaluation.lesions.detection import Lesion, LesionScore, lesion_score, summarise_lesions
from ctfm.evaluation.lesions.folders import score_lesions
from ctfm.evaluation.lesions.lesion_report import format_lesions, write_lesions

SPACING = (2.0, 1.0, 3.0)
VOXEL_ML = 0.006
SHAPE = (12, 10, 9)


def volume(*boxes: tuple[slice, ...], value: int = 1) -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    for box in boxes:
        array[box] = value
    return array


def cube(start: int, side: int = 2) -> tuple[slice, ...]:
    return (slice(start, start + side),) * 3


# --- one case -------------------------------------------------------------------------------


def slow_components(mask: np.ndarray) -> list[set[tuple[int, ...]]]:
    """Voxels joined one after the other with all their 26 neighbours."""
    left = {tuple(map(int, place)) for place in np.argwhere(mask)}
    found = []
    while left:
        component, queue = set(), [left.pop()]
        while queue:
            voxel = queue.pop()
            component.add(voxel)
            for step in product((-1, 0, 1), repeat=3):
                neighbour = tuple(a + b for a, b in zip(voxel, step, strict=True))
                if neighbour in left:
                    left.remove(neighbour)
                    queue.append(neighbour)
        found.append(component)
    return found


def slow_lesions(
    mask: np.ndarray, other: np.ndarray, min_overlap: float
) -> list[tuple[float, float, bool]]:
    rows = []
    for component in slow_components(mask):
        shared = sum(bool(other[voxel]) for voxel in component)
        found = shared > 0 and shared / len(component) >= min_overlap
        rows.append((len(component) * VOXEL_ML, shared / len(component), found))
    return sorted(rows, key=lambda row: (-row[0], -row[1]))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("min_overlap", [0.0, 0.3, 0.7])
def test_scores_are_those_of_the_slow_reference(seed: int, min_overlap: float) -> None:
    rng = np.random.default_rng(seed)
    prediction, reference = (rng.random(SHAPE) < 0.06 for _ in range(2))
    prediction |= reference & (rng.random(SHAPE) < 0.3)
    score = lesion_score(prediction, reference, SPACING, min_overlap=min_overlap)
    for found, mask, other in (
        (score.reference, reference, prediction),
        (score.predicted, prediction, reference),
    ):
        expected = slow_lesions(mask, other, min_overlap)
        assert len(expected) > 10
        assert [lesion.found for lesion in found] == [row[2] for row in expected]
        figures = [value for lesion in found for value in (lesion.volume_ml, lesion.overlap)]
        assert figures == pytest.approx([value for row in expected for value in row[:2]])


def test_counts_and_volumes_by_hand() -> None:
    """One lesion is hit by a voxel, one is missed; one finding is none."""
    reference = volume(cube(0, 3), cube(6))
    prediction = volume(cube(2), (slice(0, 2), slice(8, 10), slice(7, 9)))
    score = lesion_score(prediction, reference, SPACING)
    assert [lesion.found for lesion in score.reference] == [True, False]
    assert [lesion.found for lesion in score.predicted] == [True, False]
    assert (score.detected, score.sensitivity, score.false_positives) == (1, 0.5, 1)
    assert score.missed_ml == pytest.approx(8 * VOXEL_ML)
    assert score.false_positive_ml == pytest.approx(8 * VOXEL_ML)
    assert score.reference[0].volume_ml == pytest.approx(27 * VOXEL_ML)
    assert score.reference[0].overlap == pytest.approx(1 / 27)
    assert score.predicted[0].overlap == pytest.approx(1 / 8)


@pytest.mark.parametrize(
    ("step", "count"), [((1, 1, 1), 1), ((1, 1, 0), 1), ((1, 0, 0), 1), ((2, 0, 0), 2)]
)
def test_corners_join(step: tuple[int, ...], count: int) -> None:
    mask = np.zeros(SHAPE, bool)
    mask[3, 3, 3] = mask[tuple(3 + s for s in step)] = True
    assert len(lesion_score(mask, mask, SPACING).reference) == count


def test_a_prediction_over_two_lesions_detects_both_and_pieces_are_no_false_positives() -> None:
    apart, joined = volume(cube(0), cube(5)), volume(cube(0, 7))
    score = lesion_score(joined, apart, SPACING)
    assert (score.detected, score.false_positives, len(score.predicted)) == (2, 0, 1)
    score = lesion_score(apart, joined, SPACING)
    assert (score.detected, score.false_positives, len(score.predicted)) == (1, 0, 2)


@pytest.mark.parametrize(("min_overlap", "found"), [(0, 1), (0.1, 1), (0.3, 1), (0.31, 0), (1, 0)])
def test_share_exactly_at_the_limit_counts(min_overlap: float, found: int) -> None:
    reference = volume((slice(0, 10), slice(0, 3), slice(0, 1)))
    prediction = volume((slice(0, 3), slice(0, 3), slice(0, 1)))
    score = lesion_score(prediction, reference, SPACING, min_overlap=min_overlap)
    assert score.detected == found
    assert score.false_positives == 0


def test_identical_masks_and_empty_ones() -> None:
    mask, empty = volume(cube(1), cube(6)), volume()
    same = lesion_score(mask, mask, SPACING, min_overlap=1)
    assert (same.sensitivity, same.false_positives, same.missed_ml) == (1, 0, 0)
    missed = lesion_score(empty, mask, SPACING)
    assert (missed.sensitivity, len(missed.predicted)) == (0, 0)
    invented = lesion_score(mask, empty, SPACING)
    assert math.isnan(invented.sensitivity)
    assert invented.false_positives == 2
    assert lesion_score(empty, empty, SPACING) == LesionScore((), ())


def test_one_class_of_a_label_map_in_any_form() -> None:
    prediction = np.maximum(volume(cube(0, 6)), volume(cube(1), value=2))
    reference = np.maximum(volume(cube(0, 6)), volume(cube(2), value=2))
    score = lesion_score(prediction, reference, SPACING, class_id=2)
    assert score.reference == (Lesion(8 * VOXEL_ML, 1 / 8, True),)
    tensors = torch.from_numpy(prediction).float(), torch.from_numpy(reference)
    assert lesion_score(*tensors, SPACING, class_id=2) == score
    assert lesion_score(prediction, reference, SPACING).reference[0].overlap == 1


def test_place_and_orientation_do_not_matter() -> None:
    rng = np.random.default_rng(5)
    prediction, reference = (rng.random(SHAPE) < 0.05 for _ in range(2))
    score = lesion_score(prediction, reference, SPACING)
    turned = [np.pad(m, 3).transpose(2, 0, 1)[::-1] for m in (prediction, reference)]
    assert lesion_score(*turned, (3.0, 2.0, 1.0)) == score


def test_diameter_is_that_of_the_ball() -> None:
    ball_ml = 4 / 3 * math.pi * 5**3 / 1000
    assert Lesion(ball_ml, 0, False).diameter_mm == pytest.approx(10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction": np.zeros((2, 2, 2))}, "must lie on the same grid"),
        ({"prediction": np.full(SHAPE, 0.5)}, "not whole"),
        ({"spacing": (1, 1)}, "three positive numbers"),
        ({"spacing": (1, 0, 1)}, "three positive numbers"),
        ({"class_id": 0}, "from 1"),
        ({"class_id": True}, "class_id is True: .* from 1"),
        ({"min_overlap": 1.1}, "share from 0"),
        ({"min_overlap": -0.1}, "share from 0"),
    ],
)
def test_what_is_refused(change: dict[str, Any], message: str) -> None:
    given = {"prediction": volume(), "reference": volume(), "spacing": SPACING} | change
    with pytest.raises(UserError, match=message):
        lesion_score(**given)


# --- over cases -----------------------------------------------------------------------------


def ml(diameter_mm: float) -> float:
    return math.pi * diameter_mm**3 / 6000


def case(reference: list[tuple[float, bool]], predicted: list[tuple[float, bool]]) -> LesionScore:
    """Lesions by diameter and whether they are found."""
    sides = (
        tuple(Lesion(ml(size), float(found), found) for size, found in side)
        for side in (reference, predicted)
    )
    return LesionScore(*sides)


CASES = {
    "a": case([(5, False), (15, True), (30, True)], [(15, True), (30, True)]),
    "b": case([(12, False)], [(8, False)]),
    "c": case([], [(25, False), (6, False)]),
    "d": case([(9, True)], [(9, True)]),
    "e": case([(40, True)], [(40, True)]),
}


def test_summary_by_hand() -> None:
    summary = summarise_lesions(CASES)
    row = summary.overall
    assert (summary.cases, summary.cases_with_lesions) == (5, 4)
    assert (row.lesions, row.detected, row.predicted, row.false_positives) == (6, 4, 7, 3)
    assert row.sensitivity.mean == pytest.approx(4 / 6)
    assert row.sensitivity.cases == 4
    assert row.false_positives_per_scan.mean == pytest.approx(3 / 5)
    assert row.precision.mean == pytest.approx(4 / 7)
    assert summary.missed_ml.mean == pytest.approx((ml(5) + ml(12)) / 5)
    assert summary.false_positive_ml.mean == pytest.approx((ml(8) + ml(25) + ml(6)) / 5)
    found = [(r.name, r.lesions, r.detected, r.predicted, r.false_positives) for r in summary.sizes]
    assert found == [
        ("below 10 mm", 2, 1, 3, 2),
        ("10 to 20 mm", 2, 1, 1, 0),
        ("from 20 mm", 2, 2, 3, 1),
    ]
    assert all(r.false_positives_per_scan.cases == 5 for r in summary.sizes)


def test_interval_resamples_whole_cases() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 6, 30)
    found = [int(rng.integers(0, n + 1)) for n in counts]
    cases = {
        str(i): case([(15, k < f) for k in range(n)], [])
        for i, (n, f) in enumerate(zip(counts, found, strict=True))
    }
    interval = summarise_lesions(cases, resamples=4000).overall.sensitivity.interval
    have = np.array([(n, f) for n, f in zip(counts, found, strict=True) if n])
    draws = have[np.random.default_rng(1).integers(0, len(have), (20_000, len(have)))].sum(1)
    assert interval == pytest.approx(
        np.percentile(draws[:, 1] / draws[:, 0], [2.5, 97.5]), abs=0.02
    )


def test_same_on_every_run_and_by_seed() -> None:
    assert summarise_lesions(CASES, seed=1) == summarise_lesions(CASES, seed=1)
    assert summarise_lesions(CASES, seed=1) != summarise_lesions(CASES, seed=2)


def test_no_interval_for_two_cases_and_no_value_without_lesions() -> None:
    summary = summarise_lesions({"a": CASES["a"], "c": CASES["c"]})
    assert summary.overall.false_positives_per_scan.interval is None
    assert summary.overall.sensitivity.cases == 1
    nothing = summarise_lesions({"a": LesionScore((), ())})
    assert math.isnan(nothing.overall.sensitivity.mean)
    assert nothing.overall.false_positives_per_scan.mean == 0
    assert " - " in format_lesions(nothing)


def test_other_sizes_and_none() -> None:
    names = [row.name for row in summarise_lesions(CASES, sizes_mm=(30,)).sizes]
    assert names == ["below 30 mm", "from 30 mm"]
    assert summarise_lesions(CASES, sizes_mm=()).sizes == []
    for wrong in ((0,), (20, 10)):
        with pytest.raises(UserError, match="ascending"):
            summarise_lesions(CASES, sizes_mm=wrong)
    with pytest.raises(UserError, match="no cases"):
        summarise_lesions({})


def test_files(tmp_path: Path) -> None:
    summary = write_lesions(CASES, tmp_path / "out", settings={"min_overlap": 0})
    with open(tmp_path / "out" / "lesions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13
    assert rows[0]["case"] == "a"
    assert rows[0]["mask"] == "reference"
    assert [row["found"] for row in rows[:3]] == ["0", "1", "1"]
    assert float(rows[1]["diameter_mm"]) == pytest.approx(15)
    with open(tmp_path / "out" / "lesions_cases.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["sensitivity"] for row in rows] == ["0.666667", "0", "", "1", "1"]
    assert [row["false_positives"] for row in rows] == ["0", "1", "2", "0", "0"]
    document = json.loads((tmp_path / "out" / "lesions.json").read_text())
    assert document["overall"]["sensitivity"]["mean"] == summary.overall.sensitivity.mean
    assert document["bootstrap"]["resamples"] == 1000
    assert document["settings"] == {"min_overlap": 0}


def test_table() -> None:
    lines = format_lesions(summarise_lesions(CASES)).splitlines()
    assert len({len(line) for line in lines[:-1]}) == 1
    assert "0.667" in lines[2]
    assert [line[:11] for line in lines[3:6]] == ["below 10 mm", "10 to 20 mm", "from 20 mm "]
    assert lines[-1].startswith("5 scans, 4 with a lesion; volume a scan: missed ")


# --- folders --------------------------------------------------------------------------------


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*SPACING, 1.0]) if affine is None else affine
    nib.save(nib.Nifti1Image(array, affine), path)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Results as inference writes them beside the labels of three scans."""
    for name, hit in (("lung_001", True), ("lung_002", False)):
        save(tmp_path / "labels" / f"{name}.nii.gz", volume(cube(2), value=2))
        found = volume(cube(3 if hit else 7), value=2)
        save(tmp_path / "results" / "fold" / f"{name}_seg.nii.gz", found)
    save(tmp_path / "labels" / "lung_003.nii.gz", volume())
    (tmp_path / "labels" / "._lung_001.nii.gz").write_bytes(b"\0")
    return tmp_path / "results", tmp_path / "labels"


def test_folders_are_matched_by_name(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = score_lesions(*folders, out=tmp_path / "out", class_id=2, workers=2)
    assert table == score_lesions(*folders, class_id=2, workers=1)
    assert "2 scans, 2 with a lesion" in table
    assert capsys.readouterr().err.startswith("note: 1 references have no prediction")
    with open(tmp_path / "out" / "lesions_cases.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["detected"]) for row in rows] == [
        ("lung_001", "1"),
        ("lung_002", "0"),
    ]
    document = json.loads((tmp_path / "out" / "lesions.json").read_text())
    assert document["settings"]["class_id"] == 2
    assert document["missed_ml"]["mean"] == pytest.approx(4 * VOXEL_ML)


def test_two_files(folders: tuple[Path, Path]) -> None:
    results, labels = folders
    table = score_lesions(results / "fold/lung_001_seg.nii.gz", labels / "lung_001.nii.gz")
    assert "1 scan, 1 with a lesion" in table


def test_maps_that_do_not_belong_together(folders: tuple[Path, Path], tmp_path: Path) -> None:
    results, labels = folders
    with pytest.raises(UserError, match="no such file or folder"):
        score_lesions(tmp_path / "nowhere", labels)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no label map"):
        score_lesions(results, tmp_path / "empty")
    save(results / "liver_1_seg.nii.gz", volume())
    with pytest.raises(UserError, match=r"1 predictions have no reference .*liver_1_seg"):
        score_lesions(results, labels)
    (results / "liver_1_seg.nii.gz").unlink()
    save(results / "lung_001.nii.gz", volume())
    with pytest.raises(UserError, match="a case has two predictions"):
        score_lesions(results, labels)
    save(results / "lung_001.nii.gz", volume(), np.diag([*SPACING, 1.0]) + 0.6 * np.eye(4, k=3))
    with pytest.raises(UserError, match=r"lie up to 0\.6 mm from those of"):
        score_lesions(results / "lung_001.nii.gz", labels / "lung_001.nii.gz")
    save(results / "lung_001.nii.gz", np.zeros((3, 3, 3), np.uint8))
    with pytest.raises(UserError, match="lung_001: prediction has shape"):
        score_lesions(results / "lung_001.nii.gz", labels / "lung_001.nii.gz")
    (results / "lung_001.nii.gz").write_bytes(b"no")
    with pytest.raises(UserError, match="cannot be read"):
        score_lesions(results / "lung_001.nii.gz", labels / "lung_001.nii.gz")
    save(results / "other" / "lung_001.nii.gz", volume())
    with pytest.raises(UserError, match="have the same name"):
        score_lesions(results, labels)

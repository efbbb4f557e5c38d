"""Volume, HU, place and border of each class, as NumPy computes them class by class."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from ctfm.inference.label_statistics import ClassStatistics, label_statistics, write_statistics

AFFINE = np.array([[0, 0, 2.5, -4], [-1.9, 0.25, 0, 7], [0.3, 1.6, 0, 11], [0, 0, 0, 1.0]])


@pytest.mark.parametrize("order", ["C", "F"])
def test_each_class(order: str) -> None:
    generator = np.random.default_rng(0)
    label = np.asarray(generator.integers(0, 4, (7, 9, 5)) * 40, np.uint8, order=order)
    image = np.asarray(generator.normal(50, 400, label.shape), np.float32, order=order)
    found = label_statistics(label, image, AFFINE, {40: "liver"})
    assert [(row.class_id, row.name) for row in found] == [
        (40, "liver"),
        (80, "class 80"),
        (120, "class 120"),
    ]
    for row in found:
        inside = label == row.class_id
        assert row.voxels == inside.sum()
        assert row.volume_ml == pytest.approx(inside.sum() * abs(np.linalg.det(AFFINE)) / 1000)
        assert row.mean_hu == pytest.approx(image[inside].mean(), rel=1e-4)
        assert row.sd_hu == pytest.approx(image[inside].std(), rel=1e-4)
        centre = AFFINE @ [*np.argwhere(inside).mean(axis=0), 1]
        assert (row.x_mm, row.y_mm, row.z_mm) == pytest.approx(tuple(centre[:3]))
        assert row.touches_border
        assert math.isnan(row.confidence)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("at", [0, 1, 4, 5])
def test_border(axis: int, at: int) -> None:
    label = np.zeros((6, 6, 6), np.uint8)
    place = [2, 2, 2]
    place[axis] = at
    label[tuple(place)] = 3
    [row] = label_statistics(label, np.zeros(label.shape), np.eye(4), {})
    assert row.touches_border == (at in (0, 5))


def test_nothing_but_background() -> None:
    assert label_statistics(np.zeros((3, 3, 3), np.uint8), np.zeros((3, 3, 3)), AFFINE, {}) == []


def test_other_grid() -> None:
    with pytest.raises(ValueError, match=r"label map of \(3, 3, 3\) voxels, image of \(3, 3, 2\)"):
        label_statistics(np.zeros((3, 3, 3), np.uint8), np.zeros((3, 3, 2)), AFFINE, {})


def test_files(tmp_path: Path) -> None:
    row = ClassStatistics(5, "liver", 10, 1.5, 60.25, 10.5, -1.0, 2.0, 3.0, False)
    write_statistics([row], tmp_path / "a_statistics")
    with (tmp_path / "a_statistics.csv").open() as file:
        [line] = csv.DictReader(file)
    assert (line["name"], line["mean_hu"], line["confidence"]) == ("liver", "60.25", "")
    document = json.loads((tmp_path / "a_statistics.json").read_text())
    assert document["classes"][0]["volume_ml"] == 1.5
    assert document["classes"][0]["confidence"] is None

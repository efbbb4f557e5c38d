"""Phantoms in the Decathlon's layout: readable as such, tumours in their organs, the same again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ctfm.base.errors import UserError
from ctfm.contract.classes import TOTALSEGMENTATOR_V2
from ctfm.contract.tumors import DECATHLON_TUMORS, TUMORS
from ctfm.datalists.datasets.decathlon import msd
from ctfm.phantoms import decathlon
from ctfm.phantoms.decathlon import TASKS, write_dataset
from ctfm.phantoms.drawing import REGIONS

COARSE = (6.0, 6.0, 6.0)


def array(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_is_a_task_of_the_decathlon(task: str, tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, task, subjects=2, tests=1, spacing=COARSE)
    assert folder == tmp_path / task
    content = json.loads((folder / "dataset.json").read_text())
    assert (content["numTraining"], content["numTest"]) == (2, 1)
    lists = json.loads(msd(tmp_path, tmp_path / "list.json", task=task, folds=2).read_text())
    assert [len(lists[part]) for part in ("training", "test")] == [2, 1]
    for row in lists["training"]:
        image, label = (array(folder / row[key]) for key in ("image", "label"))
        assert set(np.unique(label)) == {0, *DECATHLON_TUMORS[task]}
        tumor = label == max(DECATHLON_TUMORS[task])
        assert image.dtype == np.int16
        assert -700 < image[tumor].mean() < 150


@pytest.mark.parametrize("name", sorted(TUMORS))
def test_a_row_of_the_table_names_a_region_and_classes_that_are_drawn(name: str) -> None:
    drawing = TUMORS[name].drawing
    assert drawing.region in REGIONS
    for pattern in filter(None, (drawing.hosts, drawing.organ)):
        assert any(re.fullmatch(pattern, one) for one in TOTALSEGMENTATOR_V2.values())


def test_a_folder_without_a_number_is_drawn_under_its_whole_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = {**DECATHLON_TUMORS, "Kidneys": {1: "cancer"}}
    monkeypatch.setattr(decathlon, "DECATHLON_TUMORS", labels)
    monkeypatch.setitem(TASKS, "Kidneys", TUMORS["lung"].drawing)
    folder = write_dataset(tmp_path, "Kidneys", subjects=1, tests=0, spacing=COARSE)
    assert json.loads((folder / "dataset.json").read_text())["name"] == "Kidneys"
    assert (folder / "labelsTr" / "kidneys_001.nii.gz").is_file()


def test_is_cut_out_about_the_organ(tmp_path: Path) -> None:
    """And what is cut out lies where it lay."""
    options = {"task": "Task07_Pancreas", "subjects": 1, "tests": 0, "spacing": COARSE}
    images = [
        nib.load(write_dataset(tmp_path / str(margin), margin=margin, **options) / f"{name}")
        for margin in (None, 12.0)
        for name in ("imagesTr/pancreas_001.nii.gz",)
    ]
    whole, part = images
    assert np.prod(part.shape) < np.prod(whole.shape) / 4
    moved = np.linalg.inv(whole.affine) @ part.affine
    start = moved[:3, 3].round().astype(int)
    window = tuple(slice(a, a + n) for a, n in zip(start, part.shape, strict=True))
    np.testing.assert_array_equal(np.asarray(part.dataobj), np.asarray(whole.dataobj)[window])


def test_same_seed_same_files_and_each_scan_is_another(tmp_path: Path) -> None:
    once, again = (
        write_dataset(tmp_path / name / "Task06_Lung", subjects=2, tests=1, spacing=COARSE, seed=5)
        for name in "ab"
    )
    files = sorted(path.relative_to(once) for path in once.rglob("*.nii.gz"))
    assert len(files) == 5
    for file in files:
        np.testing.assert_array_equal(array(once / file), array(again / file))
    first, second = (array(once / f"labelsTr/lung_00{i}.nii.gz") for i in (1, 2))
    assert first.shape != second.shape or (first != second).any()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"task": "Task01_BrainTumour"}, "Task06_Lung"),
        ({"subjects": 0}, "subjects"),
        ({"tests": -1}, "tests"),
        ({"margin": -1.0}, "margin"),
        ({"spacing": (0, 1, 1)}, "spacing"),
        ({"seed": -1}, "seed"),
    ],
)
def test_refuses(options: dict, word: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=word):
        write_dataset(tmp_path, **options)

"""Folds of a datalist, and labels that are looked at before a training starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from ctfm.base.errors import UserError
from ctfm.datalists.datalist import list_of
from ctfm.datalists.folds import check_labels, read_fold

NAMES = ["pancreas", "cancer"]


def row(number: int, **extra: Any) -> dict[str, Any]:
    return {"image": f"i{number}.nii.gz", "label": f"l{number}.nii.gz", **extra}


def write(root: Path, number: int, values: list[int], shape: tuple[int, ...] = (4, 5, 6)) -> None:
    label = np.zeros(shape, np.uint8)
    label.flat[: len(values)] = values
    for name, array in (("i", np.zeros((4, 5, 6), np.int16)), ("l", label)):
        nib.save(nib.Nifti1Image(array, np.eye(4)), root / f"{name}{number}.nii.gz")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four cases in two folds, one of them listed as validation, and one to test on."""
    for number in range(5):
        write(tmp_path, number, [1, 2])
    content = {
        "labels": {"0": "background", "1": "Pancreas", "2": "cancer"},
        "training": [row(0, fold=0), row(1, fold=1), row(2, fold=0)],
        "validation": [row(3, fold=1)],
        "test": [{"image": "i4.nii.gz"}],
    }
    (tmp_path / "list.json").write_text(json.dumps(content))
    return tmp_path


def read(root: Path, split: str, **options: Any) -> list[int]:
    """Numbers of the cases in a list."""
    found = read_fold(str(root / "list.json"), split, str(root), **options)
    assert all(Path(one["label"]).is_absolute() for one in found)
    return sorted(int(Path(one["image"]).name[1]) for one in found)


def edit(root: Path, **values: Any) -> None:
    content = json.loads((root / "list.json").read_text())
    (root / "list.json").write_text(json.dumps({**content, **values}))


@pytest.mark.parametrize(
    ("part", "marked", "fold", "expected"),
    [
        ("training", 0, None, "training"),
        ("training", 0, 0, "validation"),
        ("validation", 1, 0, "training"),
        ("validation", None, 0, "validation"),
        ("test", 0, 0, "test"),
    ],
)
def test_list_of(part: str, marked: int | None, fold: int | None, expected: str) -> None:
    assert list_of(part, marked, fold) == expected


class TestReadFold:
    @pytest.mark.parametrize(
        ("fold", "training", "validation"),
        [(0, [1, 3], [0, 2]), (1, [0, 2], [1, 3]), (None, [0, 1, 2], [3])],
    )
    def test_one_fold_validates(
        self, fold: int | None, training: list[int], validation: list[int], root: Path
    ) -> None:
        assert read(root, "training", fold=fold, class_names=NAMES) == training
        assert read(root, "validation", fold=fold, class_names=NAMES) == validation

    def test_lists_without_folds_are_taken_as_they_are(self, root: Path) -> None:
        edit(root, training=[row(0), row(1)], validation=[row(2)])
        assert read(root, "training", fold=0) == [0, 1]
        assert read(root, "validation", fold=0) == [2]

    @pytest.mark.parametrize(
        ("split", "options", "message"),
        [
            ("validation", {"fold": 2}, r"no scan is in fold 2 \(there are 0, 1\)"),
            ("holdout", {"fold": 0}, "has no list 'holdout'"),
            ("test", {"fold": 0}, r"1 scans of list 'test' have no label \(first: .*i4"),
            (
                "training",
                {"class_names": ["cancer"]},
                "of another task: .* 2 cancer, and .* 1 canc",
            ),
        ],
    )
    def test_refuses(self, split: str, options: dict[str, Any], message: str, root: Path) -> None:
        with pytest.raises(UserError, match=message):
            read(root, split, **options)

    @pytest.mark.parametrize("bad", ["i0.nii.gz", {"label": "l0.nii.gz"}, None])
    def test_refuses_what_is_no_row(self, bad: Any, root: Path) -> None:
        edit(root, training=[bad])
        with pytest.raises(UserError, match="entry 1 of list 'training'"):
            read(root, "training", fold=1)

    def test_no_folds_and_no_such_list(self, root: Path) -> None:
        edit(root, training=[row(0)], validation=[])
        with pytest.raises(UserError, match=r"no list 'validation' .* no folds"):
            read(root, "validation", fold=0)


class TestCheckLabels:
    @staticmethod
    def check(root: Path, **options: Any) -> None:
        lists = {
            split: read_fold(str(root / "list.json"), split, str(root), fold=0)
            for split in ("training", "validation")
        }
        check_labels(lists, NAMES, workers=1, **options)

    def test_sound_labels(self, root: Path) -> None:
        self.check(root)

    def test_a_value_that_no_class_has(self, root: Path) -> None:
        write(root, 1, [1, 2, 7])
        message = (
            r"1 problem, nothing was trained: .*l1\.nii\.gz: holds 7; class_names names 0, 1, 2"
        )
        with pytest.raises(UserError, match=message):
            self.check(root)

    def test_another_grid_than_the_scan_has(self, root: Path) -> None:
        write(root, 0, [1, 2], shape=(4, 5, 5))
        with pytest.raises(UserError, match=r"has \(4, 5, 5\) voxels"):
            self.check(root)

    @pytest.mark.parametrize(("cases", "split"), [((0, 2), "validation"), ((1, 3), "training")])
    def test_a_fold_without_a_class(self, cases: tuple[int, ...], split: str, root: Path) -> None:
        for number in cases:
            write(root, number, [1])
        with pytest.raises(UserError, match=rf"2 scans of list '{split}' has class 2 \(cancer\)"):
            self.check(root)

    def test_is_switched_off(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(root, 1, [9])
        self.check(root, enabled=False)
        monkeypatch.setenv("RANK", "1")
        self.check(root)

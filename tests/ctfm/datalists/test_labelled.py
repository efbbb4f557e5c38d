"""Lists with a label of two classes, and few subjects of them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ctfm.base.errors import UserError
from ctfm.datalists.labelled import few_subjects, read_labelled

SHARES = (0.02, 0.05, 0.1, 0.5, 1.0)


def rows(subjects: int = 100, abnormal: int = 10) -> list[dict[str, Any]]:
    return [
        {"image": f"s{i}_{scan}.nii.gz", "label": int(i < abnormal), "patient": f"s{i}"}
        for i in range(subjects)
        for scan in range(2)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_choices_are_nested_and_have_both_classes(seed: int) -> None:
    chosen = [{row["image"] for row in few_subjects(rows(), share, seed)} for share in SHARES]
    for smaller, larger in pairwise(chosen):
        assert smaller < larger
    assert [len(some) for some in chosen] == [4, 10, 20, 100, 200], "both scans of each subject"
    labels = {row["image"]: row["label"] for row in rows()}
    assert all({labels[name] for name in some} == {0, 1} for some in chosen)


def test_choice_follows_the_seed_alone() -> None:
    first = few_subjects(rows(), 0.1, 3)
    backwards = few_subjects(rows()[::-1], 0.1, 3)
    assert first == backwards[::-1]
    assert first != few_subjects(rows(), 0.1, 4)


def test_scans_without_subjects_are_their_own() -> None:
    plain = [{"image": f"{i}.nii.gz", "label": i % 2} for i in range(50)]
    assert len(few_subjects(plain, 0.1)) == 5


def test_refusals(tmp_path: Path) -> None:
    for share in (0, 1.5, "all"):
        with pytest.raises(UserError, match="fraction is"):
            few_subjects(rows(), share)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no scan has label 1"):
        few_subjects(rows(abnormal=0), 0.1)
    for name in ("a", "b"):
        (tmp_path / f"{name}.nii.gz").touch()
    listed = [{"image": "a.nii.gz", "label": 0}, {"image": "b.nii.gz", "label": 1}]
    path = tmp_path / "datalist.json"
    for change, said in (
        ({"label": 2}, "give 0"),
        ({"label": None}, "give 0"),
        ({"label": 0}, "both classes"),
    ):
        path.write_text(json.dumps({"training": [listed[0], {**listed[1], **change}]}))
        with pytest.raises(UserError, match=said):
            read_labelled(str(path), "training", str(tmp_path))
    path.write_text(json.dumps({"training": listed}))
    found = read_labelled(str(path), "training", str(tmp_path))
    assert [row["label"] for row in found] == [0, 1]
    assert Path(found[0]["image"]).is_absolute()

from __future__ import annotations

import hashlib
import json

import pytest
from monai.data import load_decathlon_datalist

from ctfm.base.errors import UserError
from ctfm.datalists.datalist import nested_subset, refuse, write_datalist

SUBJECTS = [f"s{i:04d}" for i in range(100)]
ABOUT = {
    "name": "Toy",
    "description": "two scans",
    "licence": "CC0",
    "labels": {2: "liver", 1: "spleen"},
    "provenance": {"tool": "test", "seed": 0},
}


def write(path, **parts):
    return write_datalist(path, parts, **ABOUT)


@pytest.mark.parametrize(("fraction", "count"), [(1.0, 100), (0.1, 10), (0.05, 5), (0.001, 1)])
def test_fraction_counts(fraction, count):
    assert len(nested_subset(SUBJECTS, fraction)) == count


def test_draws_are_nested_sorted_and_differ_by_seed():
    five, ten = nested_subset(SUBJECTS, 0.05), nested_subset(SUBJECTS, 0.10)
    assert set(five) < set(ten)
    assert ten == sorted(ten)
    assert nested_subset(SUBJECTS, scans=5) == five
    assert nested_subset(SUBJECTS, 0.10, seed=1) != ten


def test_draw_is_the_smallest_hashes_in_any_order_of_subjects():
    hashed = sorted(SUBJECTS, key=lambda s: hashlib.sha256(f"7 {s}".encode()).hexdigest())
    assert nested_subset(reversed(SUBJECTS), scans=3, seed=7) == sorted(hashed[:3])


def test_order_of_two_subjects_does_not_depend_on_the_others():
    drawn = nested_subset(SUBJECTS, scans=20)
    without_one = [s for s in SUBJECTS if s != drawn[0]]
    assert set(drawn[1:]) < set(nested_subset(without_one, scans=20))


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5, "5%", True])
def test_fraction_out_of_range(fraction):
    with pytest.raises(UserError, match=r"fraction is .* above 0 and up to 1"):
        nested_subset(SUBJECTS, fraction)


@pytest.mark.parametrize("scans", [0, -1, 101, 2.5])
def test_scans_out_of_range(scans):
    with pytest.raises(UserError, match=r"scans is .* from 1 to 100"):
        nested_subset(SUBJECTS, scans=scans)


def test_fraction_and_scans_exclude_each_other():
    with pytest.raises(UserError, match=r"fraction 0\.5 and scans 3 are both given"):
        nested_subset(SUBJECTS, 0.5, 3)


def test_refuse_prints_all_and_repeats_five(capsys):
    refuse([], "nothing", "nothing")
    problems = [f"s{i}: no ct.nii.gz" for i in range(7)]
    with pytest.raises(UserError) as raised:
        refuse(problems, "no datalist was written", "Repair them")
    assert capsys.readouterr().err.splitlines() == problems
    assert str(raised.value) == (
        "7 problems, no datalist was written: s0: no ct.nii.gz; s1: no ct.nii.gz; "
        "s2: no ct.nii.gz; s3: no ct.nii.gz; s4: no ct.nii.gz; and 2 more, listed above. "
        "Repair them"
    )


def test_refuse_one(capsys):
    with pytest.raises(UserError, match=r"^1 problem, no list: s0: gone\. Repair it$"):
        refuse(["s0: gone"], "no list", "Repair it")


def test_layout_is_sorted_and_loads_in_monai(tmp_path):
    rows = [{"image": "b.nii.gz", "label": "lb.nii.gz", "fold": 3}, {"image": "a.nii.gz"}]
    out = write(tmp_path / "deep" / "list.json", training=rows)
    content = json.loads(out.read_text())
    assert list(content) == [
        "name",
        "description",
        "licence",
        "modality",
        "labels",
        "provenance",
        "training",
    ]
    assert list(content["labels"].items()) == [("0", "background"), ("1", "spleen"), ("2", "liver")]
    loaded = load_decathlon_datalist(out, True, "training", base_dir=tmp_path)
    assert loaded == [
        {"image": str(tmp_path / "a.nii.gz")},
        {
            "image": str(tmp_path / "b.nii.gz"),
            "label": str(tmp_path / "lb.nii.gz"),
            "fold": 3,
        },
    ]


def test_empty_part_is_left_out_so_that_monai_names_it(tmp_path):
    out = write(tmp_path / "list.json", training=[{"image": "a.nii.gz"}], validation=[])
    with pytest.raises(ValueError, match="validation not specified"):
        load_decathlon_datalist(out, True, "validation")


@pytest.mark.parametrize("key", ["image", "label"])
def test_absolute_path_is_refused(tmp_path, key):
    row = {"image": "a.nii.gz", "label": "l.nii.gz"} | {key: "/data/x.nii.gz"}
    with pytest.raises(UserError, match=r"/data/x\.nii\.gz is absolute"):
        write(tmp_path / "list.json", training=[row])
    assert list(tmp_path.iterdir()) == []


def test_image_listed_twice_is_refused(tmp_path):
    rows = [{"image": "a.nii.gz"}]
    with pytest.raises(UserError, match=r"a\.nii\.gz is listed twice, in training and in test"):
        write(tmp_path / "list.json", training=rows, test=rows)

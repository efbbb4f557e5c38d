"""Tasks of the Decathlon in miniature: what is checked, who is in which fold, who can read it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from ctfm.base.errors import UserError
from ctfm.datalists.datalist import assign_folds
from ctfm.datalists.datasets.decathlon import msd
from ctfm.datalists.datasets.decathlon_json import TASKS
from ctfm.datalists.pairs import Pair, _values, check_pair
from ctfm.datalists.reading import read_datalist

SHAPE = (4, 5, 6)
AFFINE = np.array([[-1.5, 0, 0, 10.25], [0, 0, 1.5, -20], [0, 1.5, 0, 30], [0, 0, 0, 1.0]])
VISTA3D = Path(__file__).resolve().parents[4] / "shared" / "data" / "splits"


def write(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


@dataclass
class Release:
    """A task's folder below `root`; entries go to its dataset.json as they are made."""

    root: Path
    task: str = "Task06_Lung"
    content: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.content = {
            "name": "toy",
            "licence": "CC-BY-SA 4.0",
            "modality": {"0": "CT"},
            "labels": {"0": "background", "1": "cancer"},
            "training": [],
            "test": [],
        } | self.content

    @property
    def folder(self) -> Path:
        return self.root / self.task

    def save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "dataset.json").write_text(json.dumps(self.content))

    def case(self, name: str) -> None:
        write(self.folder / f"imagesTr/{name}.nii.gz", np.zeros(SHAPE, np.int16))
        label = np.zeros(SHAPE, np.uint8)
        label[1, 2, 3] = 1
        write(self.folder / f"labelsTr/{name}.nii.gz", label)
        paths = (f"./{part}Tr/{name}.nii.gz" for part in ("images", "labels"))
        self.content["training"].append(dict(zip(("image", "label"), paths, strict=True)))
        self.save()

    def add_test_scan(self, name: str) -> None:
        write(self.folder / f"imagesTs/{name}.nii.gz", np.zeros(SHAPE, np.int16))
        self.content["test"].append(f"./imagesTs/{name}.nii.gz")
        self.save()

    def label(self, name: str) -> Path:
        return self.folder / f"labelsTr/{name}.nii.gz"

    def image(self, name: str) -> Path:
        return self.folder / f"imagesTr/{name}.nii.gz"

    def run(self, **options: Any) -> dict[str, Any]:
        options = {"task": self.task, "workers": 1, **options}
        return json.loads(msd(self.root, self.root / "list.json", **options).read_text())

    def refused(self, **options: Any) -> str:
        with pytest.raises(UserError) as raised:
            self.run(**options)
        assert not (self.root / "list.json").exists()
        assert "\n" not in str(raised.value)
        return str(raised.value)


@pytest.fixture
def lung(tmp_path: Path) -> Release:
    """Eleven cases and two scans without labels."""
    release = Release(tmp_path)
    for number in range(11):
        release.case(f"lung_{number:03d}")
    release.add_test_scan("lung_100")
    release.add_test_scan("lung_101")
    return release


def cases(content: dict[str, Any], part: str) -> list[str]:
    return [Path(row["image"]).name.removesuffix(".nii.gz") for row in content.get(part, [])]


# --- datalist -------------------------------------------------------------------------------


def test_data_of_others_in_this_layout_is_not_called_the_decathlons(tmp_path: Path) -> None:
    mine = Release(tmp_path, task="Task77_Mine")
    del mine.content["licence"]
    for number in range(5):
        mine.case(f"mine_{number}")
    content = mine.run()
    assert (content["name"], content["licence"]) == ("Task77_Mine", "not stated in dataset.json")


def test_rows_labels_and_provenance(lung: Release) -> None:
    content = lung.run(seed=3)
    assert content["training"][2] == {
        "image": "imagesTr/lung_002.nii.gz",
        "label": "labelsTr/lung_002.nii.gz",
        "fold": content["training"][2]["fold"],
    }
    assert content["test"] == [{"image": f"imagesTs/lung_10{i}.nii.gz"} for i in range(2)]
    assert content["labels"] == {"0": "background", "1": "cancer"}
    assert content["modality"] == {"0": "CT"}
    assert content["licence"] == "CC-BY-SA 4.0"
    assert content["name"] == "Medical Segmentation Decathlon, Task06_Lung"
    digest = hashlib.sha256((lung.folder / "dataset.json").read_bytes()).hexdigest()
    assert content["provenance"] == {
        "tool": "ctfm datalist msd",
        "version": content["provenance"]["version"],
        "task": "Task06_Lung",
        "dataset_sha256": digest,
        "split": "dataset.json",
        "split_sha256": digest,
        "validation": "none",
        "test": "scans without labels",
        "folds": 5,
        "seed": 3,
        "patient": None,
        "counts": {"training": 11, "validation": 0, "test": 2},
        "left_out": [],
    }
    assert str(lung.root) not in json.dumps(content)


def test_same_bytes_with_any_number_of_workers_and_from_the_task_folder(lung: Release) -> None:
    lung.run()
    first = (lung.root / "list.json").read_bytes()
    lung.run(workers=2)
    assert (lung.root / "list.json").read_bytes() == first
    out = msd(lung.folder, lung.root / "other.json", workers=1)
    assert out.read_bytes() == first
    again = msd(lung.folder, lung.root / "third.json", task=lung.task, workers=1)
    assert again.read_bytes() == first


def test_the_bundles_read_the_fold_that_validates(lung: Release) -> None:
    content = lung.run(fold=2)
    assert len(cases(content, "validation")) == 2
    assert {row["fold"] for row in content["validation"]} == {2}
    assert {row["fold"] for row in content["training"]} == {0, 1, 3, 4}
    rows = read_datalist(str(lung.root / "list.json"), "validation", str(lung.folder))
    assert all(Path(row[key]).is_file() for row in rows for key in ("image", "label"))
    assert content["provenance"]["validation"] == "fold 2"


def test_auto3dseg_reads_the_folds(lung: Release) -> None:
    from monai.auto3dseg import datafold_read

    content = lung.run()
    for fold in range(5):
        train, validate = datafold_read(str(lung.root / "list.json"), str(lung.folder), fold)
        assert (len(train), len(validate)) == ((8, 3) if fold == 0 else (9, 2))
        assert all(Path(row["label"]).is_file() for row in train + validate)
    assert sorted({row["fold"] for row in content["training"]}) == list(range(5))


def test_files_that_macos_left_are_passed_over(
    lung: Release, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = lung.run()["training"]
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (lung.folder / folder / "._lung_000.nii.gz").write_bytes(b"\0\5\26\7")
    row = {key: f"./{key}sTr/._lung_000.nii.gz" for key in ("image", "label")}
    lung.content["training"].insert(0, row)
    lung.content["test"].append("./imagesTs/._lung_100.nii.gz")
    lung.save()
    content = lung.run()
    assert content["training"] == expected
    assert len(content["test"]) == 2
    assert "note" not in capsys.readouterr().err


@pytest.mark.parametrize("task", TASKS)
def test_known_task_without_labels_or_modality_in_its_file(tmp_path: Path, task: str) -> None:
    release = Release(tmp_path, task)
    del release.content["labels"], release.content["modality"]
    for number in range(2):
        release.case(f"case_{number}")
    content = release.run(folds=2)
    named = {str(key): name for key, name in TASKS[task].items()}
    assert content["labels"] == {"0": "background"} | named


def test_another_ct_task(tmp_path: Path) -> None:
    release = Release(tmp_path, "Task90_Bowel", {"labels": {"0": "background", "1": "bowel"}})
    release.case("a")
    release.case("b")
    assert release.run(folds=2)["labels"]["1"] == "bowel"


def test_what_is_odd_is_noted(lung: Release, capsys: pytest.CaptureFixture[str]) -> None:
    lung.content["labels"]["1"] = "tumour"
    lung.content["training"].pop()
    lung.save()
    lung.run()
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note")]
    assert "labels are {1: 'tumour'}, where Task06_Lung has {1: 'cancer'}" in notes[0]
    assert "1 files of imagesTr are not in dataset.json (lung_010.nii.gz, …)" in notes[1]


# --- folds ----------------------------------------------------------------------------------


def test_folds_are_a_hash_of_the_names_dealt_out_in_turn(lung: Release) -> None:
    names = [f"lung_{number:03d}" for number in range(11)]
    hashed = sorted(names, key=lambda n: hashlib.sha256(f"7 {n}".encode()).hexdigest())
    content = lung.run(seed=7, folds=3)
    found = dict(zip(cases(content, "training"), content["training"], strict=True))
    assert {n: found[n]["fold"] for n in names} == {n: i % 3 for i, n in enumerate(hashed)}
    assert sorted(Counter(row["fold"] for row in found.values()).values()) == [3, 4, 4]
    assert assign_folds(reversed(names), 3, 7) == assign_folds(names, 3, 7)
    assert assign_folds(names, 3, 7) != assign_folds(names, 3, 8)


def test_a_damaged_file_moves_no_other_case(lung: Release) -> None:
    before = {row["image"]: row["fold"] for row in lung.run()["training"]}
    lung.label("lung_004").unlink()
    content = lung.run(skip_bad=True)
    after = {row["image"]: row["fold"] for row in content["training"]}
    assert after == {k: v for k, v in before.items() if "lung_004" not in k}
    assert content["provenance"]["left_out"] == ["lung_004"]


def test_scans_of_a_patient_stay_together(tmp_path: Path) -> None:
    release = Release(tmp_path)
    for patient in "abcdef":
        for scan in range(3):
            release.case(f"{patient}_scan{scan}")
    content = release.run(folds=3, patient="^(.+)_scan")
    folds: dict[str, set[int]] = {}
    for row in content["training"]:
        folds.setdefault(Path(row["image"]).name[0], set()).add(row["fold"])
    assert all(len(found) == 1 for found in folds.values())
    assert sorted(Counter(row["fold"] for row in content["training"]).values()) == [6, 6, 6]
    assert content["provenance"]["patient"] == "^(.+)_scan"


@pytest.mark.parametrize("pattern", ["lung", "(l)(u)", "^(liver)", "("])
def test_patient_that_finds_none(lung: Release, pattern: str) -> None:
    assert "patient is" in lung.refused(patient=pattern)


@pytest.mark.parametrize("folds", [0, 1, 12, 2.5, True, "5"])
def test_folds_out_of_range(lung: Release, folds: Any) -> None:
    assert "give a whole number from 2 to 11" in lung.refused(folds=folds)


@pytest.mark.parametrize(
    ("fold", "expected"),
    [(5, " from 0 to 4"), (-1, " from 0 to 4"), ("a", ", the fold"), (True, ", the fold")],
)
def test_fold_out_of_range(lung: Release, fold: Any, expected: str) -> None:
    assert f"fold is {fold!r}: give a whole number{expected}" in lung.refused(fold=fold)


# --- split files ----------------------------------------------------------------------------


def split_file(path: Path) -> Path:
    """Six cases in three folds, two held out; one case is not listed."""
    rows = [
        {"image": f"imagesTr/lung_{i:03d}.nii.gz", "label": f"l{i}", "fold": i % 3}
        for i in range(8)
    ]
    held_out = [{"image": f"imagesTr/lung_{i:03d}.nii.gz"} for i in (8, 9)]
    path.write_text(json.dumps({"training": rows, "testing": held_out}))
    return path


def test_split_file(lung: Release, capsys: pytest.CaptureFixture[str]) -> None:
    splits = split_file(lung.root / "vista.json")
    content = lung.run(splits=splits)
    assert [row["fold"] for row in content["training"]] == [i % 3 for i in range(8)]
    assert cases(content, "test") == ["lung_008", "lung_009"]
    assert content["test"][0]["label"] == "labelsTr/lung_008.nii.gz"
    assert "validation" not in content
    assert "note: 1 cases are not in the split (lung_010, …)" in capsys.readouterr().err
    assert content["provenance"]["split"] == "vista.json"
    assert content["provenance"]["test"] == "what the split file holds out"
    content = lung.run(splits=splits, fold=1)
    assert cases(content, "validation") == ["lung_001", "lung_004", "lung_007"]


def test_split_file_of_another_task(lung: Release) -> None:
    splits = lung.root / "vista.json"
    splits.write_text(json.dumps({"training": [{"image": "imagesTr/liver_1.nii.gz", "fold": 0}]}))
    found = lung.refused(splits=splits)
    assert "liver_1: listed in vista.json, and not in the task's dataset.json" in found
    splits.write_text(json.dumps({"training": [{"picture": "x"}]}))
    assert "expected imagesTr/a.nii.gz" in lung.refused(splits=splits)


@pytest.mark.parametrize("option", [{"folds": 3}, {"patient": "(.)"}])
def test_split_file_has_the_folds(lung: Release, option: dict[str, Any]) -> None:
    assert "the file has the folds" in lung.refused(
        splits=split_file(lung.root / "v.json"), **option
    )


@pytest.mark.parametrize("task", [name for name in TASKS if name != "Task10_Colon"])
def test_public_split(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every case of VISTA3D's files, each in its fold; the voxels are left out of this test."""
    file = VISTA3D / f"vista3d_{task[:6]}.json"
    if not file.is_file():
        pytest.skip("VISTA3D's split files are not in ../shared/data")
    monkeypatch.setattr("ctfm.datalists.datasets.decathlon.check_all", lambda pairs, workers: {})
    public = json.loads(file.read_text())
    release = Release(tmp_path, task, {"labels": public["label_dict"]})
    rows = [*public["training"], *public["testing"]]
    release.content["training"] = [
        {key: f"./{row[key]}" for key in ("image", "label")} for row in rows
    ]
    release.save()
    content = release.run(splits=file)
    assert content["labels"] == {"0": "background"} | public["label_dict"]
    assert {row["image"]: row["fold"] for row in content["training"]} == {
        row["image"]: row["fold"] for row in public["training"]
    }
    assert {row["image"] for row in content["test"]} == {row["image"] for row in public["testing"]}


# --- what is refused ------------------------------------------------------------------------


def test_every_problem_is_named_at_once(lung: Release, capsys: pytest.CaptureFixture[str]) -> None:
    lung.image("lung_000").unlink()
    lung.image("lung_001").write_bytes(b"no gzip")
    write(lung.image("lung_002"), np.zeros((*SHAPE, 2), np.int16))
    write(lung.label("lung_003"), np.zeros((4, 5, 7), np.uint8))
    moved = AFFINE + np.array([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0.6], [0, 0, 0, 0]])
    write(lung.label("lung_004"), np.zeros(SHAPE, np.uint8), moved)
    write(lung.label("lung_005"), np.full(SHAPE, 3, np.uint8))
    lung.label("lung_006").write_bytes(lung.label("lung_007").read_bytes()[:60])
    (lung.folder / "imagesTs/lung_101.nii.gz").unlink()
    found = lung.refused()
    assert found.startswith("8 problems, no datalist was written: lung_000: imagesTr/lung_000")
    assert found.endswith("leave these cases out with --skip_bad")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lung")]
    assert len(lines) == 8
    for line, expected in zip(
        lines,
        [
            "imagesTr/lung_000.nii.gz: no such file",
            "imagesTr/lung_001.nii.gz: cannot be read",
            "imagesTr/lung_002.nii.gz: has shape (4, 5, 6, 2), not that of one 3-D volume",
            "labelsTr/lung_003.nii.gz: has (4, 5, 7) voxels, its scan (4, 5, 6)",
            "labelsTr/lung_004.nii.gz: its voxels lie up to 0.6 mm from its scan's",
            "labelsTr/lung_005.nii.gz: holds 3; dataset.json names 0, 1",
            "labelsTr/lung_006.nii.gz: cannot be read",
            "imagesTs/lung_101.nii.gz: no such file",
        ],
        strict=True,
    ):
        assert expected in line
    content = lung.run(skip_bad=True)
    assert cases(content, "training") == [f"lung_{i:03d}" for i in range(7, 11)]
    assert content["provenance"]["counts"] == {"training": 4, "validation": 0, "test": 1}


def pair(folder: Path) -> Pair:
    return Pair("a", folder, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz", frozenset({0, 1}))


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        (np.ones(SHAPE, np.float32), None),
        (np.full(SHAPE, 0.5, np.float32), "holds 0.5;"),
        (np.full(SHAPE, np.nan, np.float32), "holds nan;"),
        (
            np.arange(120).reshape(SHAPE).astype(np.int16),
            "holds 2, 3, 4, 5, 6 and 113 more values;",
        ),
        (np.full(SHAPE, -1, np.int8), "holds -1;"),
    ],
)
def test_values_of_a_label(tmp_path: Path, label: np.ndarray, problem: str | None) -> None:
    write(tmp_path / "imagesTr/a.nii.gz", np.zeros(SHAPE, np.int16))
    write(tmp_path / "labelsTr/a.nii.gz", label)
    found = check_pair(pair(tmp_path))
    assert found == () if problem is None else problem in found[0]


def test_values_are_those_of_the_whole_volume() -> None:
    voxels = np.random.default_rng(0).integers(0, 3, SHAPE)
    voxels[:, :, 2] = 9
    assert _values(voxels) == set(np.unique(voxels).tolist())


def test_rounded_headers_are_one_grid_and_turned_ones_are_not(tmp_path: Path) -> None:
    write(tmp_path / "imagesTr/a.nii.gz", np.zeros(SHAPE, np.int16))
    write(tmp_path / "labelsTr/a.nii.gz", np.zeros(SHAPE, np.uint8), AFFINE + 1e-3 * (AFFINE != 0))
    assert check_pair(pair(tmp_path)) == ()
    flipped = AFFINE * np.array([[-1.0], [1], [1], [1]])
    write(tmp_path / "labelsTr/a.nii.gz", np.zeros(SHAPE, np.uint8), flipped)
    assert "affines differ" in check_pair(pair(tmp_path))[0]


@pytest.mark.parametrize(
    ("modality", "stated"),
    [({"0": "MRI"}, "MRI"), ({"0": "FLAIR", "1": "T1w"}, "FLAIR, T1w"), ({}, "not stated")],
)
def test_other_modalities_are_refused(
    tmp_path: Path, modality: dict[str, str], stated: str
) -> None:
    release = Release(tmp_path, "Task02_Heart", {"modality": modality})
    release.case("la_003")
    found = release.refused()
    assert f"its modality is {stated} in" in found
    assert "CT-FM reads CT alone: choose a task on CT, such as Task03_Liver" in found


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"labels": {}}, "expected ids with names"),
        ({"labels": {"one": "cancer"}}, "expected ids with names"),
        ({"labels": ["cancer"]}, "expected ids with names"),
        ({"training": []}, "'training' is empty"),
        ({"training": {}}, "training is dict, not a list"),
        ({"training": [{"image": "a.nii.gz"}]}, "entry 1 of training is"),
        ({"test": [{"picture": 1}]}, "an entry of test is"),
    ],
)
def test_dataset_json_of_another_form(lung: Release, change: dict[str, Any], expected: str) -> None:
    lung.content |= change
    lung.save()
    assert expected in lung.refused(folds=2)


def test_cases_listed_twice(lung: Release) -> None:
    lung.content["training"].append(lung.content["training"][0])
    lung.content["test"].append("./imagesTr/lung_001.nii.gz")
    lung.save()
    found = lung.refused()
    assert "lung_000: listed twice in training" in found
    assert "lung_001: listed in two splits, training and test" in found


def test_no_such_task(lung: Release) -> None:
    assert "no task Task07_Pancreas" in lung.refused(task="Task07_Pancreas")
    assert "there: Task06_Lung" in lung.refused(task=None)
    (lung.folder / "dataset.json").write_text("{")
    assert "is not JSON" in lung.refused()
    (lung.folder / "dataset.json").write_text("[]")
    assert "holds list, not an object" in lung.refused()


def test_label_that_is_cut_off_in_its_voxels(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (40, 40, 40), dtype=np.uint8)
    write(tmp_path / "imagesTr/a.nii.gz", noise)
    write(tmp_path / "labelsTr/a.nii.gz", noise)
    file = tmp_path / "labelsTr/a.nii.gz"
    file.write_bytes(file.read_bytes()[:-2000])
    (found,) = check_pair(pair(tmp_path))
    assert found.startswith("labelsTr/a.nii.gz: cannot be read (EOFError")


def test_header_without_orientation(tmp_path: Path) -> None:
    flat = np.diag([1.0, 1.0, 0.0, 1.0])
    volume = nib.Nifti1Image(np.zeros(SHAPE, np.int16), None)
    volume.header.set_sform(flat, 1)
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
        nib.save(
            nib.Nifti1Image(volume.dataobj, None, volume.header), tmp_path / folder / "a.nii.gz"
        )
    assert all("its header states no orientation" in line for line in check_pair(pair(tmp_path)))
    assert len(check_pair(pair(tmp_path))) == 2


def test_no_case_is_left(tmp_path: Path) -> None:
    release = Release(tmp_path)
    for name in "ab":
        release.case(name)
        release.label(name).unlink()
    assert "no training case is left" in release.refused(folds=2, skip_bad=True)

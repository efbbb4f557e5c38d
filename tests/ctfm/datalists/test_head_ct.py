"""SinoCT, CQ500 and any table of scans with labels to datalists; which series is taken and why."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.data import load_decathlon_datalist

from ctfm.base.errors import UserError
from ctfm.datalists.datasets import head_series as _head_series
from ctfm.datalists.datasets.cq500 import FINDINGS, READERS, cq500
from ctfm.datalists.datasets.head_words import says_contrast, says_picture, says_sharp
from ctfm.datalists.datasets.sinoct import published_split, sinoct
from ctfm.datalists.datasets.table import classification, stratified_split
from ctfm.datalists.reading import read_datalist
from ctfm.datalists.two_classes import subject_number
from dicom_support import AXIAL, write_series
from support import save

SLICES = 24


def write_head(
    folder: Path, slices: int = SLICES, step: float = 5.0, tilt: float = 0.0, **tags: Any
) -> Path:
    """A head series of small slices; tags override what the headers say."""
    angle = np.radians(tilt)
    plane = (AXIAL[0], (0.0, float(np.cos(angle)), float(-np.sin(angle))), (0.0, 0.0, step))

    def change(data: Any, number: int) -> None:
        data.SliceThickness = step
        for keyword, value in tags.items():
            setattr(data, keyword, value)

    hu = np.zeros((slices, 6, 6), int)
    return write_series(folder, hu, plane=plane, at=range(slices), change=change)


def save_head(path: Path, slices: int = SLICES, step: float = 5.0) -> Path:
    hu = np.full((6, 6, slices), -1000, np.int16)
    return save(hu, path, np.diag([2.0, 2.0, step, 1.0]))


def table_of(out: Path) -> dict[str, tuple[str, str]]:
    with open(out.with_suffix(".excluded.csv"), newline="", encoding="utf-8") as file:
        return {row["image"]: (row["reason"], row["detail"]) for row in csv.DictReader(file)}


def images(content: dict[str, Any], part: str) -> list[str]:
    return [row["image"] for row in content.get(part, [])]


# --- words ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "contrast"),
    [
        ("CT PLAIN THIN", False),
        ("CT Plain 3mm", False),
        ("CT POST CONTRAST-2", True),
        ("CT 55mm Plain-2", False),
        ("CT PRE CONTRAST 5MM STD", False),
        ("CT 0.625mm", False),
        ("CT PRE CONTRAST THIN", False),
        ("CT 4cc sec 150cc D3D on", True),
        ("CT ORAL IV", True),
        ("CT 55mm Contrast", True),
        ("CT Thin Contrast", True),
        ("CT C THIN", True),
        ("CT C-2", True),
        ("CT CECT THIN", True),
        ("CT 1.25 MMC", True),
        ("CT 5 MM", False),
        ("CT 5 MM PRE CONTRAST", False),
        ("CT BRAIN PLAIN", False),
        ("CT HELICAL", False),
        ("HEAD W/O CONTRAST", False),
        ("Head without IV contrast", False),
        ("CTA Head", True),
        ("Unknown Study", False),
        ("Angio 1.0", True),
        ("C+ head", True),
        ("NCCT", False),
        ("Non-contrast head", False),
        ("brain perfusion", True),
        ("series_12", False),
    ],
)
def test_words_of_contrast(text: str, contrast: bool) -> None:
    assert (says_contrast([text]) is not None) is contrast


def test_contrast_agent() -> None:
    assert says_contrast(["CT PLAIN"], "OMNIPAQUE 350") == "ContrastBolusAgent OMNIPAQUE 350"
    for none in ("", " ", "NONE", "no", "No contrast"):
        assert says_contrast([], none) is None


@pytest.mark.parametrize(
    ("kernel", "sharp"),
    [
        ("H31s", False),
        ("H60s", True),
        ("Hr40d\\3", False),
        ("Hr59d\\3", True),
        ("J70h", True),
        ("STANDARD", False),
        ("SOFT", False),
        ("BONE", True),
        ("BONEPLUS", True),
        ("EDGE", True),
        ("FC21", False),
        ("FC26", False),
        ("FC30", True),
        ("FC81", True),
        ("UB", False),
        ("B", False),
        ("D", True),
        ("YC", True),
        ("", False),
        ("LUNG", True),
    ],
)
def test_kernels(kernel: str, sharp: bool) -> None:
    assert says_sharp([], kernel) is sharp


def test_words_of_bone_and_of_pictures() -> None:
    assert says_sharp(["Head 1.0 BONE"])
    assert says_sharp(["CT Axial 0.625 HiResVS40"])
    assert not says_sharp(["CT PLAIN THIN"])
    assert not says_sharp(["bone"], "H31s"), "a kernel that is known decides"
    assert says_picture(["AXIAL MIP"])
    assert says_picture(["CT PLAIN"]) is None


# --- which series ---------------------------------------------------------------------------


def write_labels(root: Path, labels: dict[str, str]) -> None:
    with open(root / "labels.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["patient_id", "label"])
        writer.writerows(labels.items())


def sinoct_root(tmp_path: Path, patients: int = 10) -> Path:
    """Each patient has one NIfTI file, the first of them DICOM series as well (see the tests)."""
    root = tmp_path / "SinoCT"
    root.mkdir()
    write_labels(root, {f"series_{i}": "0,1" if i % 2 else "1,0" for i in range(patients)})
    for i in range(1, patients):
        save_head(root / f"series_{i}" / "scan.nii.gz")
    return root


class Listed:
    """The datalist of a SinoCT folder: which series of series_0 is taken, and why not others."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.out = root.parent / "sinoct.json"
        sinoct(root, self.out, workers=1, **options)
        self.content = json.loads(self.out.read_text())
        rows = [row for part in ("training", "validation", "test") for row in self.content[part]]
        self.labels = {row["image"]: row["label"] for row in rows}
        self.excluded = table_of(self.out)

    @property
    def first(self) -> str | None:
        return next((image for image in self.labels if image.startswith("series_0/")), None)


def test_thickness_nearest_to_5_mm_or_the_thinnest(tmp_path: Path) -> None:
    root = sinoct_root(tmp_path)
    for name, slices, step in (("thin", 130, 1.0), ("five", 24, 5.0), ("seven", 20, 7.0)):
        write_head(root / "series_0" / name, slices, step)
    found = Listed(root)
    assert found.first == "series_0/five"
    assert found.excluded["series_0/thin"] == (
        "another series of the study is taken",
        "series_0/five: 5 mm slices before 1 mm",
    )
    assert Listed(root, thickness=0).first == "series_0/thin"
    assert Listed(root, thickness=8).first == "series_0/seven"


def test_soft_kernel_before_bone_and_original_before_derived(tmp_path: Path) -> None:
    root = sinoct_root(tmp_path)
    write_head(root / "series_0" / "a", ConvolutionKernel="H60s")
    write_head(root / "series_0" / "b", slices=110, step=1.0, ConvolutionKernel="H31s")
    write_head(root / "series_0" / "c", ImageType=["DERIVED", "SECONDARY", "AXIAL"])
    found = Listed(root)
    assert found.first == "series_0/b"
    assert "soft kernel before bone" in found.excluded["series_0/a"][1]
    assert "original before derived" in found.excluded["series_0/c"][1]


def test_study_of_bone_alone_is_taken(tmp_path: Path) -> None:
    """Inference warns of it; a study is not lost for it."""
    root = sinoct_root(tmp_path)
    write_head(root / "series_0" / "only", ConvolutionKernel="BONE")
    found = Listed(root)
    assert found.first == "series_0/only"
    assert found.content["provenance"]["bone_kernel_only"] == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"SeriesDescription": "Head POST CONTRAST"}, "contrast agent"),
        ({"ContrastBolusAgent": "IOHEXOL"}, "contrast agent"),
        ({"Modality": "MR"}, "not CT"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "MIP"]}, "picture made of a volume"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "not one"),
        ({"slices": 10}, "too few slices"),
        ({"slices": 20, "step": 2.0}, "shows too little of the head"),
    ],
)
def test_series_that_are_left_out(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    root = sinoct_root(tmp_path)
    write_head(root / "series_0" / "bad", **options)
    if "ImageOrientationPatient" in options:  # coronal, and their positions along y
        reason = "not axial"

        def change(data: Any, number: int) -> None:
            data.ImagePositionPatient = [0, 5 * number, 0]
            data.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]

        for file in (root / "series_0" / "bad").iterdir():
            file.unlink()
        write_series(
            root / "series_0" / "bad",
            np.zeros((SLICES, 6, 6), int),
            at=range(SLICES),
            change=change,
        )
    found = Listed(root)
    assert found.first is None
    assert found.excluded["series_0/bad"][0] == reason
    assert found.content["provenance"]["left_out"] == {reason: 1}


def test_contrast_and_short_series_on_request(tmp_path: Path) -> None:
    root = sinoct_root(tmp_path)
    write_head(root / "series_0" / "a", 20, 2.0, SeriesDescription="CTA")
    assert Listed(root, contrast=True, min_extent=30).first == "series_0/a"


def test_missing_slices_and_damaged_files(tmp_path: Path) -> None:
    root = sinoct_root(tmp_path)
    gap = [*range(10), *range(14, 28)]
    write_series(
        root / "series_0" / "gap",
        np.zeros((24, 6, 6), int),
        at=gap,
        plane=(*AXIAL[:2], (0.0, 0.0, 5.0)),
    )
    broken = write_head(root / "series_0" / "broken")
    file = sorted(broken.iterdir())[0]
    file.write_bytes(file.read_bytes()[:400])
    (root / "series_0" / "scan.nii").write_bytes(b"no NIfTI")
    found = Listed(root)
    assert found.excluded["series_0/gap"] == (
        "slices are missing",
        "a gap of 25 mm between slices 5 mm apart",
    )
    assert found.excluded["series_0/broken"][0] == "cannot be read"
    assert found.excluded["series_0/scan.nii"][0] == "cannot be read"


def test_what_counts_as_a_gap_is_what_reading_refuses() -> None:
    from ctfm.imaging.dicom.geometry import WIDEST_GAP

    assert _head_series.WIDEST_GAP == WIDEST_GAP


def test_tilted_gantry_is_taken_and_read_upright(tmp_path: Path) -> None:
    from ctfm.imaging.dicom.reading import read_series

    root = sinoct_root(tmp_path)
    write_head(root / "series_0" / "tilted", tilt=20.0)
    found = Listed(root)
    assert found.first == "series_0/tilted"
    affine = np.asarray(read_series(root / found.first).affine)[:3, :3]
    axes = affine / np.linalg.norm(affine, axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)


# --- SinoCT ---------------------------------------------------------------------------------


def test_published_split_is_that_of_the_published_code() -> None:
    """Sorted, shuffled with seed 0, cut at 80 and 90 %; 978 of series_0 to series_9778 test."""
    names = [f"series_{i}" for i in range(9779)]
    found = published_split(names[::-1], 0)
    order = sorted(names)
    random.seed(0)
    random.shuffle(order)
    test = {name for name in names if found[name] == "test"}
    assert test == set(order[int((0.8 + 0.1) * 9779) :])
    assert len(test) == 978
    # in the published table of predictions on the test list
    assert {"series_1", "series_13", "series_100", "series_1000", "series_1013"} <= test
    assert [sum(p == part for p in found.values()) for part in ("training", "validation")] == [
        7823,
        978,
    ]


def test_sinoct(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = sinoct_root(tmp_path, 20)
    save_head(root / "series_0" / "nrrd" / "scan.nii.gz")
    found = Listed(root)
    sizes = [len(found.content[part]) for part in ("training", "validation", "test")]
    assert sizes == [16, 2, 2]
    assert found.labels["series_3/scan.nii.gz"] == 1
    assert found.labels["series_0/nrrd/scan.nii.gz"] == 0
    assert found.content["labels"] == {"0": "normal", "1": "abnormal"}
    provenance = found.content["provenance"]
    assert provenance["counts"]["training"]["scans"] == 16
    assert (provenance["patients"], provenance["seed"]) == (20, 0)
    assert "0 left out (none)" in capsys.readouterr().err
    before = found.out.read_bytes()
    Listed(root)
    assert found.out.read_bytes() == before


def test_a_missing_folder_moves_no_patient(tmp_path: Path) -> None:
    root = sinoct_root(tmp_path, 20)
    save_head(root / "series_0" / "scan.nii.gz")
    whole = Listed(root).content
    (root / "series_5" / "scan.nii.gz").unlink()
    save_head(root / "other" / "scan.nii.gz")
    found = Listed(root)
    for part in ("training", "validation", "test"):
        rest = [name for name in images(whole, part) if not name.startswith("series_5/")]
        assert images(found.content, part) == rest
    assert found.excluded["series_5"][0] == "no scan"
    assert found.excluded["other"][0] == "no label"


def test_lists_are_read_by_bundles_and_by_monai(tmp_path: Path) -> None:
    """The subject's number stays a number, though a folder is called as the subject is."""
    root = sinoct_root(tmp_path)
    save_head(root / "series_0" / "scan.nii.gz")
    found = Listed(root)
    rows = read_datalist(str(found.out), "training", str(root))
    assert all(Path(row["image"]).is_file() for row in rows)
    assert {row["label"] for row in rows} == {0, 1}
    plain = load_decathlon_datalist(found.out, False, "training", base_dir=root)
    assert plain == rows
    name = Path(rows[0]["image"]).parent.name
    assert rows[0]["subject"] == subject_number(name) < 2**48


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"series_0": "2,3"}, r"labels are '2,3', not 0 and 1"),
        ({"series_0": ""}, "1 of 1 labels are missing"),
        ({"series_0": "1,0"}, "1 patients are too few to split"),
        ({}, "holds no rows"),
    ],
)
def test_labels_that_are_refused(tmp_path: Path, labels: dict[str, str], message: str) -> None:
    root = sinoct_root(tmp_path)
    write_labels(root, labels)
    with pytest.raises(UserError, match=message):
        Listed(root)
    assert not (tmp_path / "sinoct.json").exists()


def test_folders_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"labels\.csv: no such file"):
        sinoct(tmp_path, tmp_path / "x.json")
    root = sinoct_root(tmp_path)
    (root / "labels.csv").write_text('patient,label\na,"1,0"\n')
    with pytest.raises(UserError, match="no column 'patient_id' for the patients; it has patient"):
        Listed(root)
    (root / "labels.csv").write_text('patient_id,label\na,"1,0"\na,"1,0"\n')
    with pytest.raises(UserError, match="patient_id a comes twice"):
        Listed(root)
    for options, message in (
        ({"thickness": -1}, "thickness is -1: give a number of mm above 0"),
        ({"min_extent": 0}, "min_extent is 0"),
        ({"min_slices": 0}, "min_slices is 0"),
    ):
        with pytest.raises(UserError, match=message):
            Listed(root, **options)
    with pytest.raises(UserError, match=r"seed is 0\.5: give a whole number"):
        published_split([str(i) for i in range(20)], 0.5)  # type: ignore[arg-type]


def test_no_scan_that_will_do(tmp_path: Path) -> None:
    root = sinoct_root(tmp_path)
    with pytest.raises(UserError, match=r"none of 10 scans is taken .*too few slices: 9.*see "):
        Listed(root, min_slices=1000)
    assert len(table_of(tmp_path / "sinoct.json")) == 10


# --- CQ500 ----------------------------------------------------------------------------------


def write_reads(path: Path, votes: dict[int, dict[str, int]]) -> Path:
    """Study number -> finding as a column is called -> 1; all others are 0."""
    columns = [f"{reader}:{finding}" for reader in READERS for finding in FINDINGS]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "Category", *columns])
        for number, found in votes.items():
            row = [found.get(column, 0) for column in columns]
            writer.writerow([f"CQ500-CT-{number}", "B1", *row])
    return path


def cq500_root(tmp_path: Path) -> Path:
    """0: normal; 1: one reader; 2: two readers, one finding; 3: two readers, two findings."""
    root = tmp_path / "CQ500"
    root.mkdir()
    votes = {
        0: {},
        1: {"R2:SAH": 1},
        2: {"R1:ICH": 1, "R3:ICH": 1},
        3: {"R1:ICH": 1, "R3:Fracture": 1},
    }
    write_reads(root / "reads.csv", votes)
    for number in votes:
        study = root / f"CQ500CT{number} CQ500CT{number}" / "Unknown Study"
        write_head(study / "CT PLAIN THIN", 110, 1.0)
        write_head(study / "CT Plain", 24, 5.0)
        write_head(study / "CT POST CONTRAST", 24, 5.0)
    return root


def test_cq500(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = cq500_root(tmp_path), tmp_path / "cq500.json"
    cq500(root, out, workers=1)
    content = json.loads(out.read_text())
    assert "training" not in content
    assert [(row["image"], row["label"]) for row in content["test"]] == [
        (f"CQ500CT{i} CQ500CT{i}/Unknown Study/CT Plain", int(i > 0)) for i in range(4)
    ]
    assert content["provenance"]["rule"] == "any"
    assert content["provenance"]["left_out"] == {
        "another series of the study is taken": 4,
        "contrast agent": 4,
    }
    assert "4 test (3 abnormal); 8 left out" in capsys.readouterr().err
    cq500(root, out, rule="majority", workers=1)
    majority = json.loads(out.read_text())["test"]
    assert [row["label"] for row in majority] == [0, 0, 1, 0]


def test_folders_and_reads_that_do_not_match(tmp_path: Path) -> None:
    root, out = cq500_root(tmp_path), tmp_path / "cq500.json"
    save_head(root / "qct" / "CQ500-CT-7" / "scan.nii.gz")
    save_head(root / "elsewhere" / "scan.nii.gz")
    reads = write_reads(tmp_path / "r.csv", {7: {"R1:EDH": 1}, 1: {}, 5: {}})
    cq500(root, out, reads=reads, workers=1)
    found = json.loads(out.read_text())["test"]
    assert {row["image"]: row["label"] for row in found} == {
        "CQ500CT1 CQ500CT1/Unknown Study/CT Plain": 0,
        "qct/CQ500-CT-7/scan.nii.gz": 1,
    }
    table = table_of(out)
    assert table["CQ500-CT-5"] == ("no scan", "in reads.csv, and no folder")
    assert table["elsewhere/scan.nii.gz"] == ("no label", "no folder names the study")
    detail = "CQ500-CT-0 is not in reads.csv"
    assert table["CQ500CT0 CQ500CT0/Unknown Study/CT Plain"] == ("no label", detail)


def test_reads_that_are_refused(tmp_path: Path) -> None:
    root = cq500_root(tmp_path)
    file = root / "reads.csv"
    text = file.read_text()
    for content, message in (
        (text.replace("R3:EDH", "R4:EDH"), "no column 'R3:EDH' for a reader's finding"),
        (text.replace("name,", "study,"), "no column 'name' for the studies"),
        (text.replace("CQ500-CT-2", "two"), "name is 'two', not such as CQ500-CT-0"),
        (text.replace("CQ500-CT-2", "CQ500-CT-1"), "CQ500-CT-1 comes twice"),
        (text.replace(",0\n", ",maybe\n"), "column R3:MidlineShift: labels are 'maybe'"),
    ):
        file.write_text(content)
        with pytest.raises(UserError, match=message):
            cq500(root, tmp_path / "x.json", workers=1)
    with pytest.raises(UserError, match="rule is 'two': choose from any, majority"):
        cq500(root, tmp_path / "x.json", rule="two")


# --- any table ------------------------------------------------------------------------------


def any_root(tmp_path: Path, scans: int = 40) -> tuple[Path, Path]:
    """Two scans a patient; every fourth patient is abnormal."""
    root = tmp_path / "data"
    with open(tmp_path / "t.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "patient", "finding", "fold"])
        for i in range(scans):
            (root / f"p{i // 2}").mkdir(parents=True, exist_ok=True)
            (root / f"p{i // 2}" / f"{i}.nii.gz").write_bytes(b"")
            finding = "bleed" if i // 2 % 4 == 0 else "none"
            fold = ("train", "Val", "TEST")[i // 2 % 3]
            writer.writerow([f"p{i // 2}/{i}.nii.gz", f"p{i // 2}", finding, fold])
    return tmp_path / "t.csv", root


def listed(tmp_path: Path, table: Path, root: Path, **options: Any) -> dict[str, Any]:
    options = {"image": "path", "label": "finding", "positive": "bleed", **options}
    out = classification(table, root, tmp_path / "list.json", **options)
    return json.loads(out.read_text())


def test_any_table(tmp_path: Path) -> None:
    table, root = any_root(tmp_path)
    content = listed(tmp_path, table, root, subject="patient")
    sizes = [len(content[part]) for part in ("training", "validation", "test")]
    assert sum(sizes) == 40
    assert sizes[0] == 32
    patients = [
        {Path(row["image"]).parent.name for row in content[part]}
        for part in ("training", "validation", "test")
    ]
    assert not patients[0] & patients[1]
    assert not patients[0] & patients[2]
    assert not patients[1] & patients[2]
    assert content["labels"] == {"0": "other", "1": "bleed"}
    assert sum(row["label"] for row in content["training"]) == 8
    assert listed(tmp_path, table, root, subject="patient") == content
    assert listed(tmp_path, table, root, subject="patient", seed=1) != content


def test_split_column(tmp_path: Path) -> None:
    table, root = any_root(tmp_path)
    content = listed(tmp_path, table, root, split="fold", subject="patient")
    assert [len(content[part]) for part in ("training", "validation", "test")] == [14, 14, 12]
    table.write_text(
        table.read_text().replace("p0/1.nii.gz,p0,bleed,train", "p0/1.nii.gz,p0,bleed,test")
    )
    with pytest.raises(UserError, match="subject p0 is in two lists, training and test"):
        listed(tmp_path, table, root, split="fold", subject="patient")
    assert len(listed(tmp_path, table, root, split="fold")["test"]) == 13


def test_absolute_paths_become_relative(tmp_path: Path) -> None:
    table, root = any_root(tmp_path)
    expected = listed(tmp_path, table, root)
    table.write_text(table.read_text().replace("\np", f"\n{root}/p"))
    assert listed(tmp_path, table, root)["training"] == expected["training"]
    with pytest.raises(UserError, match=r"is not below .*: give --root a folder that holds all"):
        listed(tmp_path, table, root / "p0")


def test_scans_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, root = any_root(tmp_path)
    whole = listed(tmp_path, table, root)
    (root / "p3" / "6.nii.gz").unlink()
    (tmp_path / "list.json").unlink()
    with pytest.raises(UserError, match=r"1 problem, no datalist was written: p3/6\.nii\.gz"):
        listed(tmp_path, table, root)
    assert not (tmp_path / "list.json").exists()
    content = listed(tmp_path, table, root, skip_bad=True)
    for part in ("training", "validation", "test"):
        rest = [name for name in images(whole, part) if name != "p3/6.nii.gz"]
        assert images(content, part) == rest
    assert table_of(tmp_path / "list.json") == {
        "p3/6.nii.gz": ("cannot be read", "no such file or folder")
    }


@pytest.mark.parametrize(
    ("old", "new", "options", "message"),
    [
        ("", "", {"image": "file"}, "no column 'file' for --image; it has path, patient"),
        ("", "", {"subject": "who"}, "no column 'who' for --subject"),
        ("", "", {"split": "part"}, "no column 'part' for --split"),
        ("", "", {"positive": None}, "labels are 'bleed', 'none', not 0 and 1"),
        ("p0/1.nii.gz", "p0/0.nii.gz", {}, r"line 3: p0/0\.nii\.gz comes twice, first in line 2"),
        ("p0/1.nii.gz", "", {}, "line 3: column path is empty"),
        (",p0,", ",,", {"subject": "patient"}, "line 2: column patient is empty"),
        (",Val", ",later", {"split": "fold"}, "column fold is 'later', not one of train"),
        ("", "", {"shares": (0.8, 0.2)}, "give three numbers, such as 0.8,0.1,0.1"),
        ("", "", {"shares": (0.8, 0.1, 0.2)}, r"add up to 1\.1"),
    ],
)
def test_tables_that_are_refused(
    tmp_path: Path, old: str, new: str, options: dict[str, Any], message: str
) -> None:
    table, root = any_root(tmp_path)
    if old:
        table.write_text(table.read_text().replace(old, new))
    with pytest.raises(UserError, match=message):
        listed(tmp_path, table, root, **options)
    with pytest.raises(UserError, match="is not a folder"):
        listed(tmp_path, table, tmp_path / "nowhere")


def test_drawn_lists_are_stratified_and_nested() -> None:
    classes = {f"p{i}": int(i % 5 == 0) for i in range(100)}
    small, large = (
        {n for n, part in stratified_split(classes, (s, 0, 1 - s), 0).items() if part == "training"}
        for s in (0.1, 0.3)
    )
    assert small < large
    assert sum(classes[name] for name in small) == 2
    assert len(small) == 10
    fewer = {name: label for name, label in classes.items() if name != "p1"}
    assert {
        n for n, part in stratified_split(fewer, (0.1, 0, 0.9), 0).items() if part == "training"
    } >= small - {"p1"}

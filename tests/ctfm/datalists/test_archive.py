"""Trees of scans to datalists for pretraining: what is taken, and why the rest is not."""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.data import load_decathlon_datalist

from ctfm.base.errors import UserError
from ctfm.datalists.datasets.archive import archive
from ctfm.datalists.datasets.volume_headers import slice_axis
from ctfm.datalists.selection import Selection
from ctfm.imaging import scans
from ctfm.imaging.checks.ct import check_ct
from dicom_support import edit, setting, write_series
from support import save

SLICES = 60
SPACING = (0.8, 0.8, 2.5)


def affine(*spacing: float) -> np.ndarray:
    return np.diag([*spacing, 1.0])


def ct(slices: int = SLICES) -> np.ndarray:
    """Air around soft tissue."""
    hu = np.full((9, 9, slices), -1000, np.int16)
    hu[2:7, 2:7] = np.random.default_rng(0).integers(-100, 300, (5, 5, slices))
    return hu


def save_ct(path: Path, array: np.ndarray | None = None, *spacing: float) -> Path:
    return save(ct() if array is None else array, path, affine(*(spacing or SPACING)))


def write_dicom(folder: Path, slices: int = SLICES, **options: Any) -> Path:
    return write_series(folder, np.zeros((slices, 8, 8), int), at=range(slices), **options)


class Run:
    """A datalist and the table of what was left out."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.out = root.parent / "out" / "cts.json"
        options = {"workers": 1, **options}
        archive(root, self.out, **options)
        self.content = json.loads(self.out.read_text())

    def names(self, part: str = "training") -> list[str]:
        return [row["image"] for row in self.content.get(part, [])]


def excluded(out: Path) -> dict[str, tuple[str, str]]:
    with open(out.with_suffix(".excluded.csv"), encoding="utf-8", newline="") as file:
        return {row["image"]: (row["reason"], row["detail"]) for row in csv.DictReader(file)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An archive with one good scan."""
    save_ct(tmp_path / "archive" / "good" / "ct.nii.gz")
    return tmp_path / "archive"


def reason(root: Path, name: str, **options: Any) -> tuple[str, str]:
    """Why a scan was left out, while the good one was taken."""
    run = Run(root, **options)
    assert run.names() == ["good/ct.nii.gz"]
    rows = excluded(run.out)
    assert list(rows) == [name]
    assert run.content["provenance"]["left_out"] == {rows[name][0]: 1}
    return rows[name]


class TestFiles:
    def test_every_format_is_found_in_any_layout(self, root: Path) -> None:
        import itk

        image = itk.image_from_array(ct().T.copy())
        image.SetSpacing(SPACING)
        for name in ("flat.nrrd", "a/b/deep.mha", "a/header.mhd", "a/HEADER.NHDR"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            itk.imwrite(image, str(root / name))
        save_ct(root / "a" / "plain.nii")
        save_ct(root / ".hidden" / "ct.nii.gz")
        (root / "a" / "._plain.nii").write_bytes(b"left by another system")
        (root / "notes.txt").write_text("no scan")
        run = Run(root, check_values=True)
        assert run.names() == [
            *("a/HEADER.NHDR", "a/b/deep.mha", "a/header.mhd", "a/plain.nii"),
            *("flat.nrrd", "good/ct.nii.gz"),
        ]
        assert excluded(run.out) == {}
        assert "labels" not in run.content

    def test_monai_loads_the_list(self, root: Path) -> None:
        run = Run(root)
        rows = load_decathlon_datalist(str(run.out), True, "training", base_dir=str(root))
        assert rows == [{"image": str(root / "good" / "ct.nii.gz")}]

    @pytest.mark.parametrize("slices", [1, 50])
    def test_too_few_slices(self, root: Path, slices: int) -> None:
        save_ct(root / "few.nii.gz", ct(slices))
        assert reason(root, "few.nii.gz") == ("too few slices", f"{slices}, fewer than 51")

    def test_more_than_fifty_slices_are_enough(self, root: Path) -> None:
        save_ct(root / "enough.nii.gz", ct(51))
        assert "enough.nii.gz" in Run(root).names()

    @pytest.mark.parametrize("spacing", [0.9, 5.2])
    def test_slices_too_thin_or_thick(self, root: Path, spacing: float) -> None:
        save_ct(root / "off.nii.gz", None, 0.5, 0.5, spacing)
        what = f"slices {spacing} mm, not 1 to 5 mm"
        assert reason(root, "off.nii.gz") == ("slice thickness", what)

    @pytest.mark.parametrize("spacing", [1.0, 5.0, 0.99999])
    def test_bounds_of_thickness_belong_to_it(self, root: Path, spacing: float) -> None:
        save_ct(root / "edge.nii.gz", None, 0.5, 0.5, spacing)
        assert "edge.nii.gz" in Run(root).names()

    def test_thresholds_are_options(self, root: Path) -> None:
        save_ct(root / "off.nii.gz", ct(20), 0.5, 0.5, 7)
        run = Run(root, max_thickness=8, min_slices=20)
        assert run.names() == ["good/ct.nii.gz", "off.nii.gz"]

    def test_four_dimensions(self, root: Path) -> None:
        save_ct(root / "time.nii.gz", np.stack([ct(), ct()], axis=-1))
        save_ct(root / "one_time.nii.gz", ct()[..., None])
        run = Run(root)
        assert run.names() == ["good/ct.nii.gz", "one_time.nii.gz"]
        assert excluded(run.out)["time.nii.gz"] == (
            "not one three-dimensional volume",
            f"(9, 9, {SLICES}, 2) voxels of 1 values",
        )

    def test_colours(self, root: Path) -> None:
        colours = np.zeros((9, 9, SLICES), [("R", "u1"), ("G", "u1"), ("B", "u1")])
        save_ct(root / "colour.nii.gz", colours)
        assert reason(root, "colour.nii.gz")[1] == f"(9, 9, {SLICES}) voxels of 3 values"

    def test_label_maps_are_bytes(self, root: Path) -> None:
        save_ct(root / "good" / "labels.nii.gz", (ct() > 0).astype(np.uint8))
        assert reason(root, "good/labels.nii.gz")[0] == "not CT"

    def test_scaled_bytes_may_be_hu(self, root: Path) -> None:
        image = nib.Nifti1Image(np.zeros((9, 9, SLICES), np.uint8), affine(*SPACING))
        image.header.set_slope_inter(8, -1024)
        nib.save(image, root / "scaled.nii.gz")
        assert "scaled.nii.gz" in Run(root).names()

    @pytest.mark.parametrize(
        ("change", "detail"),
        [
            (lambda image: image.header.set_sform(None, 0), "qform and sform code 0"),
            (lambda image: image.header.set_sform(np.zeros((4, 4)), 1), "affine singular"),
            (lambda image: image.header.set_sform(np.full((4, 4), np.nan), 1), "not finite"),
            (lambda image: image.header.set_sform(leaning(), 1), "axes not independent"),
        ],
    )
    def test_no_orientation(
        self, root: Path, change: Callable[[nib.Nifti1Image], None], detail: str
    ) -> None:
        image = nib.Nifti1Image(ct(), None)
        image.header.set_zooms(SPACING)
        image.header.set_qform(affine(*SPACING), 0)
        change(image)
        nib.save(image, root / "lost.nii.gz")
        found = reason(root, "lost.nii.gz")
        assert found[0] == "orientation unknown"
        assert detail in found[1]

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("empty.nii.gz", b""),
            ("text.nii", b"not an image"),
            ("text.nrrd", b"not an image"),
            ("cut.nii.gz", gzip.compress(b"\x5c\x01", mtime=0)),
        ],
    )
    def test_unreadable(self, root: Path, name: str, content: bytes) -> None:
        (root / name).write_bytes(content)
        assert reason(root, name)[0] == "cannot be read"

    def test_cut_off_where_the_size_tells(self, root: Path) -> None:
        path = save_ct(root / "cut.nii")
        path.write_bytes(path.read_bytes()[:-100])
        assert "cut off" in reason(root, "cut.nii")[1]

    def test_link_to_nothing(self, root: Path) -> None:
        (root / "gone.nii.gz").symlink_to(root / "nowhere.nii.gz")
        assert reason(root, "gone.nii.gz") == (
            "cannot be read",
            "ValueError: no file, or a link to none",
        )

    def test_name_that_no_table_can_hold(self, root: Path) -> None:
        save_ct(root / "odd.nii.gz").rename(root / os.fsdecode(b"od\xff.nii.gz"))
        assert reason(root, "od\\udcff.nii.gz") == ("cannot be read", "name is not UTF-8")

    def test_closed_folder(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (root / "closed").mkdir()
        look = os.scandir

        def refuse(place: Any) -> Any:
            if Path(place).name == "closed":
                raise PermissionError(13, "Permission denied", str(place))
            return look(place)

        monkeypatch.setattr(os, "scandir", refuse)
        assert reason(root, "closed") == ("cannot be read", "Permission denied")


def leaning() -> np.ndarray:
    """Two axes that are nearly one."""
    matrix = affine(*SPACING)
    matrix[:3, 1] = matrix[:3, 0] + (0, 0.01, 0)
    return matrix


class TestSliceAxis:
    @pytest.mark.parametrize(
        ("spacing", "axis"),
        [
            ((0.8, 0.8, 2.5), 2),
            ((2.5, 0.8, 0.8), 0),
            ((0.8, 2.5, 0.8), 1),  # coronal
            ((1.2, 1.2, 0.7), 2),  # slices thinner than pixels
            ((1.5, 1.5, 1.5), 2),  # nothing tells but the direction
            ((0.8, 0.9, 2.5), 2),
        ],
    )
    def test_odd_one_out_else_superior(self, spacing: tuple[float, ...], axis: int) -> None:
        assert slice_axis(np.diag(spacing)) == axis

    def test_superior_may_be_any_stored_axis(self) -> None:
        superior_first = np.array([[0, 1.5, 0], [0, 0, 1.5], [-1.5, 0, 0]])
        assert slice_axis(superior_first) == 0

    def test_stored_order_does_not_matter(self, root: Path) -> None:
        for order in ((2, 0, 1), (0, 2, 1)):
            matrix = np.eye(4)
            matrix[:3, :3] = np.diag(SPACING)[:, order]
            save(ct().transpose(order), root / f"{order[0]}{order[1]}.nii.gz", matrix)
        assert len(Run(root).names()) == 3


class TestValues:
    @pytest.mark.parametrize(
        ("array", "detail"),
        [
            (np.where(ct() > 0, 3, 0).astype(np.int16), "looks like a label map"),
            (ct() + 1024, "the rescale intercept seems lost"),
            (np.full((9, 9, SLICES), 40, np.int16), "is constant"),
            (np.full((9, 9, SLICES), np.nan, np.float32), "NaN"),
        ],
    )
    def test_what_is_not_in_hu(self, root: Path, array: np.ndarray, detail: str) -> None:
        if detail.startswith("the rescale"):
            array = array.copy()
            array[0, 0] = 2500  # bone
        save_ct(root / "other.nii.gz", array)
        found = reason(root, "other.nii.gz", check_values=True)
        assert found[0] == "not Hounsfield units"
        assert detail in found[1]
        with pytest.raises(UserError):
            check_ct(scans.read_scan(str(root / "other.nii.gz")), "other")

    def test_headers_alone_do_not_tell(self, root: Path) -> None:
        save_ct(root / "other.nii.gz", ct() + 1024)
        assert "other.nii.gz" in Run(root).names()

    def test_air_in_any_slice_is_enough(self, root: Path) -> None:
        array = np.full((9, 9, SLICES), 40, np.int16)
        array[..., 1] = -1000
        save_ct(root / "close.nii.gz", array)
        assert "close.nii.gz" in Run(root, check_values=True).names()

    def test_voxels_that_cannot_be_read(self, root: Path) -> None:
        path = save_ct(root / "cut.nii.gz")
        path.write_bytes(path.read_bytes()[:500])
        assert reason(root, "cut.nii.gz", check_values=True)[0] == "cannot be read"


class TestDicom:
    @pytest.fixture
    def series(self, root: Path) -> Path:
        return write_dicom(root / "p" / "series")

    def test_taken(self, root: Path, series: Path) -> None:
        assert Run(root).names() == ["good/ct.nii.gz", "p/series"]

    def test_link_to_a_series(self, root: Path, tmp_path: Path) -> None:
        (root / "link").symlink_to(write_dicom(tmp_path / "elsewhere"))
        assert Run(root).names() == ["good/ct.nii.gz", "link"]

    @pytest.mark.parametrize(
        ("change", "found"),
        [
            (setting(Modality="PT"), ("not CT", "modality PT")),
            (setting(Modality=""), ("not CT", "modality missing")),
            (
                setting(SliceThickness=0.8),
                ("slice thickness", "SliceThickness 0.8 mm, not 1 to 5 mm"),
            ),
            (
                setting(SliceThickness=None),
                ("slice thickness", f"no SliceThickness in {SLICES} of {SLICES} images"),
            ),
        ],
    )
    def test_left_out(self, root: Path, series: Path, change: Any, found: tuple[str, str]) -> None:
        edit(series, change)
        assert reason(root, "p/series") == found

    def test_one_localizer_is_enough(self, root: Path, series: Path) -> None:
        edit(series, setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), slice(1))
        assert reason(root, "p/series") == ("localizer", f"ImageType of 1 of {SLICES} images")

    def test_one_thick_slice_is_enough(self, root: Path, series: Path) -> None:
        edit(series, setting(SliceThickness=6), slice(1))
        detail = "SliceThickness 2 to 6 mm, not 1 to 5 mm"
        assert reason(root, "p/series") == ("slice thickness", detail)

    def test_positions_repeat(self, root: Path, series: Path) -> None:
        edit(series, setting(ImagePositionPatient=[0, 0, 1]), slice(3))
        detail = f"{SLICES - 2} positions of {SLICES} images"
        assert reason(root, "p/series") == ("not one position a slice", detail)

    def test_too_few(self, root: Path) -> None:
        write_dicom(root / "few", 12)
        assert reason(root, "few") == ("too few slices", "12, fewer than 51")

    def test_several_series(self, root: Path, series: Path) -> None:
        write_dicom(series, 9, name="other {:d}.dcm")
        found = reason(root, "p/series")
        assert found[0] == "more than one series in the folder"
        assert "ctfm dicom convert" in found[1]

    def test_images_of_different_size(self, root: Path, series: Path) -> None:
        edit(series, setting(PixelSpacing=[0.5, 0.5]), slice(1))
        found = reason(root, "p/series")
        assert found[0] == "images do not fit each other"
        assert found[1].startswith(f"PixelSpacing differs in 1 of {SLICES} images")

    def test_damaged(self, root: Path, series: Path) -> None:
        first = min(series.iterdir())
        first.write_bytes(first.read_bytes()[:300])
        assert reason(root, "p/series")[0] == "cannot be read"

    def test_files_in_the_root_itself(self, root: Path) -> None:
        write_dicom(root, 9)
        with pytest.raises(UserError, match="lie directly in it: give the folder above"):
            Run(root)


class TestValidation:
    @pytest.fixture
    def patients(self, tmp_path: Path) -> Path:
        root = tmp_path / "archive"
        for patient in range(10):
            for scan in range(2):
                save_ct(root / f"p{patient}" / f"day{scan}" / "ct.nii.gz")
        return root

    @staticmethod
    def held(run: Run) -> set[str]:
        return {name.split("/")[0] for name in run.names("validation")}

    def test_patients_are_not_parted(self, patients: Path) -> None:
        run = Run(patients, validation=0.2)
        assert len(run.names("validation")) == 4
        assert len(run.names()) == 16
        assert len(self.held(run)) == 2
        assert not self.held(run) & {name.split("/")[0] for name in run.names()}

    def test_draws_are_nested_and_differ_by_seed(self, patients: Path) -> None:
        two, four = (self.held(Run(patients, validation=share)) for share in (0.2, 0.4))
        assert two < four
        assert self.held(Run(patients, validation=0.4, seed=1)) != four

    def test_level_of_a_patient(self, patients: Path) -> None:
        patients = patients.rename(patients.parent / "p")
        root = patients.parent / "collections"
        root.mkdir()
        patients.rename(root / "one")
        with pytest.raises(UserError, match=r"0\.2 of 1 patients is 0 of them: .*--patient_level"):
            Run(root, validation=0.2)
        run = Run(root, validation=0.2, patient_level=2)
        assert len({name.split("/")[1] for name in run.names("validation")}) == 2

    def test_flat_folder_has_a_patient_a_file(self, tmp_path: Path) -> None:
        for number in range(5):
            save_ct(tmp_path / "archive" / f"{number}.nii.gz")
        assert len(Run(tmp_path / "archive", validation=0.2).names("validation")) == 1

    def test_dicom_knows_its_patient(self, tmp_path: Path) -> None:
        root = tmp_path / "archive"
        for number in range(4):
            write_dicom(root / f"s{number}", change=setting(PatientID=f"P{number % 2}"))
        run = Run(root, validation=0.5)
        assert {tuple(run.names(part)) for part in ("training", "validation")} == {
            ("s0", "s2"),
            ("s1", "s3"),
        }


def test_same_bytes_with_any_number_of_workers(root: Path) -> None:
    for number in range(20):
        save_ct(root / f"{number}.nii.gz", ct(40 + number))
    first = Run(root, workers=1)
    table = first.out.with_suffix(".excluded.csv")
    before = first.out.read_bytes(), table.read_bytes()
    Run(root, workers=2)
    assert (first.out.read_bytes(), table.read_bytes()) == before


def test_pattern(root: Path) -> None:
    save_ct(root / "good" / "other.nii.gz")
    assert Run(root, pattern="*/ct.nii.gz").names() == ["good/ct.nii.gz"]
    with pytest.raises(UserError, match=r"no scan in this folder that matches \*\.mha"):
        Run(root, pattern="*.mha")


def test_nothing_is_left(tmp_path: Path) -> None:
    save_ct(tmp_path / "archive" / "few.nii.gz", ct(9))
    out = tmp_path / "out" / "cts.json"
    with pytest.raises(UserError, match=r"none of 1 scans is taken \(too few slices: 1\): see"):
        Run(tmp_path / "archive")
    assert list(excluded(out)) == ["few.nii.gz"]
    assert not out.exists()


def test_counts_are_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_ct(root / "few.nii.gz", ct(9))
    run = Run(root)
    said = capsys.readouterr().err
    assert "1 training, of 2 scans; 1 are left out (too few slices: 1), listed in" in said
    assert said.startswith(str(run.out))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 1}, "validation is 1"),
        ({"validation": "5%"}, "validation is '5%'"),
        ({"patient_level": 0}, "patient_level is 0"),
        ({"min_slices": 0}, "min_slices is 0"),
        ({"min_thickness": "thin"}, "min_thickness is 'thin'"),
        ({"min_thickness": 6}, "min_thickness 6 is above max_thickness 5"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_options_out_of_range(root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Run(root, **options)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere is not a folder"):
        Run(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no scan in this folder: looked for"):
        Run(tmp_path / "empty")


def test_published_selection() -> None:
    assert Selection() == Selection(min_thickness=1, max_thickness=5, min_slices=50 + 1)

"""Bad input is refused in one line that says what was found and what to do."""

from __future__ import annotations

import gzip
import logging
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ctfm.base.errors import UserError
from ctfm.imaging.scans import Failure, ScanDataset, collate_scans, find_scans, read_scan, stem
from ctfm.imaging.transforms import LoadScand
from dicom_support import write_ct
from support import make_ct, save


def load(path: Path, input_check: str = "error") -> object:
    return LoadScand("image", input_check)({"image": str(path)})["image"]


def eight_bit(tmp_path: Path) -> Path:
    hu = make_ct()[0].astype(float)
    hu = ((hu - hu.min()) / (hu.max() - hu.min()) * 255).round()
    return save(hu.astype(np.uint8), tmp_path / "x.nii.gz")


def no_air(tmp_path: Path) -> Path:
    return save(make_ct()[0].clip(-100), tmp_path / "x.nii.gz")


def lost_intercept(tmp_path: Path) -> Path:
    return save((make_ct()[0].clip(-1024) + 1024), tmp_path / "x.nii.gz")


def mask(tmp_path: Path) -> Path:
    return save(make_ct()[1], tmp_path / "x.nii.gz")


def constant(tmp_path: Path) -> Path:
    return save(np.zeros((20, 20, 20), np.int16), tmp_path / "x.nii.gz")


def four_dimensional(tmp_path: Path) -> Path:
    return save(np.stack([make_ct()[0]] * 2, -1), tmp_path / "x.nii.gz")


def with_nan(tmp_path: Path) -> Path:
    hu = make_ct()[0].astype(np.float32)
    hu[3, 3, 3] = np.nan
    return save(hu, tmp_path / "x.nii.gz")


def one_slice(tmp_path: Path) -> Path:
    return save(make_ct()[0][:, :, 20:21], tmp_path / "x.nii.gz")


def truncated(tmp_path: Path) -> Path:
    path = save(make_ct()[0], tmp_path / "x.nii.gz")
    path.write_bytes(path.read_bytes()[:5000])
    return path


def not_an_image(tmp_path: Path) -> Path:
    path = tmp_path / "x.nii.gz"
    path.write_bytes(gzip.compress(b"hello, this is no image" * 100))
    return path


def empty(tmp_path: Path) -> Path:
    (tmp_path / "x.nii").touch()
    return tmp_path / "x.nii"


def missing(tmp_path: Path) -> Path:
    return tmp_path / "x.nii.gz"


def other_format(tmp_path: Path) -> Path:
    (tmp_path / "x.png").write_bytes(b"png")
    return tmp_path / "x.png"


def folder_without_dicom(tmp_path: Path) -> Path:
    save(make_ct()[0], tmp_path / "x" / "ct.nii.gz")
    return tmp_path / "x"


def single_dicom(tmp_path: Path) -> Path:
    (tmp_path / "x.DCM").touch()
    return tmp_path / "x.DCM"


def flat_affine(tmp_path: Path) -> Path:
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 1] = affine[:3, 0]
    image = nib.Nifti1Image(make_ct()[0], None)
    image.header.set_sform(affine, 1)
    image.header.set_zooms((3, 3, 3))
    nib.save(image, tmp_path / "x.nii.gz")
    return tmp_path / "x.nii.gz"


def no_orientation(tmp_path: Path) -> Path:
    image = nib.Nifti1Image(make_ct()[0], None)
    image.header.set_sform(None, 0)
    image.header.set_qform(None, 0)
    nib.save(image, tmp_path / "x.nii.gz")
    return tmp_path / "x.nii.gz"


VALUES = [
    (eight_bit, "not a CT in Hounsfield units .values 0..255"),
    (no_air, "shows no air"),
    (lost_intercept, "rescale intercept seems lost"),
    (mask, "looks like a label map or mask"),
    (constant, "is constant"),
    (no_orientation, "does not say how it is oriented"),
]
STRUCTURE = [
    (four_dimensional, r"2 channels or time points .*extract one volume"),
    (with_nan, "1 voxels that are NaN or infinite"),
    (one_slice, "only 1 slices"),
    (truncated, "cannot be read"),
    (not_an_image, "cannot be read"),
    (empty, "file is empty"),
    (missing, "no such file"),
    (other_format, "not a format that is read"),
    (folder_without_dicom, "no DICOM series in this folder: give the folder of one or a file"),
    (single_dicom, "one DICOM file, not a scan: give the folder /"),
    (flat_affine, "no readable orientation"),
]


@pytest.mark.parametrize(("make", "message"), VALUES + STRUCTURE)
def test_bad_input_is_refused_with_its_reason(make, message, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(make(tmp_path))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(("make", "message"), VALUES)
def test_values_can_be_let_through_with_a_warning(
    make, message, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="ctfm.imaging.checks.ct"):
        load(make(tmp_path), "warn")
    assert len(caplog.records) == 1
    assert "going on" in caplog.text


def test_a_ct_is_read_as_it_is(ct: Path) -> None:
    image = load(ct)
    assert image.shape == (1, 40, 40, 40)
    np.testing.assert_array_equal(image[0], make_ct()[0])
    np.testing.assert_allclose(image.affine, np.diag([3, 3, 3, 1]))


def test_unknown_check_is_refused() -> None:
    with pytest.raises(UserError, match="choose error, warn or off"):
        LoadScand("image", "maybe")


def test_real_scan_that_is_no_ct_is_refused(real_data: Path) -> None:
    with pytest.raises(UserError, match="8-bit picture"):
        load(real_data / "not_hu_rotated.nii.gz")
    with pytest.raises(UserError, match="shows no air"):
        load(real_data / "ct_head_angio.nii.gz")


def test_real_ct_is_accepted(real_data: Path) -> None:
    assert load(real_data / "ct_torso_3mm.nii.gz").shape == (1, 122, 101, 112)


class TestFindScans:
    def test_folder_is_searched_and_results_are_named_apart(self, tmp_path: Path) -> None:
        for name in ("s1/ct.nii.gz", "s2/ct.nii.gz", "s2/ct.mha", "s2/notes.txt", "s2/.hidden.nii"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        rows = find_scans(str(tmp_path))
        assert [row["name"] for row in rows] == ["s1/ct", "s2/ct.mha", "s2/ct.nii.gz"]

    def test_glob_and_single_file(self, ct: Path) -> None:
        assert find_scans(str(ct.parent / "*.nii.gz")) == find_scans(str(ct))
        assert find_scans(str(ct)) == [{"image": str(ct), "name": "ct"}]

    def test_links_are_named_after_themselves(self, ct: Path, tmp_path: Path) -> None:
        links = tmp_path / "links"
        links.mkdir()
        (links / "b.nii.gz").symlink_to(ct)
        save(make_ct()[0], links / "a.nii.gz")
        assert [row["name"] for row in find_scans(str(links))] == ["a", "b"]

    def test_results_inside_the_input_are_not_taken_for_input(self, ct: Path) -> None:
        save(make_ct()[1], ct.parent / "out" / "ct_seg.nii.gz")
        out = str(ct.parent / "out")
        assert len(find_scans(str(ct.parent), output_dir=out)) == 1
        assert find_scans(str(ct.parent), output_dir=out, overwrite=False) == []

    def test_all_of_the_input_in_the_output_folder_is_an_error(self, ct: Path) -> None:
        with pytest.raises(UserError, match="lie in the output folder: choose another one"):
            find_scans(str(ct), output_dir=str(ct.parent))

    @pytest.mark.parametrize(("source", "message"), [("nowhere", "no such"), ("", "no input")])
    def test_nothing_there_is_an_error(self, source: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            find_scans(source)

    def test_empty_folder_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"no scan in this folder.*\.nrrd"):
            find_scans(str(tmp_path))


def fake_series(folder: Path) -> Path:
    """What is taken for a series until its headers are read."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(3):
        (folder / f"image{number}").write_bytes(b"\0" * 128 + b"DICM")
    return folder


class TestFindSeries:
    def names(self, source: object, **options: object) -> list[str]:
        return [row["name"] for row in find_scans(source, **options)]  # type: ignore[arg-type]

    def test_each_series_is_a_scan_beside_loose_files(self, tmp_path: Path) -> None:
        for name in ("p1/1.2.840.5", "p1/thin.nii", "p2/1.2.840.5", ".hidden/s"):
            fake_series(tmp_path / name)
        for name in ("p1/ct.nii.gz", "p1/1.2.840.5/notes.txt"):
            (tmp_path / name).touch()
        rows = find_scans(str(tmp_path))
        assert [row["name"] for row in rows] == [
            *("p1/1.2.840.5", "p1/ct", "p1/thin.nii"),
            "p2/1.2.840.5",
        ]
        assert rows[0]["image"] == str(tmp_path / "p1" / "1.2.840.5")

    def test_folder_that_is_a_series(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        series = fake_series(tmp_path / "thorax 1.25")
        expected = [{"image": str(series), "name": "thorax 1.25"}]
        assert find_scans(str(series)) == find_scans(f"{series}/") == expected
        monkeypatch.chdir(series)
        assert find_scans(".") == expected
        (series / "sub").mkdir()
        monkeypatch.chdir(series / "sub")
        assert find_scans("..") == expected

    def test_pattern(self, tmp_path: Path) -> None:
        for name in ("p1/ct", "p2/ct", "p2/pet"):
            fake_series(tmp_path / name)
        assert self.names(str(tmp_path / "*" / "ct")) == ["p1/ct", "p2/ct"]
        assert self.names(str(tmp_path / "*" / "ct") + "/") == ["p1/ct", "p2/ct"]

    def test_series_and_file_of_one_name(self, tmp_path: Path) -> None:
        fake_series(tmp_path / "a")
        (tmp_path / "a.nii.gz").touch()
        assert self.names(str(tmp_path)) == ["a", "a.nii.gz"]

    @pytest.mark.parametrize("pattern", ["s/image0", "s/image*", "*/*", "s/x.dcm", "DICOMDIR"])
    def test_single_files_are_refused_in_one_line(self, pattern: str, tmp_path: Path) -> None:
        series = fake_series(tmp_path / "s")
        (series / "x.dcm").touch()
        (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
        with pytest.raises(UserError, match=r"one DICOM file, not a scan: give the folder /") as e:
            find_scans(str(tmp_path / pattern))
        assert str(e.value).endswith(str((tmp_path / pattern).parent).replace("*", "s"))

    def test_results_inside_a_series(self, tmp_path: Path) -> None:
        series = fake_series(tmp_path / "s")
        out = series / "out"
        fake_series(out / "copied")
        assert self.names(str(series), output_dir=str(out)) == ["s"]
        (out / "s_seg.nii.gz").touch()
        assert self.names(str(series), output_dir=str(out), overwrite=False) == []

    def test_names_of_folders_are_whole(self, tmp_path: Path) -> None:
        assert stem(str(fake_series(tmp_path / "ct.nii.gz"))) == "ct.nii.gz"
        assert stem("ct.nii.gz") == "ct"

    @pytest.mark.parametrize("package", ["pydicom", "dcm2niix"])
    def test_a_missing_package_is_named(
        self, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        series = write_ct(tmp_path / "s", side=12)
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=rf'{package} is needed to .* "ct-fm-bundles\[dicom\]"'):
            load(series)


def test_a_series_is_read_like_the_file_of_the_same_ct(ct: Path, tmp_path: Path) -> None:
    file, series = load(ct), load(write_ct(tmp_path / "s.1"))
    np.testing.assert_array_equal(series, file)
    np.testing.assert_allclose(series.affine, file.affine, atol=1e-9)
    np.testing.assert_allclose(series.meta["original_affine"], series.affine)
    assert list(series.meta["spatial_shape"]) == [40, 40, 40]
    assert series.meta["filename_or_obj"] == str(tmp_path / "s.1")
    assert series.dtype == file.dtype
    np.testing.assert_array_equal(read_scan(str(tmp_path / "s.1")), file)


def test_a_bad_series_does_not_stop_the_others(tmp_path: Path) -> None:
    good, bad = write_ct(tmp_path / "good", side=12), fake_series(tmp_path / "bad")
    data_set = ScanDataset(find_scans(str(tmp_path)), transform=LoadScand("image"))
    first, second = (collate_scans([data_set[i]]) for i in range(2))
    assert first.path == str(bad)
    assert first.reason.startswith("image0 is damaged or cut off (")
    assert second["image"].meta["filename_or_obj"] == [str(good)]


def test_one_bad_scan_does_not_stop_the_others(ct: Path) -> None:
    rows = [{"image": str(ct)}, {"image": "nowhere.nii"}]
    data_set = ScanDataset(rows, transform=LoadScand("image"))
    batches = [collate_scans([data_set[i]]) for i in range(2)]
    assert batches[0]["image"].shape == (1, 1, 40, 40, 40)
    assert batches[1] == Failure("nowhere.nii", "no such file: check the path")

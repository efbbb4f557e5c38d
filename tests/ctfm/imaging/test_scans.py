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
from ctfm.imaging.listing import find_scans
from ctfm.imaging.scans import Failure, ScanDataset, collate_scans, read_scan
from ctfm.imaging.transforms import LoadScand
from dicom_support import fake_series, write_ct
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
    (no_orientation, "does not say how the patient lies"),
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


@pytest.mark.parametrize("package", ["pydicom", "dcm2niix"])
def test_a_missing_package_is_named(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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

"""Files that are not what they seem: each is read as it is meant, or refused with the cause."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pydicom
import pytest

from ctfm.base.errors import UserError
from ctfm.imaging.checks.ct import check_ct
from ctfm.imaging.hounsfield import value_problem
from ctfm.imaging.nifti import open_nifti
from ctfm.imaging.scans import read_scan
from ctfm.triage.head_scans import head_volume
from dicom_support import write_ct
from support import make_ct, save

AFFINE = np.diag([2.0, 3.0, 4.0, 1.0])


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_scan(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


class TestNifti:
    def test_colours_are_no_measured_values(self, tmp_path: Path) -> None:
        colours = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
        nib.save(nib.Nifti1Image(colours, AFFINE), tmp_path / "rgb.nii.gz")
        assert refusal(tmp_path / "rgb.nii.gz").startswith("its voxels are colours (RGB)")

    def test_complex_numbers_are_none_either(self, tmp_path: Path) -> None:
        nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.complex64), AFFINE), tmp_path / "c.nii")
        assert "complex numbers" in refusal(tmp_path / "c.nii")

    @pytest.mark.parametrize("reader", [read_scan, lambda path: open_nifti(Path(path))])
    @pytest.mark.parametrize(
        ("written", "named", "message"),
        [
            ("a.nii", "b.nii.gz", "is not compressed, although its name ends in .gz: rename"),
            ("a.nii.gz", "b.nii", "is compressed by gzip: rename it so that it ends in .nii.gz"),
        ],
    )
    def test_a_name_that_belies_the_compression(
        self,
        written: str,
        named: str,
        message: str,
        reader: Callable[[str], object],
        tmp_path: Path,
    ) -> None:
        nib.save(nib.Nifti1Image(make_ct()[0], AFFINE), tmp_path / written)
        shutil.copy(tmp_path / written, tmp_path / named)
        with pytest.raises(UserError, match=message):
            reader(str(tmp_path / named))

    @pytest.mark.parametrize("shape", [(9, 8, 7, 1), (9, 8, 7, 1, 1), (9, 8, 7, 1, 1, 1)])
    def test_trailing_axes_of_one_are_left_out(
        self, shape: tuple[int, ...], tmp_path: Path
    ) -> None:
        values = np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)
        nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / "a.nii.gz")
        scan = read_scan(str(tmp_path / "a.nii.gz"))
        np.testing.assert_array_equal(scan[0], values.reshape(shape[:3]))
        np.testing.assert_allclose(scan.affine, AFFINE)

    def test_several_volumes_are_refused(self, tmp_path: Path) -> None:
        nib.save(nib.Nifti1Image(np.zeros((9, 8, 7, 1, 3), np.int16), AFFINE), tmp_path / "a.nii")
        with pytest.raises(UserError, match="has 3 channels or time points"):
            check_ct(read_scan(str(tmp_path / "a.nii")), "a.nii")


class TestOrientation:
    """ITK takes LPS where a file does not say; that is refused, as for NIfTI."""

    def without(self, path: Path, *starts: bytes) -> None:
        data = path.read_bytes()
        end = data.index(b"ElementDataFile") if path.suffix == ".mha" else data.index(b"\n\n")
        lines = [one for one in data[:end].split(b"\n") if not one.startswith(starts)]
        path.write_bytes(b"\n".join(lines) + data[end:])

    @pytest.mark.parametrize(
        ("name", "starts"),
        [
            ("a.nrrd", (b"space",)),
            ("a.nrrd", (b"space directions",)),
            ("a.mha", (b"TransformMatrix", b"AnatomicalOrientation")),
        ],
    )
    def test_a_file_that_does_not_say_is_refused(
        self, name: str, starts: tuple[bytes, ...], tmp_path: Path
    ) -> None:
        path = tmp_path / name
        itk.imwrite(itk.GetImageFromArray(make_ct()[0]), str(path))
        check_ct(read_scan(str(path)), name)
        self.without(path, *starts)
        with pytest.raises(UserError, match=r"does not say how the patient lies .NIfTI.*NRRD"):
            check_ct(read_scan(str(path)), name)
        check_ct(read_scan(str(path)), name, "off")
        with pytest.raises(UserError, match="does not say how the patient lies"):
            head_volume(str(path), (3.0, 3.0, 3.0), (16, 32, 32))


class TestUnits:
    def test_a_lost_intercept_is_told_from_another_unit(self) -> None:
        hu = make_ct()[0].astype(float)
        lost = (
            hu.clip(-1000, None)
            + 1000
            + np.linspace(0, 1200, hu.size).reshape(hu.shape) * (hu > 500)
        )
        assert "subtract 1024" in str(value_problem(lost))
        hu[hu > -200] += 60  # water and muscle in place of fat
        cormack = np.where(hu < -100, hu + 1000, (hu + 100) * 11 + 900).clip(0)
        said = str(value_problem(cormack))
        assert "subtract" not in said
        assert "the scan as the scanner wrote it" in said

    def test_the_template_in_cormack_units(self, real_data: Path) -> None:
        path = real_data / "real" / "files" / "head_template_not_hu.nii"
        values = np.asanyarray(nib.load(path).dataobj)
        assert "another unit (such as Cormack's)" in str(value_problem(values))


@pytest.mark.parametrize("kind", ["meta information", "neither"])
@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
def test_dicom_without_preamble_is_read(kind: str, syntax: str, tmp_path: Path) -> None:
    series, bare = write_ct(tmp_path / "s"), tmp_path / "bare"
    bare.mkdir()
    for path in series.iterdir():
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
        data.save_as(
            path, implicit_vr=syntax.endswith("1.2"), little_endian=True, enforce_file_format=True
        )
        written = pydicom.dcmread(path)
        length = 132
        if kind == "neither":
            length += 12 + written.file_meta[0x00020000].value
        (bare / path.name).write_bytes(path.read_bytes()[length:])
    expected, found = read_scan(str(series)), read_scan(str(bare))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(found.affine, expected.affine)


def test_group_8_in_the_first_bytes_is_not_enough(tmp_path: Path) -> None:
    path = save(make_ct()[0], tmp_path / "ct.nii.gz")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "file").write_bytes(b"\x08\x00\x08\x01" + path.read_bytes())
    with pytest.raises(UserError, match="no DICOM series in this folder"):
        read_scan(str(tmp_path / "odd"))

"""Slices out of NIfTI files: the numbers that nibabel reads, and no silence about broken files."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ctfm.imaging.nifti import open_nifti

SHAPE = (13, 9, 11)
WANTED = ([0, 3, 4, 12], [1, 8], [0, 5, 6, 10])


def written(path: Path, dtype: str, slope: float = 1.0) -> nib.Nifti1Image:
    values = np.random.default_rng(0).integers(0, 120, SHAPE).astype(dtype)
    header = nib.Nifti1Header(endianness=">" if dtype.startswith(">") else "<")
    image = nib.Nifti1Image(values, np.diag([2.0, 3.0, 4.0, 1.0]), header)
    image.set_data_dtype(dtype)
    image.header.set_slope_inter(slope, -7.0)
    nib.save(image, path)
    return image


@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", "<f4", "<f8"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_same_numbers_as_nibabel(dtype: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    written(path, dtype, slope=2.0)
    volume = open_nifti(path)
    whole = np.asarray(nib.load(path).dataobj)
    found = volume.pick([np.array(one) for one in WANTED])
    assert found.shape == (4, 2, 4)
    scaled = found.astype(float) * volume.slope + volume.intercept
    np.testing.assert_array_equal(scaled, whole[np.ix_(*WANTED)])
    assert volume.shape == SHAPE
    np.testing.assert_array_equal(volume.affine, np.diag([2.0, 3.0, 4.0, 1.0]))


@pytest.mark.parametrize("where", [0.5, 0.98])
def test_cut_off_file(where: float, tmp_path: Path) -> None:
    """In the middle, and where but the checksum is missing."""
    path = tmp_path / "a.nii.gz"
    written(path, "<i2")
    content = path.read_bytes()
    path.write_bytes(content[: int(where * len(content))])
    volume = open_nifti(path)
    with pytest.raises(EOFError):
        volume.pick([np.array([0])] * 3)


def test_changed_byte_is_found_by_the_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    written(path, "<i2")
    raw = bytearray(gzip.decompress(path.read_bytes()))
    stored = gzip.compress(bytes(raw), compresslevel=0)
    at = stored.index(bytes(raw[1000:1040]))
    path.write_bytes(stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :])
    with pytest.raises(gzip.BadGzipFile, match="CRC"):
        open_nifti(path).pick([np.array([0])] * 3)


def test_refuses_what_is_no_volume(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 2), np.int16), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(ValueError, match="not one volume"):
        open_nifti(tmp_path / "a.nii")

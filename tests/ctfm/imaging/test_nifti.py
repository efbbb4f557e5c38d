"""Slices out of NIfTI files: the numbers that nibabel reads, and no silence about broken files."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from ctfm.base.errors import UserError
from ctfm.base.types import Array
from ctfm.datalists.datasets.totalsegmentator_masks import Case, merge_masks
from ctfm.datalists.datasets.volume_headers import inspect_file
from ctfm.datalists.pairs import Pair, check_pair
from ctfm.datalists.selection import Selection
from ctfm.evaluation.lesions.folders import score_lesions
from ctfm.imaging.nifti import open_nifti, opened_image, write_nifti
from ctfm.imaging.scans import read_scan
from ctfm.imaging.transforms import LoadScand
from ctfm.search.viewing.scene import Scene
from ctfm.triage.head_scans import head_volume

AFFINE = np.diag([2.0, 3.0, 4.0, 1.0])
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


@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", "<f4", "<f8"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ"])
def test_opened_image_is_that_of_nibabel(dtype: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    written(path, dtype, slope=0.5)
    expected = nib.load(path)
    with opened_image(path) as image:
        values = np.asanyarray(image.dataobj)
        np.testing.assert_array_equal(values, np.asanyarray(expected.dataobj))
        assert values.dtype == np.asanyarray(expected.dataobj).dtype
        np.testing.assert_array_equal(image.affine, expected.affine)
        assert image.header == expected.header


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_written_volume_comes_back(name: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    contents = []
    for folder in ("one", "two"):
        path = tmp_path / folder / name
        write_nifti(values, AFFINE, path, intent=("estimate", "cosine"))
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    image = nib.load(path)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), values)
    for matrix in (image.get_sform(), image.get_qform()):
        np.testing.assert_allclose(matrix, AFFINE, atol=1e-6)
    assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 1
    assert image.header.get_xyzt_units()[0] == "mm"
    assert image.header.get_intent() == ("estimate", (), "cosine")


def refuse(reason: object) -> None:
    """Raise what a reader only states."""
    if reason:
        raise UserError(str(reason))


def pair(path: Path) -> None:
    ids = frozenset(range(2))
    refuse(" | ".join(check_pair(Pair("a", path.parent, path.name, path.name, ids))))


def masks(path: Path) -> None:
    case = Case("s", path, {1: path}, path.with_name("labels.nii.gz"))
    refuse(" | ".join(merge_masks(case).problems))


def header(path: Path) -> None:
    excluded = inspect_file(path.parent, path.name, Selection(0, 9, 1), check_values=True)
    refuse(getattr(excluded, "detail", None))


#: Whatever reads the voxels of a NIfTI file.
READERS: dict[str, Callable[[Path], object]] = {
    "read_scan": lambda path: read_scan(str(path)),
    "head_volume": lambda path: head_volume(str(path), (4, 4, 4), (8, 8, 8), input_check="off"),
    "check_pair": pair,
    "merge_masks": masks,
    "inspect_file": header,
    "score_lesions": lambda path: score_lesions(path, path, workers=1),
    "view": lambda path: Scene([path], ["a"]).content(0),
}


def in_stream(content: bytes) -> bytes:
    """One bit of a voxel; stored, not compressed, so that only the checksum tells."""
    at = content.rindex(bytes(40)) + 20
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def in_checksum(content: bytes) -> bytes:
    """One bit of the CRC-32, which stands before the length at the end."""
    return content[:-8] + bytes([content[-8] ^ 1]) + content[-7:]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("change", [in_stream, in_checksum])
def test_every_reader_refuses_a_changed_byte(
    reader: str, change: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    values: Array = np.zeros((40, 40, 40), np.int16)
    values[10:30, 10:30, 10:30] = 1
    good, bad = tmp_path / "good" / "a.nii.gz", tmp_path / "bad" / "a.nii.gz"
    for path in (good, bad):
        write_nifti(values, np.diag([4.0, 4.0, 4.0, 1.0]), path)
    content = gzip.compress(gzip.decompress(good.read_bytes()), compresslevel=0)
    good.write_bytes(content)
    bad.write_bytes(change(content))
    if reader != "inspect_file":  # it would say that these values are no CT's
        READERS[reader](good)
    with pytest.raises(UserError, match="CRC") as refused:
        READERS[reader](bad)
    assert len(str(refused.value).splitlines()) == 1


class TestHeadersThatContradictThemselves:
    """The affine is nibabel's, and what the header says differently elsewhere is reported."""

    LAS = np.diag([-3.0, 3.0, 3.0, 1.0])
    #: Each column is 3 mm long, the second leans against the first by 30 degrees.
    SHEARED = np.array(
        [[3.0, 1.5, 0, 10], [0, 1.5 * np.sqrt(3), 0, 0], [0, 0, 3.0, 0], [0, 0, 0, 1]]
    )

    def write(self, path: Path, **fields: Any) -> Path:
        image = nib.Nifti1Image(np.zeros((8, 9, 10), np.int16), np.eye(4))
        for name in ("sform", "qform"):
            affine, code = fields.get(name, (None, 0))
            getattr(image, f"set_{name}")(affine, code)
        image.header["pixdim"][1:4] = fields.get("pixdim", 3.0)
        nib.save(image, path)
        return path

    @pytest.mark.parametrize(
        ("fields", "affine", "message"),
        [
            ({"sform": (LAS, 1), "pixdim": 2.999}, LAS, ""),
            ({"sform": (LAS, 1), "qform": (LAS, 1)}, LAS, ""),
            ({"qform": (LAS, 1)}, LAS, ""),
            ({"sform": (SHEARED, 1)}, SHEARED, ""),
            (
                {"sform": (LAS, 1), "pixdim": 1.0},
                LAS,
                r"how large voxels are: 3 x 3 x 3 mm \(sform, taken\) and 1 x 1 x 1 mm \(pixdim\)",
            ),
            (
                {"sform": (LAS, 1), "qform": (np.diag([3.0, 3, 3, 1]), 1)},
                LAS,
                "where it lies, up to 42 mm apart: the sform is taken",
            ),
        ],
    )
    def test_each_reader_takes_nibabels_affine(
        self, fields: dict[str, Any], affine: Array, message: str, tmp_path: Path
    ) -> None:
        path = self.write(tmp_path / "ct.nii.gz", **fields)
        scan, volume = read_scan(str(path)), open_nifti(path)
        np.testing.assert_allclose(nib.load(path).affine, affine, atol=1e-5)
        np.testing.assert_allclose(scan.affine, affine, atol=1e-5)
        np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
        assert scan.meta["header_conflict"] == volume.conflict
        assert re.search(message, volume.conflict)
        assert bool(message) == bool(volume.conflict)

    def test_the_input_check_and_training_say_so(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = self.write(tmp_path / "ct.nii.gz", sform=(self.LAS, 1), pixdim=1.0)
        row = LoadScand("image", "off", inspect=True)({"image": str(path)})
        assert row["input_check"].warnings[0].startswith("its header says twice how large")
        caplog.clear()
        LoadScand("image", "off")({"image": str(path)})
        assert f"{path}: its header says twice how large" in caplog.text

"""A tree of DICOM files becomes one NIfTI file a CT series, or a row that says why not."""

from __future__ import annotations

import csv
import logging
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from ctfm.base.errors import UserError
from ctfm.imaging import scans
from ctfm.imaging.dicom import converting
from ctfm.imaging.dicom.converting import convert
from ctfm.imaging.dicom.reading import read_series
from dicom_support import COLUMNS, REASON, ROWS, SLICES, edit, noise, setting, write_series

pydicom = pytest.importorskip("pydicom", reason=REASON)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with one sound series, so that something is always converted."""
    write_series(tmp_path / "dicom" / "patient" / "good")
    return tmp_path / "dicom"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "nifti"


def files(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def rows(out: Path) -> dict[str, tuple[str, str]]:
    with open(out / "not_converted.csv", encoding="utf-8", newline="") as file:
        return {row["folder"]: (row["status"], row["reason"]) for row in csv.DictReader(file)}


GOOD = ["not_converted.csv", "patient/good.nii.gz"]


def test_file_holds_what_the_series_does(root: Path, out: Path) -> None:
    assert convert(root, out, workers=1) == out
    assert files(out) == GOOD
    assert rows(out) == {}
    file = nib.load(out / "patient" / "good.nii.gz")
    series = read_series(root / "patient" / "good")
    assert file.get_data_dtype() == np.int16
    np.testing.assert_array_equal(file.get_fdata(), series[0].numpy())
    np.testing.assert_allclose(file.affine, series.affine, atol=1e-4)
    assert file.header["qform_code"] == file.header["sform_code"] == 1
    scan = scans.read_scan(str(out / "patient" / "good.nii.gz"))
    np.testing.assert_array_equal(scan.numpy(), series.numpy())


def test_parts_of_a_hu_are_rounded(root: Path, out: Path) -> None:
    edit(root / "patient" / "good", setting(RescaleSlope="0.7"))
    convert(root, out, workers=1)
    file = nib.load(out / "patient" / "good.nii.gz")
    exact = read_series(root / "patient" / "good")[0].numpy()
    assert np.abs(file.get_fdata() - exact).max() <= 0.5


def test_values_beyond_int16_stay(root: Path, out: Path) -> None:
    edit(root / "patient" / "good", setting(RescaleSlope="40"))
    convert(root, out, workers=1)
    file = nib.load(out / "patient" / "good.nii.gz")
    assert file.get_data_dtype() == np.float32
    exact = read_series(root / "patient" / "good")[0].numpy()
    np.testing.assert_array_equal(file.get_fdata(), exact)


def test_each_series_of_a_folder_gets_a_file(root: Path, out: Path) -> None:
    folder = root / "mixed"
    for number in range(2):
        write_series(folder, noise() + number, name=f"{number} {{:d}}.dcm")
    scout = setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(folder, noise()[:1], at=[0], name="scout {:d}.dcm", change=scout)
    convert(root, out, workers=1)
    written = sorted((out / "mixed").iterdir())
    assert len(written) == 2
    uids = {pydicom.dcmread(path).SeriesInstanceUID for path in folder.glob("[01]*")}
    assert {path.name.removesuffix(".nii.gz") for path in written} == uids
    assert rows(out) == {"mixed": ("excluded", "a localizer (scout)")}


def test_root_may_be_the_series(root: Path, out: Path) -> None:
    convert(root / "patient" / "good", out, workers=1)
    assert files(out) == ["good.nii.gz", "not_converted.csv"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (setting(Modality="PT"), "modality PT, not CT"),
        (setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "a localizer (scout)"),
        (
            setting(SamplesPerPixel=3, BitsAllocated=8, PixelData=bytes(3 * ROWS * COLUMNS)),
            "colour pictures, not HU",
        ),
    ],
)
def test_what_is_no_ct_volume_is_listed(root: Path, out: Path, change: Any, reason: str) -> None:
    edit(write_series(root / "other"), change)
    convert(root, out, workers=1)
    assert files(out) == GOOD
    assert rows(out) == {"other": ("excluded", reason)}


def test_few_images_are_no_volume(root: Path, out: Path) -> None:
    write_series(root / "few", noise()[:3], at=range(3))
    convert(root, out, workers=1)
    assert rows(out) == {"few": ("excluded", "3 images, and fewer than 8 make no volume")}


def test_failures_are_told_when_the_rest_is_done(
    root: Path, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gap = [*range(5), *range(7, 12)]
    write_series(root / "a_gap", at=gap)
    damaged = min(write_series(root / "damaged").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:300])
    caplog.set_level(logging.INFO)
    with pytest.raises(UserError, match=r"2 of 3 series failed \(first: a_gap: slices are missing"):
        convert(root, out, workers=1)
    assert files(out) == GOOD
    found = rows(out)
    assert {name: status for name, (status, _) in found.items()} == {
        "a_gap": "failed",
        "damaged": "failed",
    }
    assert "is damaged or cut off" in found["damaged"][1]
    assert not any(str(root) in reason for _, reason in found.values())
    assert "1 series converted, 0 were there already, 0 are no CT volume, 2 failed" in caplog.text


def test_closed_folder_is_a_failure(root: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "closed").mkdir()
    look = os.scandir

    def refuse(place: Any) -> Any:
        if str(place).endswith("closed"):  # some callers pass a number
            raise PermissionError(13, "Permission denied", str(place))
        return look(place)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"1 of 2 series failed \(first: closed: Permission denied"):
        convert(root, out, workers=1)
    assert files(out) == GOOD


def test_defects_of_one_series_do_not_stop_the_others(
    root: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(root / "b")
    read = converting.read_volume

    def fail(folder: Path, images: Any) -> Any:
        if folder.name == "b":
            raise MemoryError("too large")
        return read(folder, images)

    monkeypatch.setattr(converting, "read_volume", fail)
    with pytest.raises(UserError, match=r"1 of 2 series failed \(first: b: MemoryError: too large"):
        convert(root, out, workers=1)
    assert files(out) == GOOD


def test_goes_on_where_it_was_stopped(
    root: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(root, out, workers=1)
    file = out / "patient" / "good.nii.gz"
    before = file.stat().st_mtime_ns
    write_series(root / "new")
    seen = []
    read = converting.read_volume

    def note(folder: Path, images: Any) -> Any:
        seen.append(folder)
        return read(folder, images)

    monkeypatch.setattr(converting, "read_volume", note)
    convert(root, out, workers=1)
    assert seen == [root / "new"]
    assert file.stat().st_mtime_ns == before
    convert(root, out, workers=1, overwrite=True)
    assert len(seen) == 3


def test_folder_that_changed_is_converted_again(root: Path, out: Path) -> None:
    convert(root, out, workers=1)
    file = out / "patient" / "good.nii.gz"
    os.utime(file, ns=(0, 0))
    write_series(root / "patient" / "good", noise()[:2], at=[SLICES, SLICES + 1], name="x{:d}.dcm")
    edit(root / "patient" / "good", setting(SeriesInstanceUID="1.2.3"))
    convert(root, out, workers=1)
    assert nib.load(file).shape[2] == SLICES + 2


def test_processes_give_the_same(root: Path, tmp_path: Path) -> None:
    write_series(root / "other", noise() + 1)
    one, two = tmp_path / "one", tmp_path / "two"
    convert(root, one, workers=1)
    convert(root, two, workers=2)
    for name in files(one):
        if name.endswith(".nii.gz"):
            first, second = (nib.load(folder / name) for folder in (one, two))
            np.testing.assert_array_equal(first.get_fdata(), second.get_fdata())
    assert files(one) == files(two)


@pytest.mark.parametrize(
    ("uid", "name"),
    [("1.2.3", "1.2.3.nii.gz"), ("../../x", ".._.._x.nii.gz"), ("", "unnamed.nii.gz")],
)
def test_names_stay_in_their_folder(uid: str, name: str) -> None:
    assert converting._file_name(uid) == name


def test_nothing_to_convert(root: Path, out: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder"):
        convert(tmp_path / "nowhere", out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no DICOM files in this folder or below it"):
        convert(tmp_path / "empty", out)
    assert not out.exists()
    edit(root / "patient" / "good", setting(Modality="MR"))
    with pytest.raises(UserError, match="none of 1 series is a CT volume: reasons are in"):
        convert(root, out, workers=1)

"""A folder of DICOM files gives the voxels and the place its headers say, or one line why not."""

from __future__ import annotations

import importlib
import itertools
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctfm
from ctfm.base.errors import UserError
from ctfm.imaging.dicom import headers, reading
from ctfm.imaging.dicom.headers import find_series, is_series, series_files
from ctfm.imaging.dicom.reading import read_series
from dicom_support import (
    AXIAL,
    COLUMNS,
    ORIGIN,
    REASON,
    ROWS,
    SLICES,
    SPACING,
    Change,
    edit,
    noise,
    setting,
    write_series,
)

pydicom = pytest.importorskip("pydicom", reason=REASON)
dcm2niix = pytest.importorskip("dcm2niix", reason=REASON)

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def rotation(axis: int, degrees: float) -> np.ndarray:
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[[first, first, second, second], [first, second, first, second]] = (
        *(cosine, -sine),
        *(sine, cosine),
    )
    return matrix


def tilted(degrees: float, step: float = 2.0, axis: int = 0) -> Any:
    """Image planes turned about `axis`, while the table still moves along z."""
    turned = rotation(axis, degrees)
    return turned[:, 0], turned[:, 1], np.array([0.0, 0.0, step])


def places(plane: Any = AXIAL, at: Any = range(SLICES)) -> np.ndarray:
    """(slices, rows, columns, 3), places of pixels in mm, LPS, by DICOM's formula."""
    row, column, step = np.asarray(plane)
    k, j, i = np.meshgrid(at, np.arange(ROWS), np.arange(COLUMNS), indexing="ij")
    moved = [
        index[..., None] * vector
        for index, vector in ((k, step), (j, column * SPACING[0]), (i, row * SPACING[1]))
    ]
    return np.array(ORIGIN) + sum(moved)


def assert_same(image: Any, hu: np.ndarray, where: np.ndarray) -> None:
    """Every pixel is found at its place, with its value, and no voxel is left over."""
    assert image.shape == (1, COLUMNS, ROWS, SLICES)
    ras = where * [-1, -1, 1]
    to_voxel = np.linalg.inv(image.affine.numpy())
    voxels = ras @ to_voxel[:3, :3].T + to_voxel[:3, 3]
    index = voxels.round().astype(int)
    np.testing.assert_allclose(voxels, index, atol=1e-4)
    assert len(np.unique(index.reshape(-1, 3), axis=0)) == hu.size
    np.testing.assert_array_equal(image.numpy()[0][tuple(np.moveaxis(index, -1, 0))], hu)


def centroid(image: Any) -> np.ndarray:
    """Centre of what is brighter than air, in mm, RAS."""
    weight = image.numpy()[0].astype(float) + 1000
    affine = image.affine.numpy()
    voxels = np.stack(np.meshgrid(*map(np.arange, weight.shape), indexing="ij"), -1)
    mean = (voxels * weight[..., None]).sum((0, 1, 2)) / weight.sum()
    return np.asarray(affine[:3, :3] @ mean + affine[:3, 3])


OBLIQUE = rotation(0, 20) @ rotation(2, 10) @ rotation(1, 7)
PLANES = {
    "axial": AXIAL,
    "axial, last slice first": (*AXIAL[:2], (0.0, 0.0, -2.0)),
    "oblique": (*OBLIQUE.T[:2], 2 * OBLIQUE[:, 2]),
    "oblique, last slice first": (*OBLIQUE.T[:2], -2 * OBLIQUE[:, 2]),
    "coronal": ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 2.0, 0.0)),
    "sagittal": ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0), (2.0, 0.0, 0.0)),
}


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize("plane", PLANES.values(), ids=PLANES.keys())
def test_voxels_and_affine_are_those_of_the_headers(
    tmp_path: Path, plane: Any, signed: bool
) -> None:
    image = read_series(write_series(tmp_path / "s", plane=plane, signed=signed))
    assert_same(image, noise(), places(plane))


def test_follows_the_conventions_of_a_scan(tmp_path: Path) -> None:
    image = read_series(str(write_series(tmp_path / "s")))
    row, column, step = np.asarray(AXIAL)
    truth = np.eye(4)
    truth[:3] = np.stack([row * SPACING[1], column * SPACING[0], step, ORIGIN], axis=1)
    np.testing.assert_allclose(image.affine.numpy(), LPS_TO_RAS @ truth, atol=1e-12)
    np.testing.assert_array_equal(image.numpy()[0], noise().T)
    assert str(image.dtype) == "torch.float32"
    assert image.is_contiguous()
    assert image.applied_operations == []
    assert image.meta["filename_or_obj"] == str(tmp_path / "s")
    np.testing.assert_array_equal(image.meta["original_affine"], image.affine.numpy())
    assert list(image.meta["spatial_shape"]) == [COLUMNS, ROWS, SLICES]


INSTANCE_NUMBERS: dict[str, Change] = {
    "missing": lambda data, number: delattr(data, "InstanceNumber"),
    "all the same": setting(InstanceNumber=1),
    "backwards": lambda data, number: setattr(data, "InstanceNumber", SLICES - number),
}


@pytest.mark.parametrize("change", INSTANCE_NUMBERS.values(), ids=INSTANCE_NUMBERS.keys())
def test_order_is_that_of_the_positions(tmp_path: Path, change: Change) -> None:
    assert_same(read_series(write_series(tmp_path / "s", change=change)), noise(), places())


@pytest.mark.parametrize(
    ("folder", "name"),
    [("a b'c\"$(x)`é", "; image & {:d}.dcm"), ("-o", "{:d}"), ("100%", "1.2.840.%s.{:d}")],
)
def test_any_names_will_do(tmp_path: Path, folder: str, name: str) -> None:
    series = write_series(tmp_path / folder, name=name)
    assert is_series(series)
    assert_same(read_series(series), noise(), places())


def test_relative_paths_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "s")
    monkeypatch.chdir(tmp_path)
    assert_same(read_series("s"), noise(), places())


def test_hu_of_each_slice_by_its_own_slope_and_intercept(tmp_path: Path) -> None:
    def change(data: Any, number: int) -> None:
        data.RescaleSlope, data.RescaleIntercept = 1 + number / 4, -1000 - number

    image = read_series(write_series(tmp_path / "s", change=change))
    number = np.arange(SLICES)[:, None, None]
    assert_same(image, (noise() + 1024) * (1 + number / 4) - 1000 - number, places())


def test_scaling_for_display_does_not_change_hu(tmp_path: Path) -> None:
    def change(data: Any, number: int) -> None:
        data.Manufacturer = "Philips"
        block = data.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
        block.add_new(0x0E, "FL", 0.5)
        block.add_new(0x0D, "FL", 0.1)

    assert_same(read_series(write_series(tmp_path / "s", change=change)), noise(), places())


def test_settings_that_vary_do_not_split_the_volume(tmp_path: Path) -> None:
    def change(data: Any, number: int) -> None:
        data.AcquisitionNumber = data.Exposure = data.EchoTime = number
        data.KVP = 100 + number
        data.AcquisitionTime = data.ContentTime = data.SeriesTime = f"1200{number:02d}"
        data.ProtocolName = data.SeriesDescription = f"part {number}"

    assert_same(read_series(write_series(tmp_path / "s", change=change)), noise(), places())


def test_overlays_are_left_aside(tmp_path: Path) -> None:
    def change(data: Any, number: int) -> None:
        for element, vr, value in (
            *((0x10, "US", ROWS), (0x11, "US", COLUMNS), (0x40, "CS", "G"), (0x50, "SS", [1, 1])),
            *((0x100, "US", 1), (0x102, "US", 0), (0x3000, "OW", b"\1" * (ROWS * COLUMNS // 8))),
        ):
            data.add_new(0x60000000 + element, vr, value)

    assert_same(read_series(write_series(tmp_path / "s", change=change)), noise(), places())


def test_compressed_pixels_are_read(tmp_path: Path) -> None:
    from pydicom.uid import RLELossless

    series = write_series(tmp_path / "s")
    edit(series, lambda data, number: data.compress(RLELossless))
    assert_same(read_series(series), noise(), places())


def test_rounded_positions_do_not_add_up(tmp_path: Path) -> None:
    at = np.round(np.arange(40) * 1.25, 1)
    hu = np.tile(noise(), (4, 1, 1))
    image = read_series(
        write_series(tmp_path / "s", hu, at=at, plane=(*AXIAL[:2], (0.0, 0.0, 1.0)))
    )
    ends = image.affine.numpy() @ np.array([[0, 0, 0, 1], [0, 0, 39, 1]]).T
    np.testing.assert_allclose(ends[2], [ORIGIN[2], ORIGIN[2] + at[-1]], atol=1e-9)
    np.testing.assert_array_equal(image.numpy()[0], hu.T)


UNEVEN = np.cumsum([0, 1, 1, 1, 1.3, 1, 0.8, 1, 1, 1.2])
STACKS = {
    "uneven": (AXIAL, UNEVEN),
    "uneven, last slice first": (PLANES["axial, last slice first"], UNEVEN),
    "uneven oblique": (PLANES["oblique"], UNEVEN),
    **{
        f"tilt {degrees} about {'xy'[axis]}, step {step}": (
            tilted(degrees, step, axis),
            np.arange(SLICES),
        )
        for degrees, step, axis in itertools.product((15, -15), (2.0, -2.0), (0, 1))
    },
    "tilt 1": (tilted(1), np.arange(SLICES)),
    "uneven tilt": (tilted(-20), UNEVEN),
}


@pytest.mark.parametrize(("plane", "at"), STACKS.values(), ids=STACKS.keys())
def test_corrected_volumes_keep_every_place(tmp_path: Path, plane: Any, at: Any) -> None:
    """HU that rise linearly along an axis stay that function of the place when interpolated."""
    inside_voxels = 0
    for axis in range(3):
        hu = (places(plane, at)[..., axis] * 20).round()
        image = read_series(write_series(tmp_path / f"{axis}", hu, plane=plane, at=at))
        affine = image.affine.numpy()
        cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        np.testing.assert_allclose(cosines.T @ cosines, np.eye(3), atol=1e-7)
        voxels = np.stack(np.meshgrid(*map(np.arange, image.shape[1:]), indexing="ij"), -1)
        lps = (voxels @ affine[:3, :3].T + affine[:3, 3]) * [-1, -1, 1]
        inside = within(lps, plane, at)
        np.testing.assert_allclose(image.numpy()[0][inside], lps[inside][:, axis] * 20, atol=0.51)
        inside_voxels = int(inside.sum())
    assert inside_voxels > 0.6 * hu.size


#: Slices of 2 mm at the base, which overlap those of 4 mm above in one place.
TWO_THICKNESSES = np.array([0, 1, 2, 3, 4, 4.4, 6.4, 8.4, 10.4, 12.4])


def thicker_above(at: np.ndarray) -> Change:
    """State the thickness of each slice; it is known by its position."""

    def change(data: Any, number: int) -> None:
        data.SliceThickness = 2 if at[number] <= 4 else 4

    return change


@pytest.mark.parametrize("plane", [AXIAL, tilted(18), tilted(-18, axis=1), PLANES["oblique"]])
def test_two_thicknesses_become_one_grid_of_the_finer(tmp_path: Path, plane: Any) -> None:
    at = TWO_THICKNESSES
    for axis in range(3):
        hu = (places(plane, at)[..., axis] * 20).round()
        series = write_series(
            tmp_path / f"{axis}", hu, plane=plane, at=at, change=thicker_above(at)
        )
        image = read_series(series)
        affine = image.affine.numpy()
        step = np.linalg.norm(affine[:3, 2])
        height = at[-1] * np.cross(plane[0], plane[1]) @ plane[2]
        assert image.shape[3] == round(at[-1]) + 1
        np.testing.assert_allclose(step * (image.shape[3] - 1), abs(height))
        voxels = np.stack(np.meshgrid(*map(np.arange, image.shape[1:]), indexing="ij"), -1)
        lps = (voxels @ affine[:3, :3].T + affine[:3, 3]) * [-1, -1, 1]
        inside = within(lps, plane, at)
        assert inside.mean() > 0.4
        np.testing.assert_allclose(image.numpy()[0][inside], lps[inside][:, axis] * 20, atol=0.51)


def test_a_slice_that_is_missing_among_two_thicknesses_is_noticed(tmp_path: Path) -> None:
    at = TWO_THICKNESSES + np.array([0] * 7 + [2] * 3)  # 4 mm more above
    series = write_series(tmp_path / "a", at=at, change=thicker_above(at))
    with pytest.raises(UserError, match=r"slices are missing.* 8 mm apart instead of 4 mm"):
        read_series(series)
    wide = TWO_THICKNESSES
    with pytest.raises(UserError, match=r"slices are missing.* 4 mm apart instead of 2 mm"):
        read_series(write_series(tmp_path / "b", at=wide))  # all are said to be 2 mm thick


def test_the_tilted_head_of_two_thicknesses(real_data: Path, tmp_path: Path) -> None:
    """neurolabusc/dcm_qa_ct: 4 mm at the base, 7 mm above, the gantry tilted by 18.5 degrees."""
    archive = real_data / "real" / "files" / "head_tilt_uneven_ge_dicom.zip"
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path)
    image = read_series(find_series(tmp_path)[0])
    assert image.shape == (1, 512, 611, 37)
    np.testing.assert_allclose(np.linalg.norm(image.affine.numpy()[:3, 2]), 144.1 / 36, rtol=1e-3)


def within(lps: np.ndarray, plane: Any, at: Any) -> np.ndarray:
    """Which places lie between the outermost pixel centres of the series.

    Of an uneven tilted series the rim is left out: straight above or below a place there, the next
    slice has no pixel.
    """
    row, column, step = np.asarray(plane)
    basis = np.stack([row * SPACING[1], column * SPACING[0], step], axis=1)
    index = (lps - ORIGIN) @ np.linalg.inv(basis).T
    ends = np.array([COLUMNS - 1, ROWS - 1, at[-1]])
    shift = np.abs([step @ row / SPACING[1], step @ column / SPACING[0], 0]) * np.diff(at).max()
    rim = shift * (np.ptp(np.diff(at)) > 1e-6)
    return np.asarray(((index > rim - 1e-3) & (index < ends - rim + 1e-3)).all(-1))


@pytest.mark.parametrize("degrees", [18, -18])
@pytest.mark.parametrize("step", [2.0, -2.0])
def test_a_tilted_gantry_leaves_an_object_where_it_was(
    tmp_path: Path, degrees: float, step: float
) -> None:
    def blob(plane: Any) -> np.ndarray:
        where = places(plane)
        away = ((where - center) ** 2).sum(-1)
        return (-1000 + 1500 * np.exp(-away / (2 * 1.6**2))).round()

    plane = tilted(degrees, step)
    center = places(plane)[4, 8, 10]
    image = read_series(write_series(tmp_path / "s", blob(plane), plane=plane))
    np.testing.assert_allclose(centroid(image), center * [-1, -1, 1], atol=0.05)
    assert image.numpy().min() == -1000  # corners that open are air


def test_an_even_upright_series_is_not_interpolated(tmp_path: Path) -> None:
    plane = tilted(0.3)  # 0.1 pixels from end to end
    image = read_series(write_series(tmp_path / "s", plane=plane))
    np.testing.assert_array_equal(image.numpy()[0], noise().T)


def of(keyword: str) -> Change:
    return lambda data, number: delattr(data, keyword)


def shifted(data: Any, number: int) -> None:
    data.ImagePositionPatient[0] += 3.0


REFUSALS: dict[str, tuple[Change, slice, str]] = {
    "modality": (setting(Modality="MR"), slice(None), "10 of 10 images.*modality MR, not CT"),
    "no modality": (of("Modality"), slice(None), "modality missing, not CT"),
    "localizer": (
        setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        slice(2),
        r"2 of 10 images, such as image 000.dcm: a localizer \(scout\)",
    ),
    "multi-frame": (setting(NumberOfFrames=2, Rows=ROWS // 2), slice(None), "enhanced multi-frame"),
    "colour": (setting(SamplesPerPixel=3, Columns=6), slice(None), "a colour picture, not HU"),
    "no position": (of("ImagePositionPatient"), slice(1), "1 of 10.*no ImagePositionPatient"),
    "empty position": (setting(ImagePositionPatient=None), slice(1), "no ImagePositionPatient"),
    "no orientation": (of("ImageOrientationPatient"), slice(1), "no ImageOrientationPatient"),
    "no spacing": (of("PixelSpacing"), slice(1), "no PixelSpacing"),
    "no plane": (
        setting(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]),
        slice(None),
        "ImageOrientationPatient .* is none",
    ),
    "orientations": (
        setting(ImageOrientationPatient=[1, 0, 0, 0, 0, -1]),
        slice(3, 5),
        "ImageOrientationPatient differs in 2 of 10 images, such as image 003.dcm",
    ),
    "sizes": (setting(Rows=ROWS // 2), slice(1), "size in pixels differs in 1 of 10"),
    "spacings": (setting(PixelSpacing=[0.8, 0.8]), slice(1), "PixelSpacing differs in 1 of 10"),
    "one position": (
        setting(ImagePositionPatient=list(ORIGIN)),
        slice(None),
        "9 of 10 images lie where another does, such as image",
    ),
    "sideways": (shifted, slice(4, 5), "shifted sideways by 4.29 pixels"),
}


@pytest.mark.parametrize(("change", "which", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refuses_what_is_no_ct_volume(
    tmp_path: Path, change: Change, which: slice, message: str
) -> None:
    # names in the order of the slices, so that the middle of the stack is changed in the middle
    series = write_series(tmp_path / "s")
    by_depth = sorted(
        series.iterdir(), key=lambda path: pydicom.dcmread(path).ImagePositionPatient[2]
    )
    renamed = tmp_path / "series"
    renamed.mkdir()
    for number, path in enumerate(by_depth):
        path.rename(renamed / f"image {number:03d}.dcm")
    edit(renamed, change, which)
    with pytest.raises(UserError, match=message) as refused:
        read_series(renamed)
    assert str(refused.value).startswith(f"{renamed}: ")
    assert str(refused.value).count(": ") >= 2  # where, what, what to do


def test_refuses_two_series_in_one_folder(tmp_path: Path) -> None:
    write_series(tmp_path / "s", name="a{:d}.dcm")
    write_series(
        tmp_path / "s", noise()[:3], at=range(3), name="b{:d}.dcm", change=setting(SeriesNumber=2)
    )
    with pytest.raises(UserError, match=r"more than one series \(10 CT in series 4, 3 CT in ser"):
        read_series(tmp_path / "s")


@pytest.mark.parametrize("count", [1, 7])
def test_refuses_a_few_images(tmp_path: Path, count: int) -> None:
    series = write_series(tmp_path / "s", noise()[:count], at=range(count))
    with pytest.raises(UserError, match=f"{count} images, and fewer than 8 make no volume"):
        read_series(series)


def test_refuses_missing_slices(tmp_path: Path) -> None:
    series = write_series(tmp_path / "s", at=[0, 1, 2, 3, 4, 6, 7, 8, 9, 10])
    with pytest.raises(UserError, match=r"slices are missing.* 4 mm apart instead of 2 mm"):
        read_series(series)


CUTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "within the preamble": lambda content: content[:100],
    "after the preamble": lambda content: content[:132],
    "within the meta header": lambda content: content[:250],
    "within the header": lambda content: content[:500],
    "before the pixels": lambda content: content[: -ROWS * COLUMNS * 2 - 12],
    "within the pixels": lambda content: content[:-10],
    "overwritten": lambda content: b"<html>404</html>" * 50,
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS.keys())
def test_refuses_damaged_files(tmp_path: Path, cut: Callable[[bytes], bytes]) -> None:
    series = write_series(tmp_path / "s")
    path = sorted(series.iterdir())[-1]
    path.write_bytes(cut(path.read_bytes()))
    with pytest.raises(UserError, match=r"image 009.dcm is damaged or cut off \(.+\): export"):
        read_series(series)
    with pytest.raises(UserError, match="is damaged or cut off"):
        series_files(series)


def test_refuses_a_truncated_compressed_file(tmp_path: Path) -> None:
    from pydicom.uid import RLELossless

    series = write_series(tmp_path / "s")
    edit(series, lambda data, number: data.compress(RLELossless))
    path = sorted(series.iterdir())[4]
    path.write_bytes(path.read_bytes()[:-250])
    with pytest.raises(UserError, match=r"dcm2niix fails with 1 \(.*not large enough"):
        read_series(series)


def test_refuses_folders_without_dicom(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello" * 100)
    with pytest.raises(UserError, match="no DICOM image in this folder: give the folder"):
        read_series(tmp_path)
    with pytest.raises(UserError, match="no such folder: check the path"):
        read_series(tmp_path / "nowhere")


def program(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


PROGRAMS = {
    "fails": (
        "echo 'first' >&2; echo 'no space left' >&2; exit 7",
        r"fails with 7 \(no space left",
    ),
    "says nothing": ("exit 0", r"fails with 0 \(no message\): convert it to NIfTI"),
    "hangs": ("exec sleep 60", "dcm2niix was stopped after 0.2 s: copy the series"),
}


@pytest.mark.parametrize(("script", "message"), PROGRAMS.values(), ids=PROGRAMS.keys())
def test_trouble_with_dcm2niix_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(dcm2niix, "bin", program(tmp_path / "program", script))
    monkeypatch.setattr(reading, "TIMEOUT", 0.2)
    with pytest.raises(UserError, match=message):
        read_series(write_series(tmp_path / "s"))
    assert list(temporary.iterdir()) == []


def test_dcm2niix_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dcm2niix, "bin", str(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"dcm2niix does not run .*: reinstall it"):
        read_series(write_series(tmp_path / "s"))


def test_slices_that_dcm2niix_leaves_out_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f'for last; do :; done; rm "$last/00009.dcm"; exec "{dcm2niix.bin}" "$@"'
    monkeypatch.setattr(dcm2niix, "bin", program(tmp_path / "program", script))
    with pytest.raises(UserError, match=r"dcm2niix makes \(20, 16, 9\) of 10 images of \(20, 16\)"):
        read_series(write_series(tmp_path / "s"))


def test_pixels_that_dcm2niix_alters_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = reading._decode
    monkeypatch.setattr(reading, "_decode", lambda *args: decode(*args)[..., ::-1])
    with pytest.raises(UserError, match=r"dcm2niix alters image \d+.dcm"):
        read_series(write_series(tmp_path / "s"))


def test_defaults_of_the_user_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".dcm2nii.ini").write_text("isGZ=1\nfilename=%p_%s\nisMaximize16BitRange=1\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert_same(read_series(write_series(tmp_path / "s")), noise(), places())


@pytest.mark.parametrize("package", ["pydicom", "dcm2niix"])
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    series = write_series(tmp_path / "s")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf'{package} is needed to .* "ct-fm-bundles\[dicom\]"'):
        read_series(series)


def test_import_needs_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series = write_series(tmp_path / "s")
    for package in ("pydicom", "dcm2niix"):
        monkeypatch.setitem(sys.modules, package, None)
    for module in [name for name in sys.modules if name.startswith("ctfm.imaging.dicom")]:
        monkeypatch.delitem(sys.modules, module)
    # which importing it afresh replaces
    monkeypatch.setattr(ctfm.imaging, "dicom", ctfm.imaging.dicom)
    afresh = importlib.import_module("ctfm.imaging.dicom.headers")
    assert afresh.find_series is not find_series
    assert afresh.find_series(tmp_path) == [series]


def report(data: Any, number: int) -> None:
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = pydicom.uid.BasicTextSRStorage
    data.Modality, data.SeriesInstanceUID = "SR", "1.2.3"
    for keyword in ("Rows", "Columns", "PixelData"):
        delattr(data, keyword)


def test_reports_and_other_files_beside_the_images_are_skipped(tmp_path: Path) -> None:
    series = write_series(tmp_path / "s", name="slice {:d}.dcm")
    write_series(series, noise()[:1], at=[0], name="report {:d}.dcm", change=report)
    (series / "notes.txt").write_text("hello")
    (series / "._slice 1.dcm").write_bytes(b"left by another system")
    (series / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (series / "more").mkdir()
    assert [path.name for path in series_files(series)] == [f"slice {i}.dcm" for i in range(SLICES)]
    assert_same(read_series(series), noise(), places())


def test_finds_series_in_order(tmp_path: Path) -> None:
    root = tmp_path / "root"
    few = noise()[:1]
    for name in ("b/2", "b/10", "a", ".hidden", "b"):
        write_series(root / name, few, at=[0])
    write_series(root / "c/no suffix", few, at=[0], name="1.2.840.{:d}")
    (root / "d").mkdir()
    (root / "d" / "ct.nii.gz").write_bytes(b"\x1f\x8b" * 100)
    (root / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    found = [str(path.relative_to(root)) for path in find_series(root)]
    assert found == ["a", "b", "b/10", "b/2", "c/no suffix"]
    assert find_series(root / "a") == [root / "a"]
    assert find_series(root / "d") == []


def test_links_to_series_are_found(tmp_path: Path) -> None:
    for name in ("far/s", "far/s/deeper"):
        write_series(tmp_path / name, noise()[:1], at=[0])
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "far" / "s")
    (root / "circle").symlink_to(root)
    assert find_series(root) == [root / "link", root / "link" / "deeper"]


def test_a_few_files_decide_whether_a_folder_is_a_series(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    write_series(folder, noise()[:1], at=[0])
    for number in range(headers.FILES_LOOKED_AT + 1):
        (folder / f"a{number}.txt").touch()
    assert is_series(folder)
    assert is_series(str(folder))
    assert not is_series(folder / "image 000.dcm")
    assert not is_series(tmp_path)
    assert not is_series(tmp_path / "nowhere")


def test_damaged_files_make_a_series_by_their_names(tmp_path: Path) -> None:
    """It is refused with its reason, not passed over in silence."""
    (tmp_path / "1.dcm").touch()
    assert find_series(tmp_path) == [tmp_path]
    with pytest.raises(UserError, match=r"1\.dcm is damaged or cut off"):
        read_series(tmp_path)


def test_files_that_cannot_be_opened_make_no_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(path)

    (tmp_path / "ct.nii.gz").touch()
    monkeypatch.setattr(headers, "is_dicom", refuse)
    assert not is_series(tmp_path)

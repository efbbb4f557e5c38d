"""A CT series as one volume: pixels decoded by dcm2niix, placed by the headers.

dcm2niix knows every transfer syntax in use. Its own geometry is left alone: it takes the first gap
for the spacing, which misplaces the last slice by centimetres where positions are rounded to
0.1 mm, and puts most volumes that it corrects for tilt some millimetres off.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

from ctfm.base.errors import UserError
from ctfm.base.optional import require
from ctfm.base.types import Array
from ctfm.imaging.dicom.geometry import Grid, on_even_grid, sort_slices
from ctfm.imaging.dicom.headers import Slice, check_series, lacks_preamble, read_headers

__all__ = ["read_series", "read_volume"]

#: Seconds after which dcm2niix is given up; 300 slices of 512 x 512 take it 0.6 s.
TIMEOUT = 600
#: What DICOM files begin with.
PREAMBLE = b"\0" * 128 + b"DICM"


def read_series(folder: str | os.PathLike[str]) -> MetaTensor:
    """Read a CT series; uneven spacing and a tilted gantry are corrected by interpolation.

    Returns:
        (1, X, Y, Z), float32, HU, axes along columns, rows and the normal of the image plane,
        with the affine to RAS+ in mm. Corners that the correction of a tilt opens take the
        darkest value.

    Raises:
        UserError: the folder holds anything but one sound CT series.
    """
    folder = Path(folder)
    return read_volume(folder, read_headers(folder))


def read_volume(folder: Path, headers: Sequence[Slice]) -> MetaTensor:
    """Read some of the images of a folder as one CT series; otherwise as `read_series`.

    Args:
        folder: named in messages and in the meta data.
        headers: the images, of this or of another folder.

    Raises:
        UserError: these are not the images of one sound CT series.
    """
    check_series(folder, headers)
    slices, grid = sort_slices(folder, headers)
    raw = _decode(folder, slices, grid)
    _check_ends(folder, slices, raw)
    hu = torch.from_numpy(raw.astype(np.float32))
    hu *= torch.tensor([header.slope for header in slices])
    hu += torch.tensor([header.intercept for header in slices])
    volume, affine = on_even_grid(hu, grid)
    meta = {
        "affine": torch.from_numpy(affine),
        "original_affine": affine.copy(),
        "space": "RAS",
        "spatial_shape": np.array(volume.shape),
        "original_channel_dim": math.nan,
        "filename_or_obj": str(folder),
    }
    return MetaTensor(volume[None].contiguous(), meta=meta)


def _decode(folder: Path, slices: Sequence[Slice], grid: Grid) -> Array:
    """The stored pixels, (X, Y, Z) in the order of `slices`, before slope and intercept."""
    as_nifti = "convert it to NIfTI in another way"
    with TemporaryDirectory(prefix="ctfm-dicom-") as work:
        source, target = Path(work, "in"), Path(work, "out")
        source.mkdir()
        target.mkdir()
        for number, header in enumerate(slices):
            _link(header.path.absolute(), source / f"{number:05d}.dcm")
        code, said = _run_dcm2niix(folder, source, target)
        if code != 0 or not (target / "ct.nii").exists():
            raise UserError(f"{folder}: dcm2niix fails with {code} ({said}): {as_nifti}")
        volume = nib.load(target / "ct.nii")
        raw = np.array(volume.dataobj.get_unscaled())
    if raw.shape != (*slices[0].shape, len(slices)):
        raise UserError(
            f"{folder}: dcm2niix makes {raw.shape} of {len(slices)} images of {slices[0].shape} "
            f"({said}): {as_nifti}"
        )
    directions = np.diag([-1, -1, 1]) @ volume.affine[:3, :3]
    backwards = np.flatnonzero((directions * grid.axes).sum(axis=0) < 0)
    return np.asarray(np.flip(raw, tuple(backwards.tolist())))


def _link(file: Path, link: Path) -> None:
    if lacks_preamble(file):
        link.write_bytes(PREAMBLE + file.read_bytes())
        return
    try:
        link.symlink_to(file)
    except OSError:  # file systems and accounts without symbolic links
        shutil.copyfile(file, link)


def _run_dcm2niix(folder: Path, source: Path, target: Path) -> tuple[int, str]:
    """Convert to `target`/ct.nii; the exit status and the last words."""
    # no defaults of the user's, no sidecar, uncompressed, no rotation, one volume whatever the
    # exposure, values as stored (its own scaling of Philips images leaves HU), no comment
    switches = {"-g": "i", "-b": "n", "-z": "n", "-x": "i", "-m": "y", "-p": "n", "-c": ""}
    places = {"-d": "0", "-f": "ct", "-o": str(target)}
    options = [word for pair in {**switches, **places}.items() for word in pair]
    binary = require("dcm2niix", purpose="read DICOM", extra="dicom").bin
    try:
        done = subprocess.run(
            [binary, *options, str(source)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"{folder}: dcm2niix was stopped after {TIMEOUT} s: copy the series to a local disk"
        ) from error
    except OSError as error:
        raise UserError(f"{folder}: dcm2niix does not run ({error}): reinstall it") from error
    said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
    return done.returncode, said.replace(f"{source}{os.sep}", "")


def _check_ends(folder: Path, slices: Sequence[Slice], raw: Array) -> None:
    """Compare both end slices with their files, where these are not compressed."""
    dcmread = require("pydicom", purpose="read DICOM", extra="dicom").dcmread
    for index in (0, -1):
        header = slices[index]
        if header.packed:
            continue
        try:
            stored = _pixels(dcmread(header.path, force=True))
        except Exception as error:
            raise UserError(
                f"{folder}: {header.path.name} cannot be decoded ({error}): export it again"
            ) from error
        if not np.array_equal(stored, raw[..., index]):
            raise UserError(f"{folder}: dcm2niix alters {header.path.name}: convert it to NIfTI")


def _pixels(data: Any) -> Array:
    """The stored pixels (X, Y); a file without meta information does not name its syntax."""
    if "TransferSyntaxUID" not in data.file_meta:
        implicit, little = data.original_encoding
        uid = require("pydicom", purpose="read DICOM", extra="dicom").uid
        plain = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        data.file_meta.TransferSyntaxUID = plain if little else uid.ExplicitVRBigEndian
    return np.asarray(data.pixel_array.T)

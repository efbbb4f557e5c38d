"""What a NIfTI file says of itself, and where that cannot be."""

from __future__ import annotations

from os import PathLike, fspath
from typing import Any

import numpy as np

from ctfm.base.errors import UserError
from ctfm.base.types import Array
from ctfm.imaging.grids import farthest_corner_mm

__all__ = [
    "CONFLICT",
    "ORIENTED",
    "check_compression",
    "check_values",
    "header_conflict",
    "is_oriented",
]

#: Key of a volume's meta data: what `header_conflict` says of its file.
CONFLICT = "header_conflict"
#: The same: whether its file says how the patient lies.
ORIENTED = "oriented"
#: Two statements of a header differ where voxels move by more than this share of their size.
TOLERANCE = 0.05
GZIP = b"\x1f\x8b"
#: Bytes of a NIfTI header, which its first number says.
SIZES = {348, 540}


def check_compression(path: str | PathLike[str]) -> None:
    """Refuse a file whose name and first bytes disagree on whether it is compressed.

    Raises:
        UserError: it is renamed by the user.
        OSError: it cannot be opened.
    """
    name = fspath(path)
    with open(path, "rb") as file:
        start = file.read(4)
    if name.lower().endswith(".gz"):
        if {int.from_bytes(start, order) for order in ("little", "big")} & SIZES:
            raise UserError(
                f"{name}: is not compressed, although its name ends in .gz: rename it .nii"
            )
        return
    if start.startswith(GZIP):
        raise UserError(f"{name}: is compressed by gzip: rename it so that it ends in .nii.gz")


def check_values(image: Any, path: str | PathLike[str]) -> None:
    """Refuse voxels that are no numbers.

    Args:
        image: of nibabel.
        path: for the message.

    Raises:
        UserError: they are colours, or complex.
    """
    dtype = image.get_data_dtype()
    if dtype.names is not None:
        raise UserError(
            f"{fspath(path)}: its voxels are colours ({''.join(dtype.names)}), a picture and no "
            "measured values: give the CT that it was made from"
        )
    if dtype.kind == "c":
        raise UserError(f"{fspath(path)}: its voxels are complex numbers, not HU: give a CT")


def is_oriented(header: Any) -> bool:
    """Whether a header says how the patient lies: one of its codes is above 0."""
    return int(header["qform_code"]) > 0 or int(header["sform_code"]) > 0


def header_conflict(header: Any) -> str:
    """What a NIfTI header says twice and differently about its grid; empty: nothing that matters.

    The affine is nibabel's: the sform, where its code is above 0; else the qform, which takes its
    voxel sizes from pixdim. MONAI's reader puts such headers right by guessing, which mirrors a
    body or scales it.

    Args:
        header: of a nibabel image.
    """
    if int(header["sform_code"]) <= 0:
        return ""
    sform, sizes = header.get_sform(), np.asarray(header.get_zooms()[:3], dtype=float)
    norms = np.linalg.norm(sform[:3, :3], axis=0)
    if np.any(np.abs(norms - sizes) > TOLERANCE * norms):
        return (
            f"its header says twice how large voxels are: {_sizes(norms)} mm (sform, taken) and "
            f"{_sizes(sizes)} mm (pixdim); correct it if the first is wrong"
        )
    if int(header["qform_code"]) <= 0:
        return ""
    shape = tuple(int(n) for n in header["dim"][1:4])
    apart = farthest_corner_mm(shape, sform, header.get_qform())
    if apart > max(TOLERANCE * norms.min(), 1e-3 * float(np.linalg.norm(norms * shape))):
        return (
            f"its header says twice where it lies, up to {apart:.3g} mm apart: the sform is taken, "
            "not the qform; correct it if that is wrong"
        )
    return ""


def _sizes(millimetres: Array) -> str:
    return " x ".join(f"{one:.4g}" for one in millimetres)

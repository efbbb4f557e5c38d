"""Volumes in one file: what the header says, and whether values are HU, without torch.

A NIfTI, NRRD or MHA file holds no slice thickness and no modality. The distance from slice to
slice stands for the thickness; that 8-bit values are no CT is all the header tells of the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from ctfm.datalists.selection import Exclusion, Reason, Selection
from ctfm.imaging.file_names import is_nifti
from ctfm.imaging.grids import axes_problem, spacing_of
from ctfm.imaging.hounsfield import value_problem
from ctfm.imaging.nifti import opened_image

__all__ = ["Stack", "inspect_file", "slice_axis"]

#: Spacings that differ by less, relatively, are the same.
SAME_SPACING = 0.01
#: Slices are axial if the cosine of their lean to the body's axis is at least this (45 degrees).
AXIAL = math.cos(math.radians(45))
#: Where slices are looked at: parts of the way through the last stored axis.
LOOKED_AT = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Header:
    """What a file's header says.

    Attributes:
        shape: voxels along each stored axis; those of length 1 at the end are left out.
        channels: values a voxel.
        directions: (3, 3), its columns are the steps along the stored axes in mm; third row up.
        eight_bits: the values stored are bytes, and nothing scales them.
        oriented: the header states an orientation.
    """

    shape: tuple[int, ...]
    channels: int
    directions: npt.NDArray[np.float64]
    eight_bits: bool
    oriented: bool = True


@dataclass(frozen=True)
class Stack:
    """How a file's slices lie: their number, their distance in mm, and whether they are axial."""

    slices: int
    distance: float
    axial: bool


def _stack_of(header: Header) -> Stack:
    axis = slice_axis(header.directions)
    step = header.directions[:, axis]
    distance = float(np.linalg.norm(step))
    return Stack(header.shape[axis], distance, bool(abs(step[2]) >= AXIAL * distance))


def inspect_file(
    root: Path, name: str, selection: Selection, check_values: bool = False
) -> Exclusion | Stack:
    """Read a file's header, and with `check_values` some slices.

    Args:
        root: folder of the archive.
        name: the file's path below it.
        selection: what is asked of a scan.
        check_values: also leave out what is not in Hounsfield units.

    Returns:
        Why the scan is left out, or how the slices of one that is taken lie.
    """
    path = root / name
    try:
        header = _read_header(path)
    except Exception as error:  # a damaged header may make the readers raise anything
        return Exclusion(name, Reason.UNREADABLE, _in_one_line(error))
    return (
        _exclude_kind(name, header)
        or _exclude_slices(name, header, selection)
        or (_exclude_values(path, name) if check_values else None)
        or _stack_of(header)
    )


def _read_header(path: Path) -> Header:
    if not path.is_file():
        raise ValueError("no file, or a link to none")
    if is_nifti(path):
        return _read_nifti(path)
    return _read_by_itk(path)


def _read_nifti(path: Path) -> Header:
    image = nib.load(path)
    if not isinstance(image, nib.Nifti1Image):  # NIfTI-2 is one of these
        raise ValueError(f"{type(image).__name__}, not NIfTI")
    header, proxy, shape = image.header, image.dataobj, tuple(int(n) for n in image.shape)
    dtype = header.get_data_dtype()
    needed = proxy.offset + math.prod(shape) * dtype.itemsize
    if path.suffix.lower() == ".nii" and path.stat().st_size < needed:
        raise ValueError(f"cut off: {path.stat().st_size} of {needed} bytes")
    return Header(
        shape=_without_ones(shape),
        channels=len(dtype.names or (None,)),
        directions=np.asarray(image.affine, float)[:3, :3],
        eight_bits=dtype.itemsize == 1 and (proxy.slope, proxy.inter) == (1, 0),
        oriented=bool(header["qform_code"] > 0 or header["sform_code"] > 0),
    )


def _read_by_itk(path: Path) -> Header:
    import itk  # takes seconds, for formats that many archives do not have

    mode = itk.CommonEnums.IOFileMode_ReadMode
    reader = itk.ImageIOFactory.CreateImageIO(str(path), mode)
    if reader is None:
        raise ValueError("not NRRD or MetaImage")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    axes = range(reader.GetNumberOfDimensions())
    steps = [np.array(reader.GetDirection(i)) * reader.GetSpacing(i) for i in axes]
    return Header(
        shape=_without_ones(tuple(int(reader.GetDimensions(i)) for i in axes)),
        channels=int(reader.GetNumberOfComponents()),
        directions=np.stack(steps, axis=1)[:3, :3],
        eight_bits=int(reader.GetComponentSize()) == 1,
    )


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _exclude_kind(name: str, header: Header) -> Exclusion | None:
    if len(header.shape) != 3 or header.channels != 1:
        found = f"{header.shape} voxels of {header.channels} values"
        return Exclusion(name, Reason.NO_VOLUME, found)
    if header.eight_bits:
        return Exclusion(name, Reason.NOT_CT, "8-bit values: a label map, a mask or a picture")
    if problem := axes_problem(header.directions):
        return Exclusion(name, Reason.ORIENTATION, problem)
    if not header.oriented:
        return Exclusion(name, Reason.ORIENTATION, "qform and sform code 0")
    return None


def _exclude_slices(name: str, header: Header, selection: Selection) -> Exclusion | None:
    axis = slice_axis(header.directions)
    spacing = float(spacing_of(header.directions)[axis])
    return selection.exclude_slices(name, header.shape[axis]) or selection.exclude_thickness(
        name, [spacing], "slices"
    )


def slice_axis(directions: npt.NDArray[np.float64]) -> int:
    """The stored axis that runs from slice to slice.

    Pixels of a CT are square, so the axis whose spacing differs from the other two, which agree,
    is that of the slices, in whatever plane they lie and in whatever order the file stores them.
    (The coarsest axis is wrong where slices are thinner than pixels, the superior one for coronal
    and sagittal series.) Where that does not tell, as in isotropic volumes, it is the axis that
    runs to superior, because nearly all CT is taken in axial slices.

    Args:
        directions: (3, 3), as in `Header`.
    """
    spacing = spacing_of(directions)
    for axis in range(3):
        others = np.delete(spacing, axis)
        if _same(*others) and not _same(spacing[axis], others.mean()):
            return axis
    return int(np.abs(directions[2] / spacing).argmax())


def _same(one: float, other: float) -> bool:
    return abs(one - other) <= SAME_SPACING * max(one, other)


def _exclude_values(path: Path, name: str) -> Exclusion | None:
    """One slice that shows air is enough; without one, the whole volume is judged."""
    try:
        if any(value_problem(part) is None for part in _some_slices(path)):
            return None
        problem = _volume_problem(path)
    except Exception as error:  # a damaged file may make the readers raise anything
        return Exclusion(name, Reason.UNREADABLE, _in_one_line(error))
    return Exclusion(name, Reason.VALUES, problem) if problem else None


def _some_slices(path: Path) -> Iterator[npt.NDArray[Any]]:
    """Some slices of a NIfTI file, each read when it is asked for; ITK reads volumes as a whole."""
    if is_nifti(path):
        image: Any = nib.load(path)
        for part in LOOKED_AT:
            yield np.asarray(image.dataobj[:, :, int(part * image.shape[2])])


def _volume_problem(path: Path) -> str | None:
    if is_nifti(path):
        with opened_image(path) as image:
            voxels = np.asarray(image.dataobj)
    else:
        import itk

        voxels = itk.array_from_image(itk.imread(str(path)))
    if not np.isfinite(voxels).all():
        return "has voxels that are NaN or infinite"
    return value_problem(voxels)


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"

"""One label file per scan, merged from TotalSegmentator's one mask per class.

Reading the masks is the cost. They are inflated block by block into one small buffer, because a
mask is mostly zeros and as large as the scan: about four times as fast as loading each with
nibabel, and the memory is one byte a voxel.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal import isal_zlib
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from ctfm.base.errors import UserError
from ctfm.base.workers import in_processes
from ctfm.imaging.nifti import open_stream, read_on, write_image

__all__ = ["Case", "Outcome", "merge_all", "merge_masks"]

RECIPE = "ctfm masks 1"  # to be counted up when the same masks would give another label file
BLOCK = 1 << 20  # bytes; a multiple of every voxel type's size
AFFINE_TOLERANCE_MM = 1e-3


class _OtherGridError(Exception):
    """A mask does not lie on the grid of its scan."""


_STREAM_ERROR = cast(type[Exception], isal_zlib.error)
_UNFIT = (_OtherGridError, EOFError, HeaderDataError, OSError, WrapStructError, _STREAM_ERROR)


@dataclass(frozen=True)
class Case:
    """A scan and its masks.

    Attributes:
        subject: its name in the release, such as "s0011".
        image: the CT (.nii.gz), whose grid the masks share.
        masks: class id, 1 to 255 -> mask (.nii.gz); a voxel above 0 belongs to the class.
        label: the file to write (.nii.gz).
    """

    subject: str
    image: Path
    masks: dict[int, Path]
    label: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        subject: its name in the release.
        problems: why there is no label file, one line each; empty: there is one.
        kept: the label file was there already.
    """

    subject: str
    problems: tuple[str, ...] = ()
    kept: bool = False


def merge_all(cases: Sequence[Case], workers: int | None = None) -> list[Outcome]:
    """Merge the masks of many scans, in as many processes, with a progress bar on a terminal.

    Args:
        cases: the scans.
        workers: processes; None: as many as this process may use cores; 1: none but this one.

    Returns:
        One outcome a case, in their order.

    Raises:
        UserError: `workers` is below 1, a label file cannot be written, or a process was killed.
    """
    return in_processes(
        merge_masks, cases, workers, task="merging masks", kept="what was merged is kept"
    )


def merge_masks(case: Case) -> Outcome:
    """Write the label file of one scan, unless it is there and newer than what it is made of.

    Where masks overlap, the higher id wins, as in TotalSegmentator's own training data (there a
    later class overwrites an earlier one: https://github.com/wasserth/TotalSegmentator/issues/350).

    Raises:
        UserError: the label file cannot be written, or a file may not be looked at.
    """
    files = {path: _stat(path) for path in (case.image, *case.masks.values())}
    if missing := [path.name for path, stat in files.items() if stat is None]:
        return Outcome(case.subject, tuple(_missing(case, missing)))
    stats = [stat for stat in files.values() if stat is not None]
    recipe = _recipe(case, [stat.st_size for stat in stats])
    if _is_current(case.label, recipe, max(stat.st_mtime_ns for stat in stats)):
        return Outcome(case.subject, kept=True)
    try:
        ct = _read_through(case.image)
    except _UNFIT as error:
        return Outcome(case.subject, (f"{case.image.name}: {error}",))
    labels = np.zeros(math.prod(ct.get_data_shape()), np.uint8)
    if problems := _paint_all(labels, case.masks, ct):
        return Outcome(case.subject, tuple(problems))
    _write(case.label, labels, ct, recipe)
    return Outcome(case.subject)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be reached: {error.strerror}") from error


def _missing(case: Case, names: list[str]) -> Iterator[str]:
    if case.image.name in names:
        yield f"no {case.image.name}"
    masks = [path.name for path in case.masks.values() if path.name in names]
    if masks:
        which = "" if len(masks) == len(case.masks) else f": {', '.join(masks)}"
        yield f"{len(masks)} of {len(case.masks)} masks are missing{which}"


def _recipe(case: Case, sizes: Sequence[int]) -> str:
    """What a label file is made of, short enough for the header's 80 bytes of description."""
    parts = [f"{i} {path.name}" for i, path in case.masks.items()]
    digest = hashlib.sha256(repr((parts, list(sizes))).encode()).hexdigest()
    return f"{RECIPE} {digest[:32]}"


def _is_current(label: Path, recipe: str, newest_ns: int) -> bool:
    try:
        if label.stat().st_mtime_ns < newest_ns:
            return False
        with _volume(label) as (header, _):
            written = bytes(header["descrip"].item()).decode("latin-1")
            return written == recipe
    except _UNFIT:
        return False


@contextmanager
def _volume(path: Path) -> Iterator[tuple[nib.Nifti1Header, BinaryIO]]:
    """The header of a .nii.gz file, and the inflated stream at its first voxel."""
    with open_stream(path) as stream:
        header = nib.Nifti1Header.from_fileobj(stream)
        stream.seek(header.get_data_offset())
        yield header, stream


def _voxels(header: nib.Nifti1Header, stream: BinaryIO) -> Iterator[npt.NDArray[Any]]:
    """The voxels in file order (first axis fastest) as flat blocks, without intensity scaling."""
    dtype = header.get_data_dtype()
    missing = math.prod(header.get_data_shape()) * dtype.itemsize
    while missing:
        wanted = min(missing, BLOCK)
        block = stream.read(wanted)
        missing -= len(block)
        if len(block) < wanted:
            raise EOFError(f"truncated, {missing} bytes of voxels are missing")
        yield np.frombuffer(block, dtype)
    read_on(stream)


def _read_through(path: Path) -> nib.Nifti1Header:
    """Header of a file whose voxels are all there; a broken scan is found here, not in training."""
    with _volume(path) as (header, stream):
        for _ in _voxels(header, stream):
            pass
    return header


def _paint_all(
    labels: npt.NDArray[np.uint8], masks: dict[int, Path], ct: nib.Nifti1Header
) -> list[str]:
    """Paint all masks; the problems met, masks with the same problem on one line."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for class_id, path in masks.items():
        try:
            _paint(labels, class_id, path, ct)
        except _UNFIT as error:
            found[str(error)].append(path.name)
    return [f"{', '.join(names)}: {reason}" for reason, names in found.items()]


def _paint(labels: npt.NDArray[np.uint8], class_id: int, path: Path, ct: nib.Nifti1Header) -> None:
    """Give the voxels of a mask its id, except those that have a higher one."""
    with _volume(path) as (header, stream):
        _check_grid(header, ct)
        start = 0
        for block in _voxels(header, stream):
            part = labels[start : start + block.size]
            if block.any():
                inside = (block > 0).view(np.uint8)
                np.maximum(part, inside * np.uint8(class_id), out=part)
            start += block.size


def _check_grid(mask: nib.Nifti1Header, ct: nib.Nifti1Header) -> None:
    if mask.get_data_shape() != ct.get_data_shape():
        shapes = f"{mask.get_data_shape()} voxels, the CT {ct.get_data_shape()}"
        raise _OtherGridError(f"has {shapes}")
    distance = np.abs(mask.get_best_affine() - ct.get_best_affine()).max()
    if not distance <= AFFINE_TOLERANCE_MM:
        raise _OtherGridError(f"its affine differs from the CT's, by up to {distance:.3g} mm")


def _write(path: Path, labels: npt.NDArray[np.uint8], ct: nib.Nifti1Header, recipe: str) -> None:
    """Write labels with the geometry fields of the CT, so that every reader aligns the two."""
    header = ct.copy()
    header.extensions.clear()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    header["descrip"] = recipe
    image = nib.Nifti1Image(labels.reshape(ct.get_data_shape(), order="F"), None, header)
    try:
        write_image(image, path)
    except UserError as error:
        raise UserError(f"{error}; --labels FOLDER puts label files into another folder") from error

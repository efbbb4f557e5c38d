"""Scans as users bring them: reading any format, and going on when one is not readable."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import Dataset, ITKReader, MetaTensor, NibabelReader
from monai.data.utils import list_data_collate
from monai.transforms import EnsureChannelFirst
from nibabel.funcs import squeeze_image

from ctfm.base.errors import UserError, one_line
from ctfm.imaging.dicom.headers import is_series
from ctfm.imaging.dicom.reading import read_series
from ctfm.imaging.file_names import FORMATS, SUFFIXES, is_nifti
from ctfm.imaging.itk_headers import is_oriented as says_orientation
from ctfm.imaging.listing import REFUSED, refuse_single_dicom
from ctfm.imaging.nifti import opened_image
from ctfm.imaging.nifti_headers import CONFLICT, ORIENTED, header_conflict, is_oriented

__all__ = [
    "Failure",
    "ScanDataset",
    "check_file",
    "collate_scans",
]

logger = logging.getLogger(__name__)


def check_file(path: str) -> None:
    """Refuse a path that is missing, empty, or of a format that is not read.

    Of a folder, no more is checked than that it holds DICOM files.

    Raises:
        UserError: with what is wrong and what to do.
    """
    file = Path(path)
    if not file.exists():
        raise UserError(f"{path}: no such file: check the path")
    if file.is_dir() and not is_series(file):
        raise UserError(f"{path}: no DICOM series in this folder: give the folder of one or a file")
    refuse_single_dicom(file)
    if file.is_file() and file.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty: export or download it again")
    if file.is_file() and not file.name.lower().endswith(SUFFIXES):
        raise UserError(f"{path}: not a format that is read here ({FORMATS}): convert it to NIfTI")


def read_scan(path: str) -> MetaTensor:
    """Read a volume: NIfTI by nibabel, which keeps any affine exactly, DICOM by `read_series`.

    NRRD and MHA/MHD are read by ITK.

    Args:
        path: file, or folder with a DICOM series.

    Returns:
        (1, X, Y, Z), float32, axes as stored, with the affine to RAS+ in mm. The meta data's
        `CONFLICT` is what a NIfTI header says twice and differently, `ORIENTED` whether the file
        says how the patient lies.

    Raises:
        UserError: the scan is missing, damaged, or of another format.
    """
    check_file(path)
    if Path(path).is_dir():
        series = read_series(path)
        series.meta |= {CONFLICT: "", ORIENTED: True}
        return series
    try:
        array, meta = _read_nifti(path) if is_nifti(path) else _read_by_itk(path)
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or "no reason given"
        raise UserError(
            f"{path}: cannot be read ({type(error).__name__}: {reason}): the file is damaged "
            "or not an image; export or download it again"
        ) from error
    meta["filename_or_obj"] = path
    # files hold X first; reversed, the array is contiguous, so that MONAI does not reorder it
    stored = np.asarray(array, dtype=np.float32).T
    image = MetaTensor.ensure_torch_and_prune_meta(stored, meta)
    return EnsureChannelFirst()(image.permute(*reversed(range(image.ndim))))


def _read_nifti(path: str) -> tuple[Any, dict[str, Any]]:
    """Voxels and meta data as MONAI has them, with nibabel's affine."""
    reader = NibabelReader()
    reader.filenames = (path,)
    with opened_image(path) as image:
        array, meta = reader.get_data(squeeze_image(image) if image.ndim > 4 else image)
        meta |= {CONFLICT: header_conflict(image.header), ORIENTED: is_oriented(image.header)}
    return array, meta


def _read_by_itk(path: str) -> tuple[Any, dict[str, Any]]:
    reader = ITKReader()
    array, meta = reader.get_data(reader.read(path))
    return array, {**meta, CONFLICT: "", ORIENTED: says_orientation(path)}


@dataclass(frozen=True)
class Failure:
    """A scan that could not be processed.

    Attributes:
        path: the scan.
        reason: one line.
    """

    path: str
    reason: str


def describe(error: BaseException) -> str:
    """One line about an error: a user's own as it says, any other with its type."""
    known = one_line(error)
    if known is not None:
        return known
    while error.__cause__ is not None:  # MONAI wraps what a transform raises
        error = error.__cause__
    text = " ".join(str(error).split()) or "no message"
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in text:
        return (
            "out of memory: lower --sw_batch_size; a segmentation also needs less with "
            "--stitch_device cpu, or with low_res.yaml"
        )
    return f"{type(error).__name__}: {text[:300]}"


class ScanDataset(Dataset):
    """A dataset in which one bad scan does not stop the others: it comes out as a `Failure`.

    Args:
        data: rows with a path under `key`.
        transform: preprocessing.
        key: item that names the scan.
    """

    def __init__(self, data: Sequence[Any], transform: Any = None, key: str = "image") -> None:
        super().__init__(data=data, transform=transform)
        self.key = key

    def __getitem__(self, index: Any) -> Any:
        """The transformed row with the ``seconds`` it took, or a `Failure`.

        A slice gives a subset, as in MONAI.
        """
        if not isinstance(index, int):
            return super().__getitem__(index)
        row = self.data[index]
        if REFUSED in row:
            return Failure(str(row[self.key]), str(row[REFUSED]))
        start = time.perf_counter()
        try:
            return {**self._transform(index), "seconds": time.perf_counter() - start}
        except Exception as error:
            path = str(row[self.key])
            logger.debug("%s", path, exc_info=True)
            return Failure(path, describe(error).removeprefix(f"{path}: "))


def collate_scans(batch: list[Any]) -> Any:
    """MONAI's collation; a `Failure` passes through alone (batches hold one scan)."""
    failures = [item for item in batch if isinstance(item, Failure)]
    return failures[0] if failures else list_data_collate(batch)

"""Scans as users bring them: which files, are they CT, and going on when one is not."""

from __future__ import annotations

import glob
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import Dataset, ITKReader, MetaTensor, NibabelReader
from monai.data.utils import correct_nifti_header_if_necessary, list_data_collate
from monai.transforms import EnsureChannelFirst

from ctfm.base.errors import UserError, one_line
from ctfm.base.options import is_on
from ctfm.imaging.dicom.headers import find_series, is_series, looks_like_dicom
from ctfm.imaging.dicom.reading import read_series
from ctfm.imaging.file_names import RESULT_SUFFIX, SUFFIXES, is_nifti
from ctfm.imaging.nifti import opened_image

__all__ = [
    "Failure",
    "ScanDataset",
    "check_file",
    "collate_scans",
    "find_scans",
    "result_name",
]

logger = logging.getLogger(__name__)

FORMATS = f"{', '.join(SUFFIXES)}, and folders with a DICOM series"


def find_scans(
    source: str | Sequence[str],
    key: str = "image",
    output_dir: str | None = None,
    overwrite: bool = True,
    result_suffix: str = RESULT_SUFFIX,
) -> list[dict[str, str]]:
    """List the scans that a file, a glob pattern or a folder (with its subfolders) names.

    A folder that holds DICOM files is one scan.

    Args:
        source: path or pattern, or a list of them.
        key: name of the item in each row.
        output_dir: folder of the results; what lies there is not taken for input.
        overwrite: False leaves out the scans whose result is there, so that a run over a folder
            that was stopped goes on.
        result_suffix: what a result is called after NAME.

    Returns:
        One ``{key: path, "name": NAME}`` a scan, sorted, without repetitions. NAME is the file's
        without suffix, or the whole name of a DICOM folder, below the subfolders that the scans
        do not share.

    Raises:
        UserError: nothing is there, the folder holds no scan, all lie in `output_dir`, a single
            DICOM file is named, or `overwrite` is neither true nor false.
    """
    sources = [source] if isinstance(source, str) else list(source)
    paths = sorted({str(path) for one in sources for path in _expand(str(one))})
    results = Path(output_dir).resolve() if output_dir is not None else None
    if results is not None:
        outside = [p for p in paths if not Path(p).resolve().is_relative_to(results)]
        if paths and not outside:
            raise UserError(f"{results}: the scans lie in the output folder: choose another one")
        paths = outside
    names = _result_names(paths)
    if results is not None and not is_on("overwrite", overwrite):
        paths = [p for p in paths if not (results / f"{names[p]}{result_suffix}").exists()]
    return [{key: path, "name": names[path]} for path in paths]


def _result_names(paths: Sequence[str]) -> dict[str, str]:
    """Name each result after its scan and the subfolders that tell the scans apart."""
    folders = [Path(path).absolute().parent for path in paths]
    root = Path(os.path.commonpath(folders)) if folders else Path()
    stems = {p: str(f.relative_to(root) / stem(p)) for p, f in zip(paths, folders, strict=True)}
    counts = Counter(stems.values())
    return {
        path: name if counts[name] == 1 else str(Path(name).with_name(Path(path).name))
        for path, name in stems.items()
    }


def stem(path: str) -> str:
    """File name without the suffix of its format (``.nii.gz`` is one), or the folder's name."""
    name = Path(path).name
    if Path(path).is_dir():
        return name
    suffix = next(
        (s for s in sorted(SUFFIXES, key=len, reverse=True) if name.lower().endswith(s)), ""
    )
    return name[: len(name) - len(suffix)] or name


def result_name(row: Any, image_key: str) -> str:
    """What results of this row are called: as `find_scans` named it, or after its file."""
    return str(row.get("name") or stem(str(row[image_key].meta["filename_or_obj"])))


def _expand(source: str) -> list[Path]:
    path = Path(source).expanduser()
    if not source:
        raise UserError("no input is given: pass --input FILE, FOLDER or 'PATTERN*.nii.gz'")
    if path.is_dir():
        return _search(path)
    found = [path] if path.exists() else [Path(p) for p in glob.glob(str(path), recursive=True)]
    if not found:
        raise UserError(f"{path}: no such file, folder or pattern: check the path")
    for one in sorted(found):
        _refuse_single_dicom(one)
    return found


def _search(folder: Path) -> list[Path]:
    """Every file of a format that is read, and every DICOM series, at or below a folder."""
    if folder.name in ("", ".."):  # as in "." and "..": a series is called as its folder is
        folder = folder.resolve()
    found = [*filter(_is_scan, folder.rglob("*")), *find_series(folder)]
    if not found:
        raise UserError(f"{folder}: no scan in this folder: looked for {FORMATS}")
    return found


def _refuse_single_dicom(path: Path) -> None:
    if path.is_file() and not path.name.lower().endswith(SUFFIXES) and looks_like_dicom(path):
        raise UserError(f"{path}: one DICOM file, not a scan: give the folder {path.parent}")


def _is_scan(path: Path) -> bool:
    name = path.name.lower()
    return path.is_file() and name.endswith(SUFFIXES) and not name.startswith(".")


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
    _refuse_single_dicom(file)
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
        (1, X, Y, Z), float32, axes as stored, with the affine to RAS+ in mm.

    Raises:
        UserError: the scan is missing, damaged, or of another format.
    """
    check_file(path)
    if Path(path).is_dir():
        return read_series(path)
    try:
        array, meta = _read_nifti(path) if is_nifti(path) else _read_by_itk(path)
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
    """Voxels and meta data as MONAI has them, a header that contradicts itself set right."""
    reader = NibabelReader()
    reader.filenames = (path,)
    with opened_image(path) as image:
        array, meta = reader.get_data(correct_nifti_header_if_necessary(image))
    return array, meta


def _read_by_itk(path: str) -> tuple[Any, dict[str, Any]]:
    reader = ITKReader()
    array, meta = reader.get_data(reader.read(path))
    return array, meta


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
        start = time.perf_counter()
        try:
            return {**self._transform(index), "seconds": time.perf_counter() - start}
        except Exception as error:
            path = str(self.data[index][self.key])
            logger.debug("%s", path, exc_info=True)
            return Failure(path, describe(error).removeprefix(f"{path}: "))


def collate_scans(batch: list[Any]) -> Any:
    """MONAI's collation; a `Failure` passes through alone (batches hold one scan)."""
    failures = [item for item in batch if isinstance(item, Failure)]
    return failures[0] if failures else list_data_collate(batch)

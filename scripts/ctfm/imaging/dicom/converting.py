"""A tree of DICOM files to NIfTI, a file a CT series; what cannot be converted is listed."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor

from ctfm.base.errors import UserError, one_line
from ctfm.base.optional import require
from ctfm.base.tables import write_table
from ctfm.base.workers import in_processes
from ctfm.imaging.dicom.headers import MIN_SLICES, NoImageError, Slice, find_series, read_headers
from ctfm.imaging.dicom.reading import read_volume
from ctfm.imaging.nifti import write_nifti

__all__ = ["convert"]

logger = logging.getLogger(__name__)

TABLE = "not_converted.csv"
#: What becomes of a series; only the last is an error.
CONVERTED, KEPT, EXCLUDED, FAILED = "converted", "kept", "excluded", "failed"
INT16 = np.iinfo(np.int16)


@dataclass(frozen=True)
class Outcome:
    """What became of a series.

    Attributes:
        folder: where its files lie, below the root.
        series: SeriesInstanceUID; empty where it was not looked at.
        status: converted, kept (it was there already), excluded (no CT volume) or failed.
        reason: why it is excluded or failed.
    """

    folder: str
    series: str
    status: str
    reason: str = ""


def convert(
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    workers: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Convert every CT series at and below a folder to NIfTI: HU, int16 where they fit.

    The series of ``root/a/b`` becomes ``out/a/b.nii.gz``; where the folder holds several, each
    becomes ``out/a/b/SeriesInstanceUID.nii.gz``. Voxels and places are those of `read_series`:
    uneven spacing and tilt are corrected, and what is not sound is refused. The same command goes
    on after a stop: files newer than their folder are kept.

    Series that are no CT volume (other modalities, localizers, reports) and those that fail are
    listed with the reason in ``out/not_converted.csv``.

    Args:
        root: folder with DICOM files.
        out: folder to write.
        workers: processes; None: as many as there are cores.
        overwrite: convert what was converted before, too.

    Returns:
        `out`.

    Raises:
        UserError: there are no DICOM files, nothing can be written, or, once all others are
            converted, some series failed.
    """
    root, out = Path(root), Path(out)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder: check the path")
    for package in ("pydicom", "dcm2niix"):
        require(package, purpose="read DICOM", extra="dicom")
    closed: list[OSError] = []
    folders = find_series(root, closed.append)
    if not folders:
        raise UserError(f"{root}: no DICOM files in this folder or below it: check the path")
    found = in_processes(
        partial(_convert_folder, root, out, overwrite),
        folders,
        workers,
        task="converting DICOM",
        kept="what was converted is kept",
        start=_use_one_thread,
        method="spawn",  # torch's threads do not survive a fork
    )
    unread = [
        Outcome(os.path.relpath(error.filename, root), "", FAILED, error.strerror or "closed")
        for error in closed
    ]
    return _report(out, unread + [outcome for some in found for outcome in some])


def _use_one_thread() -> None:
    torch.set_num_threads(1)


def _convert_folder(root: Path, out: Path, overwrite: bool, folder: Path) -> list[Outcome]:
    """Convert the series of one folder.

    Raises:
        UserError: a file cannot be written, which is no failure of the series.
    """
    place = folder.relative_to(root)
    name = place.as_posix()
    stem = out / (place if place.name else root.resolve().name)
    single = stem.with_name(f"{stem.name}.nii.gz")
    if not overwrite and _is_current(single, folder):
        return [Outcome(name, "", KEPT)]
    try:
        images = read_headers(folder)
    except NoImageError:
        return [Outcome(name, "", EXCLUDED, "DICOM without an image, such as a report")]
    except (UserError, OSError) as error:
        return [Outcome(name, "", FAILED, _without(folder, error))]
    series = _by_series(images)
    return [
        _convert_series(
            name, folder, some, single if len(series) == 1 else stem / _file_name(uid), overwrite
        )
        for uid, some in series.items()
    ]


def _file_name(uid: str) -> str:
    """A file's name that stays in its folder whatever a damaged header holds."""
    return f"{re.sub('[^A-Za-z0-9.]', '_', uid) or 'unnamed'}.nii.gz"


def _is_current(file: Path, folder: Path) -> bool:
    """Whether a file is there, and nothing was added to the folder or taken from it since."""
    return file.is_file() and file.stat().st_mtime_ns >= folder.stat().st_mtime_ns


def _by_series(images: Sequence[Slice]) -> dict[str, list[Slice]]:
    """The images of each series, by its UID."""
    series = defaultdict(list)
    for image in images:
        series[image.series[0]].append(image)
    return dict(sorted(series.items()))


def _convert_series(
    name: str, folder: Path, images: Sequence[Slice], file: Path, overwrite: bool
) -> Outcome:
    uid = images[0].series[0]
    if not overwrite and _is_current(file, folder):
        return Outcome(name, uid, KEPT)
    reason = _no_volume(images)
    if reason:
        return Outcome(name, uid, EXCLUDED, reason)
    try:
        volume = read_volume(folder, images)
    except Exception as error:  # one bad series does not stop the others
        logger.debug("%s", folder, exc_info=True)
        return Outcome(name, uid, FAILED, _without(folder, error))
    _save(volume, file)
    return Outcome(name, uid, CONVERTED)


def _no_volume(images: Sequence[Slice]) -> str | None:
    """Why a series was never meant to be a CT volume; None: it was."""
    others = sorted({image.modality or "missing" for image in images} - {"CT"})
    if others:
        return f"modality {', '.join(others)}, not CT"
    if all(image.localizer for image in images):
        return "a localizer (scout)"
    if all(image.samples != 1 for image in images):
        return "colour pictures, not HU"
    if len(images) < MIN_SLICES and all(image.frames == 1 for image in images):
        return f"{len(images)} images, and fewer than {MIN_SLICES} make no volume"
    return None


def _save(volume: MetaTensor, file: Path) -> None:
    """Write int16, which takes half the space of float32, where the values fit.

    Parts of a HU, which interpolation and fractional slopes leave, are rounded away.
    """
    hu = volume.numpy()[0]
    if hu.min() >= INT16.min and hu.max() <= INT16.max:
        hu = np.rint(hu).astype(np.int16)
    affine = np.asarray(volume.affine, dtype=float)
    write_nifti(hu, affine, file)


def _without(folder: Path, error: Exception) -> str:
    """One line about an error that does not repeat the folder, which the table names."""
    text = one_line(error) or f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return text.removeprefix(f"{folder}: ")


def _report(out: Path, outcomes: Sequence[Outcome]) -> Path:
    """Write the table, say the counts, and end in an error if a series failed."""
    table = write_table(
        out / TABLE,
        ("folder", "SeriesInstanceUID", "status", "reason"),
        sorted(astuple(one) for one in outcomes if one.status in (EXCLUDED, FAILED)),
    )
    counts = Counter(one.status for one in outcomes)
    logger.info(
        "%s: %d series converted, %d were there already, %d are no CT volume, %d failed",
        out,
        *(counts[status] for status in (CONVERTED, KEPT, EXCLUDED, FAILED)),
    )
    failed = [one for one in outcomes if one.status == FAILED]
    if failed:
        first = failed[0]
        raise UserError(
            f"{len(failed)} of {len(outcomes)} series failed (first: {first.folder}: "
            f"{first.reason}); all reasons are in {table}; the others are converted"
        )
    if not counts[CONVERTED] + counts[KEPT]:
        raise UserError(f"none of {len(outcomes)} series is a CT volume: reasons are in {table}")
    return out

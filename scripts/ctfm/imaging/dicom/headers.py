"""What the headers of a folder's DICOM files say: which are images, and of one CT series?"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctfm.base.errors import UserError
from ctfm.base.files import walk_folders
from ctfm.base.optional import require

__all__ = [
    "ONE_VOLUME",
    "NoImageError",
    "Slice",
    "check_series",
    "find_series",
    "is_series",
    "lacks_preamble",
    "looks_like_dicom",
    "read_headers",
    "series_files",
]

#: How a file without the 128 bytes and ``DICM`` begins: with its meta information, or with an
#: element of group 8, whose type is stated or not.
META = b"\x02\x00\x00\x00UL\x04\x00"
BARE = re.compile(re.escape(META) + rb"|\x08\x00.\x00(?:[A-Z]{2}|..\x00\x00)", re.DOTALL)
#: Suffixes of DICOM files; a file so named that is not DICOM is a damaged one.
SUFFIXES = (".dcm", ".dicom", ".ima")
#: Fewer images make no volume: scouts, dose reports and key images come like that.
MIN_SLICES = 8
#: Direction cosines, and pixel spacings in mm, that differ by less are the same.
SAME_GEOMETRY = 1e-3
#: A pixel data element's tag and length, in bytes.
ELEMENT_HEADER = 8

CT_IMAGE_STORAGE = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1")
TAGS = (
    *("SOPClassUID", "SeriesInstanceUID", "SeriesNumber", "PatientID", "Modality", "ImageType"),
    *("NumberOfFrames", "SamplesPerPixel", "Rows", "Columns", "BitsAllocated", "PixelSpacing"),
    "SliceThickness",
    *("ImageOrientationPatient", "ImagePositionPatient", "RescaleSlope", "RescaleIntercept"),
)
ONE_VOLUME = "leave the images of one volume in the folder"
#: Files that `is_series` looks at before it takes a folder for something else.
FILES_LOOKED_AT = 32


class NoImageError(UserError):
    """A folder holds DICOM objects, such as reports, and no image."""


@dataclass(frozen=True)
class Slice:
    """What one image's header says; None: missing, or no number."""

    path: Path
    series: tuple[str, str]  # instance UID, number
    patient: str  # PatientID; empty: none
    modality: str
    localizer: bool
    frames: int
    samples: int
    shape: tuple[int, int]  # columns, rows
    spacing: tuple[float, ...] | None  # mm between rows, mm between columns
    thickness: float | None  # mm
    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None
    slope: float
    intercept: float
    packed: bool

    def flaw(self) -> str | None:
        """What bars the image from a CT volume, and what to do; None: nothing."""
        if self.modality != "CT":
            return f"modality {self.modality or 'missing'}, not CT: leave them out"
        if self.localizer:
            return "a localizer (scout), not a slice: move them out of the folder"
        if self.frames != 1:
            return "enhanced multi-frame DICOM, which is not read: convert it to NIfTI"
        if self.samples != 1:
            return "a colour picture, not HU: move them out of the folder"
        for keyword, value in (
            ("ImagePositionPatient", self.position),
            ("ImageOrientationPatient", self.orientation),
            ("PixelSpacing", self.spacing),
        ):
            if value is None:
                return f"no {keyword}, so its place is unknown: export it as the scanner wrote it"
        cosines = np.reshape(self.orientation or (), (2, 3))
        if not np.allclose(cosines @ cosines.T, np.eye(2), atol=1e-2):
            return f"ImageOrientationPatient {self.orientation} is none: export the series again"
        return None


def is_series(path: str | os.PathLike[str]) -> bool:
    """Whether this is a folder that holds DICOM files directly, damaged ones included.

    Only the first few files are looked at, those with a DICOM suffix first.
    """
    folder = Path(path)
    return folder.is_dir() and any(map(looks_like_dicom, candidates(folder)[:FILES_LOOKED_AT]))


def find_series(
    root: str | os.PathLike[str], closed: Callable[[OSError], object] | None = None
) -> list[Path]:
    """List the folders at and below `root` that hold DICOM files, sorted, hidden ones left out.

    Linked folders are followed.

    Args:
        root: where to look.
        closed: called for each folder that cannot be looked into; None: they are passed over.
    """
    return [folder for folder, _ in walk_folders(root, closed) if is_series(folder)]


def series_files(folder: str | os.PathLike[str]) -> list[Path]:
    """List a folder's DICOM images, sorted by name; reports and other objects are left out.

    Raises:
        UserError: there is none, or a file is damaged.
    """
    return sorted(header.path for header in read_headers(Path(folder)))


def candidates(folder: Path) -> list[Path]:
    """Files that may be DICOM, those with a DICOM suffix first; a DICOMDIR is an index."""
    with os.scandir(folder) as entries:  # knows files without asking for each anew
        files = [entry.name for entry in entries if entry.is_file()]
    paths = [folder / name for name in files if not name.startswith(".") and name != "DICOMDIR"]
    return sorted(paths, key=lambda p: (not _has_suffix(p), p.name))


def looks_like_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its suffix, which a damaged one keeps, or by its first bytes."""
    try:
        return _has_suffix(path) or is_dicom(path)
    except OSError:  # a file that cannot be opened is no evidence of a series
        return False


def is_dicom(path: Path) -> bool:
    """Whether the file is DICOM: 128 bytes and ``DICM``, or data elements from the first byte."""
    with open(path, "rb") as file:
        start = file.read(132)
    return start[128:] == b"DICM" or BARE.match(start) is not None


def lacks_preamble(path: Path) -> bool:
    """Whether a DICOM file begins with its meta information, which dcm2niix does not read."""
    with open(path, "rb") as file:
        return file.read(len(META)) == META


def _has_suffix(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def read_headers(folder: Path) -> list[Slice]:
    """Read the headers of a folder's images; objects without pixels are skipped.

    Raises:
        NoImageError: there is none.
        UserError: a file is damaged, or there is no such folder.
    """
    dcmread = require("pydicom", purpose="read DICOM", extra="dicom").dcmread
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder: check the path")
    slices = []
    for path in candidates(folder):
        try:
            if is_dicom(path):
                slices.append(_read_header(path, dcmread))
            elif _has_suffix(path):
                raise ValueError(f"{path.stat().st_size} bytes, not DICOM")
        except Exception as error:
            raise UserError(
                f"{folder}: {path.name} is damaged or cut off ({' '.join(str(error).split())}): "
                "export or download the series again"
            ) from error
    found = [header for header in slices if header is not None]
    if not found:
        raise NoImageError(
            f"{folder}: no DICOM image in this folder: give the folder of a CT series"
        )
    return found


def _read_header(path: Path, dcmread: Callable[..., Any]) -> Slice | None:
    """One file's header; None: no image.

    Raises:
        ValueError: the file ends before its pixels do.
    """
    with open(path, "rb") as file:
        data = dcmread(file, stop_before_pixels=True, specific_tags=TAGS, force=True)
        left = path.stat().st_size - file.tell()
    storage = data.file_meta.get("MediaStorageSOPClassUID") or data.get("SOPClassUID")
    if "Rows" not in data and storage and storage not in CT_IMAGE_STORAGE:
        return None
    if not {"Rows", "Columns", "BitsAllocated"} <= set(data.dir()):
        raise ValueError("the header ends before the image size")
    syntax = data.file_meta.get("TransferSyntaxUID")  # old files have none, and are plain
    header = Slice(
        path=path,
        series=(str(data.get("SeriesInstanceUID", "")), str(data.get("SeriesNumber", "?"))),
        patient=str(data.get("PatientID") or "").strip(),
        modality=str(data.get("Modality", "")),
        localizer="LOCALIZER" in str(data.get("ImageType", "")).upper(),
        frames=int(data.get("NumberOfFrames") or 1),
        samples=int(data.get("SamplesPerPixel") or 1),
        shape=(int(data.Columns), int(data.Rows)),
        spacing=_numbers(data, "PixelSpacing", 2),
        thickness=(_numbers(data, "SliceThickness", 1) or (None,))[0],
        orientation=_numbers(data, "ImageOrientationPatient", 6),
        position=_numbers(data, "ImagePositionPatient", 3),
        slope=(_numbers(data, "RescaleSlope", 1) or (1.0,))[0],
        intercept=(_numbers(data, "RescaleIntercept", 1) or (0.0,))[0],
        packed=bool(syntax and (syntax.is_compressed or syntax.is_deflated)),
    )
    pixels = math.prod(header.shape) * header.frames * header.samples
    needed = pixels * int(data.BitsAllocated) // 8 + ELEMENT_HEADER
    if not header.packed and left < needed:
        raise ValueError(f"{left} bytes of pixels, {needed} needed")
    return header


def _numbers(data: Any, keyword: str, count: int) -> tuple[float, ...] | None:
    value = data.get(keyword)
    try:
        numbers = tuple(float(number) for number in (value if count > 1 else [value]))
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def check_series(folder: Path, slices: Sequence[Slice]) -> None:
    """Refuse anything but the images of one CT series that fit each other.

    Raises:
        UserError: with what was found and what to do.
    """
    series = Counter((*header.series, header.modality) for header in slices)
    if len({header.series[0] for header in slices}) > 1:
        parts = [f"{count} {kind} in series {name}" for (_, name, kind), count in series.items()]
        raise UserError(
            f"{folder}: more than one series ({', '.join(parts)}): give each a folder of its own"
        )
    flaws = [(header.path.name, flaw) for header in slices if (flaw := header.flaw())]
    if flaws:
        name, flaw = flaws[0]
        raise UserError(f"{folder}: {len(flaws)} of {len(slices)} images, such as {name}: {flaw}")
    if len(slices) < MIN_SLICES:
        raise UserError(
            f"{folder}: {len(slices)} images, and fewer than {MIN_SLICES} make no volume: "
            "check that the series is complete"
        )
    _check_alike(folder, slices, "size in pixels", [header.shape for header in slices])
    for keyword, values in (
        ("ImageOrientationPatient", [header.orientation for header in slices]),
        ("PixelSpacing", [header.spacing for header in slices]),
    ):
        _check_alike(folder, slices, keyword, values)


def _check_alike(folder: Path, slices: Sequence[Slice], what: str, values: Any) -> None:
    table = np.array(values, dtype=float)
    other = np.abs(table - np.median(table, axis=0)).max(axis=1) > SAME_GEOMETRY
    if other.any():
        raise UserError(
            f"{folder}: {what} differs in {other.sum()} of {len(slices)} images, such as "
            f"{slices[int(other.argmax())].path.name}: {ONE_VOLUME}"
        )

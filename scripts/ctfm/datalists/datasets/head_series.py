"""Which series of a head CT study is taken: documented rules, and a reason for each that is not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ctfm.base.errors import UserError
from ctfm.base.optional import require
from ctfm.datalists.datasets.dicom_series import exclude_images
from ctfm.datalists.datasets.finding import Candidate
from ctfm.datalists.datasets.head_words import says_contrast, says_picture, says_sharp
from ctfm.datalists.datasets.volume_headers import AXIAL, inspect_file
from ctfm.datalists.selection import Exclusion, Reason, Selection
from ctfm.imaging.dicom.headers import NoImageError, Slice, read_headers

__all__ = ["HeadReason", "HeadSeries", "Study", "Wanted", "choose_series"]

TAGS = ("SeriesDescription", "ConvolutionKernel", "ContrastBolusAgent", "ImageType")
#: A gap of this many usual ones means missing slices; `ctfm.imaging.dicom` refuses to read these.
WIDEST_GAP = 1.5


class HeadReason(Reason):
    """Why a series is left out, beyond `Reason`."""

    NOT_AXIAL = "not axial"
    CONTRAST = "contrast agent"
    PICTURE = "picture made of a volume"
    SHORT = "shows too little of the head"
    INCOMPLETE = "slices are missing"
    ANOTHER = "another series of the study is taken"
    NO_LABEL = "no label"
    NO_SCAN = "no scan"


@dataclass(frozen=True)
class Wanted:
    """What is asked of a series.

    Attributes:
        thickness: the slices nearest to this thickness in mm are taken; None: the thinnest.
        min_slices: fewest slices.
        min_extent: fewest mm along the body's axis.
        contrast: take series with a contrast agent, too.

    Raises:
        UserError: a number is out of range.
    """

    thickness: float | None = 5.0
    min_slices: int = 16
    min_extent: float = 100.0
    contrast: bool = False

    def __post_init__(self) -> None:
        for name in ("thickness", "min_extent"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (number and value > 0) and not (name == "thickness" and value is None):
                raise UserError(f"{name} is {value!r}: give a number of mm above 0")
        self.selection()  # refuses other numbers of slices

    def selection(self) -> Selection:
        """What is asked of any CT."""
        return Selection(min_thickness=0.0, max_thickness=15.0, min_slices=self.min_slices)

    def rank(self, one: HeadSeries) -> tuple[Any, ...]:
        """The lowest is taken: soft kernel, original, thickness, extent, name."""
        off = one.thickness if self.thickness is None else abs(one.thickness - self.thickness)
        return one.sharp, one.derived, round(off, 2), -round(one.extent), one.name


@dataclass(frozen=True)
class HeadSeries:
    """A series that could be taken.

    Attributes:
        name: path below the root.
        thickness: mm; of a file, the distance of its slices.
        extent: mm from the first slice to the last.
        sharp: of a kernel for bone.
        derived: reformatted from another series.
    """

    name: str
    thickness: float
    extent: float
    sharp: bool = False
    derived: bool = False


@dataclass(frozen=True)
class Study:
    """What became of a study.

    Attributes:
        subject: its name.
        taken: the series; None: none will do.
        excluded: all others, each with its reason.
    """

    subject: str
    taken: HeadSeries | None
    excluded: tuple[Exclusion, ...]


def choose_series(root: Path, wanted: Wanted, study: tuple[str, Sequence[Candidate]]) -> Study:
    """Look at all series of a study, and take one.

    Args:
        root: folder of the data set.
        wanted: what is asked.
        study: its name, and what in its folder may be a scan.
    """
    subject, candidates = study
    judged = [_inspect(root, one, wanted) for one in candidates]
    fit = sorted((one for one in judged if isinstance(one, HeadSeries)), key=wanted.rank)
    excluded = [one for one in judged if isinstance(one, Exclusion)]
    excluded += [
        Exclusion(other.name, HeadReason.ANOTHER, f"{fit[0].name}: {_why(fit[0], other, wanted)}")
        for other in fit[1:]
    ]
    return Study(subject, fit[0] if fit else None, tuple(excluded))


def _why(best: HeadSeries, other: HeadSeries, wanted: Wanted) -> str:
    """The first rule by which the one is preferred."""
    reasons = (
        "soft kernel before bone",
        "original before derived",
        f"{best.thickness:.4g} mm slices before {other.thickness:.4g} mm",
        f"{best.extent:.0f} mm before {other.extent:.0f} mm of the head",
        "first by its name",
    )
    ranks = zip(reasons, wanted.rank(best), wanted.rank(other), strict=True)
    return next(reason for reason, one, another in ranks if one != another)


def _inspect(root: Path, candidate: Candidate, wanted: Wanted) -> HeadSeries | Exclusion:
    texts = list(PurePosixPath(candidate.name).parts[1:])
    if candidate.is_series:
        return _inspect_series(root, candidate.name, texts, wanted)
    name = candidate.name
    stack = inspect_file(root, name, wanted.selection())
    if isinstance(stack, Exclusion):
        return stack
    if excluded := _exclude_words(name, texts, wanted):
        return excluded
    if not stack.axial:
        return Exclusion(name, HeadReason.NOT_AXIAL, "by the file's affine")
    extent = (stack.slices - 1) * stack.distance
    found = HeadSeries(name, stack.distance, extent, says_sharp(texts))
    return _exclude_extent(found, wanted) or found


def _inspect_series(
    root: Path, name: str, texts: list[str], wanted: Wanted
) -> HeadSeries | Exclusion:
    try:
        slices = read_headers(root / name)
    except NoImageError:
        return Exclusion(name, Reason.NOT_CT, "DICOM without an image, such as a report")
    except UserError as error:
        return Exclusion(name, Reason.UNREADABLE, str(error).removeprefix(f"{root / name}: "))
    excluded = exclude_images(name, root / name, slices, wanted.selection())
    if excluded:
        return excluded
    tags = _read_tags(slices[0])
    texts = [*texts, tags["SeriesDescription"]]
    excluded = _exclude_words(name, texts, wanted, tags)
    if excluded:
        return excluded
    normal, depth = _depth(slices)
    if abs(normal[2]) < AXIAL:
        return Exclusion(name, HeadReason.NOT_AXIAL, "by ImageOrientationPatient")
    gaps = np.diff(depth)
    usual = float(np.median(gaps))
    if gaps.max() > WIDEST_GAP * usual:
        found = f"a gap of {gaps.max():.3g} mm between slices {usual:.3g} mm apart"
        return Exclusion(name, HeadReason.INCOMPLETE, found)
    image_type = tags["ImageType"].upper()
    series = HeadSeries(
        name,
        thickness=float(np.median([one.thickness or usual for one in slices])),
        extent=float(depth[-1] - depth[0]),
        sharp=says_sharp(texts, tags["ConvolutionKernel"]),
        derived="DERIVED" in image_type or "REFORMATTED" in image_type,
    )
    return _exclude_extent(series, wanted) or series


def _read_tags(image: Slice) -> dict[str, str]:
    """Tags of the series that geometry does not need; "" where one is missing."""
    dcmread = require("pydicom", purpose="read DICOM", extra="dicom").dcmread
    data = dcmread(image.path, stop_before_pixels=True, specific_tags=TAGS, force=True)
    values = {tag: data.get(tag) for tag in TAGS}
    return {
        tag: "\\".join(map(str, value)) if _is_several(value) else str(value or "")
        for tag, value in values.items()
    }


def _is_several(value: Any) -> bool:
    return not isinstance(value, str) and hasattr(value, "__iter__")


def _exclude_words(
    name: str, texts: Sequence[str], wanted: Wanted, tags: dict[str, str] | None = None
) -> Exclusion | None:
    tags = tags or {"ContrastBolusAgent": "", "ImageType": ""}
    picture = says_picture([*texts, tags["ImageType"].replace("\\", " ").replace("_", " ")])
    if picture:
        return Exclusion(name, HeadReason.PICTURE, picture)
    contrast = None if wanted.contrast else says_contrast(texts, tags["ContrastBolusAgent"])
    return Exclusion(name, HeadReason.CONTRAST, contrast) if contrast else None


def _depth(slices: Sequence[Slice]) -> tuple[Any, Any]:
    """The normal of the slices, and their positions along it in mm, ascending.

    With a tilted gantry the normal leans, and slices are as far apart as along the table.
    """
    row, column = np.reshape(slices[0].orientation or (), (2, 3))
    normal = np.cross(row, column)
    normal = normal / math.sqrt(float(normal @ normal))
    return normal, np.sort(np.array([one.position for one in slices]) @ normal)


def _exclude_extent(one: HeadSeries, wanted: Wanted) -> Exclusion | None:
    if one.extent >= wanted.min_extent:
        return None
    detail = f"{one.extent:.0f} mm, fewer than {wanted.min_extent:g}"
    return Exclusion(one.name, HeadReason.SHORT, detail)

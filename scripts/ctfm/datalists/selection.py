"""Which CTs are taken for pretraining: CT-FM's published selection, and a row for each left out.

CT-FM (arXiv:2501.09001) was pretrained on the series of the Imaging Data Commons that a query
found: modality CT, slices from 1 to 5 mm thick, more than 50 of them, each at a position of its
own, none of them a localizer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ctfm.base.errors import UserError

__all__ = ["Exclusion", "Reason", "Selection", "count_reasons", "in_words"]


class Reason:
    """Why a scan is left out, in the words of tables and counts."""

    UNREADABLE = "cannot be read"
    NOT_CT = "not CT"
    LOCALIZER = "localizer"
    NO_VOLUME = "not one three-dimensional volume"
    SEVERAL = "more than one series in the folder"
    FEW_SLICES = "too few slices"
    THICKNESS = "slice thickness"
    POSITIONS = "not one position a slice"
    GEOMETRY = "images do not fit each other"
    ORIENTATION = "orientation unknown"
    VALUES = "not Hounsfield units"
    VERSION = "newer than the version asked for"
    LICENCE = "licence"
    NOT_DRAWN = "not drawn"


@dataclass(frozen=True)
class Exclusion:
    """A scan that is left out.

    Attributes:
        name: its path below the root, or what else names it.
        reason: one of `Reason`.
        detail: what was found.
    """

    name: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Selection:
    """What is asked of a scan; the defaults are the published ones.

    Attributes:
        min_thickness: of every slice, mm.
        max_thickness: of every slice, mm.
        min_slices: fewest slices; "more than 50" as published.

    Raises:
        UserError: a threshold is out of range.
    """

    min_thickness: float = 1.0
    max_thickness: float = 5.0
    min_slices: int = 51

    def __post_init__(self) -> None:
        for name in ("min_thickness", "max_thickness"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise UserError(f"{name} is {value!r}: give a number of mm from 0")
        if self.min_thickness > self.max_thickness:
            raise UserError(
                f"min_thickness {self.min_thickness:g} is above max_thickness "
                f"{self.max_thickness:g}: no scan would be left"
            )
        count = self.min_slices
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise UserError(f"min_slices is {count!r}: give a whole number from 1")

    def exclude_slices(self, name: str, count: int) -> Exclusion | None:
        """Leave out a scan with too few slices."""
        if count >= self.min_slices:
            return None
        return Exclusion(name, Reason.FEW_SLICES, f"{count}, fewer than {self.min_slices}")

    def exclude_thickness(self, name: str, values: Sequence[float], what: str) -> Exclusion | None:
        """Leave out a scan with slices that are too thin or too thick, or of unknown thickness.

        Args:
            name: the scan.
            values: thicknesses in mm.
            what: where they come from, such as "SliceThickness".
        """
        least, most = min(values, default=math.nan), max(values, default=math.nan)
        # headers hold 0.999999 for 1 mm
        slack = 1e-4
        if self.min_thickness - slack <= least and most <= self.max_thickness + slack:
            return None
        found = f"{least:.4g} mm" if least == most else f"{least:.4g} to {most:.4g} mm"
        wanted = f"{self.min_thickness:g} to {self.max_thickness:g} mm"
        return Exclusion(name, Reason.THICKNESS, f"{what} {found}, not {wanted}")


def count_reasons(excluded: Iterable[Exclusion]) -> dict[str, int]:
    """How many scans each reason leaves out, most first."""
    counts = Counter(one.reason for one in excluded)
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def in_words(excluded: Iterable[Exclusion]) -> str:
    """The counts of `count_reasons` on one line."""
    return ", ".join(f"{reason}: {count}" for reason, count in count_reasons(excluded).items())

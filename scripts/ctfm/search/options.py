"""Options that searches have in common: where in a scan, and by which encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["LocationOptions", "PointOptions", "SearchEncoder"]


@dataclass(frozen=True, kw_only=True)
class PointOptions:
    """A location in a scan, as a user gives it.

    Attributes:
        point: x,y,z in mm, RAS+.
        voxel: i,j,k of the stored array, from 0.
    """

    point: Any = None
    voxel: Any = None


@dataclass(frozen=True, kw_only=True)
class LocationOptions(PointOptions):
    """A location in a scan with labels.

    Attributes:
        organ: class (name or id) whose centre of mass is the location where neither point nor voxel
            is given; None: the class that the labels have at the location.
    """

    organ: Any = None


@dataclass(frozen=True, kw_only=True)
class SearchEncoder:
    """The encoder of a search, and how scans are read for it.

    Attributes:
        checkpoint: file, folder or repository id; for an index the encoder that made it.
        device: such as cuda:0; None: a GPU if there is one.
        input_check: what to do about values that are no CT's: error, warn or off.
    """

    checkpoint: str | None = None
    device: str | None = None
    input_check: str = "error"

"""Volumes on other grids: by an affine, or one axis at a time where axes are parallel.

Along one axis it is enough to know between which voxels of the array each place lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from ctfm.base.errors import UserError
from ctfm.base.types import Array

__all__ = ["TapTensors", "Taps", "on_grid"]

Indices = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Taps:
    """Where the m places along an axis of a grid lie along an axis of an array.

    Attributes:
        axis: of the array.
        first: (m,), index in the array; -1 outside it.
        second: (m,), index of the neighbour that counts as well: first, or next to it.
        share: (m,), how much the neighbour counts, from 0 to below 1; 0 where it is first.
    """

    axis: int
    first: Indices
    second: Indices
    share: Numbers

    @classmethod
    def whole(cls, axis: int, length: int) -> Taps:
        """An axis of the array itself."""
        index = np.arange(length)
        return cls(axis, index, index, np.zeros(length))

    @classmethod
    def among(cls, axis: int, positions: Numbers, places: Numbers) -> Taps:
        """Places among voxels that may lie unevenly; the outermost voxels go on beyond the ends.

        A place on a voxel has the next voxel as its neighbour all the same, with a share of 0.

        Args:
            axis: of the array.
            positions: (n,), where its voxels lie, ascending.
            places: (m,), in the same unit.

        Example:
            >>> Taps.among(0, np.array([0.0, 1.0, 5.0]), np.array([2.0])).share
            array([0.25])
        """
        places = places.clip(positions[0], positions[-1])
        first = np.searchsorted(positions, places, side="right") - 1
        second = np.minimum(first + 1, len(positions) - 1)
        gap = np.where(first < second, positions[second] - positions[first], 1)
        return cls(axis, first, second, (places - positions[first]) / gap)

    def __len__(self) -> int:
        return len(self.first)

    @property
    def inside(self) -> slice:
        """The places that lie in the array, which follow each other."""
        found = np.flatnonzero(self.first >= 0)
        return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0)

    def at(self, index: Indices) -> Taps:
        """Some of the places, in the order of `index`; those that are not there lie outside.

        Example:
            >>> Taps.whole(0, 3).at(np.array([-1, 0, 2, 3])).first
            array([-1,  0,  2, -1])
        """
        known = np.where((index >= 0) & (index < len(self)), index, -1)  # -1: what is appended
        return Taps(
            self.axis,
            np.append(self.first, -1)[known],
            np.append(self.second, -1)[known],
            np.append(self.share, 0.0)[known],
        )

    def between(self, positions: Numbers) -> Taps:
        """Places between these, for linear interpolation.

        What lies outside the array counts nothing. The rest is not scaled up for it where it is
        blended; here it is, since the largest of several values stays the largest.

        Args:
            positions: (m,), from 0 to the number of places - 1.

        Raises:
            UserError: these places lie between others themselves.

        Example:
            >>> Taps.whole(0, 3).between(np.array([0.25])).share
            array([0.25])
        """
        if self.share.any():
            raise UserError("a scan that is resampled twice cannot be inverted linearly: nearest")
        lower = np.floor(positions).astype(np.int64)
        share = positions - lower
        first = self.first[lower]
        second = self.first[np.minimum(lower + 1, len(self) - 1)]
        one = (share == 0) | (first < 0) | (second < 0) | (first == second)
        only = np.where(
            (share == 0) | (second >= 0) & (first >= 0), first, np.maximum(first, second)
        )
        return Taps(
            self.axis,
            np.where(one, only, first),
            np.where(one, only, second),
            np.where(one, 0.0, share),
        )

    def compact(self) -> tuple[Indices, Taps]:
        """The indices (k,) that take part, increasing, and taps along these; none lies outside."""
        needed = np.union1d(self.first, self.second)
        first, second = (np.searchsorted(needed, index) for index in (self.first, self.second))
        return needed, replace(self, first=first, second=second)

    def tensors(self, device: torch.device) -> TapTensors:
        """The taps of the places that lie in the array, as tensors."""
        inside = self.inside
        return TapTensors(
            torch.from_numpy(self.first[inside].copy()).to(device),
            torch.from_numpy(self.second[inside].copy()).to(device),
            torch.from_numpy(self.share[inside]).to(device, torch.float32),
        )


@dataclass(frozen=True)
class TapTensors:
    """Taps of n places that lie in the array, on one device.

    Attributes:
        first: (n,), int64, index in the array.
        second: (n,), int64, index of the neighbour that counts as well.
        share: (n,), float32, how much the neighbour counts.
    """

    first: Tensor
    second: Tensor
    share: Tensor

    def neighbours(self, places: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Index and share of both neighbours of some of the places."""
        share = self.share[places]
        return [(self.first[places], 1 - share), (self.second[places], share)]


def on_grid(
    values: Array,
    affine: Array,
    target: Array,
    shape: Sequence[int],
    order: int,
    beyond: str = "constant",
    fill: float = 0.0,
) -> npt.NDArray[np.float32]:
    """Interpolate values on one grid at the voxels of another.

    Args:
        values: (D, H, W), any real type.
        affine: (4, 4) of their grid, voxels to mm.
        target: (4, 4) of the other.
        shape: of the other.
        order: 1: linear between voxels; 0: the nearest.
        beyond: the edge there is `fill` ("constant"), or the value at the edge ("nearest").
        fill: what lies beyond the edge.

    Returns:
        The values there, of shape `shape`.
    """
    matrix = np.linalg.inv(affine) @ target
    plain = np.asarray(values, np.float32)
    there: npt.NDArray[np.float32] = ndimage.affine_transform(
        plain, matrix[:3, :3], matrix[:3, 3], tuple(shape), order=order, mode=beyond, cval=fill
    )
    return there

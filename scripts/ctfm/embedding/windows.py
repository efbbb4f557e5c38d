"""Where the windows over a volume lie: in voxels and in mm of the patient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn import functional

from ctfm.base.errors import UserError
from ctfm.base.types import Array
from ctfm.imaging.grids import voxels_to_mm

__all__ = ["WindowGrid", "cut_window"]


@dataclass(frozen=True)
class WindowGrid:
    """Overlapping windows over a volume, laid out as MONAI's `SlidingWindowSplitter` does.

    The first window starts at voxel 0; the last of each axis is the first that reaches its end,
    beyond which there is air.

    Attributes:
        shape: voxels of the volume (D, H, W).
        patch: voxels of a window (D, H, W).
        overlap: share of a window that neighbours have in common, from 0 to below 1.

    Raises:
        UserError: the patch is not three positive integers, or the overlap leaves no step.

    Example:
        >>> WindowGrid((64, 64, 64), (32, 64, 64), 0.5).counts
        (3, 1, 1)
    """

    shape: tuple[int, ...]
    patch: tuple[int, ...]
    overlap: float

    def __post_init__(self) -> None:
        if len(self.patch) != 3 or not all(isinstance(n, int) and n > 0 for n in self.patch):
            raise UserError(f"patch is {list(self.patch)}: give three sizes in voxels: 32,128,128")
        if not (0 <= self.overlap < 1 and min(self.step) > 0):
            raise UserError(f"overlap is {self.overlap}: give a share from 0 to below 1, as 0.625")

    @property
    def step(self) -> tuple[int, ...]:
        """Voxels from a window to the next."""
        return tuple(round(n - n * self.overlap) for n in self.patch)

    @property
    def counts(self) -> tuple[int, ...]:
        """Windows along each axis."""
        sizes = zip(self.shape, self.patch, self.step, strict=True)
        return tuple(1 + math.ceil(max(0, n - p) / step) for n, p, step in sizes)

    def starts(self) -> Array:
        """First voxel of each window, (N, 3), the last axis varying fastest."""
        starts: Array = np.indices(self.counts).reshape(3, -1).T * np.asarray(self.step)
        return starts

    def centres(self, affine: Array) -> Array:
        """Centre of each window in mm, (N, 3): halfway between its outermost voxels.

        Args:
            affine: (4, 4), voxel of the volume to RAS+ in mm.
        """
        return voxels_to_mm(affine, self.starts() + (np.asarray(self.patch) - 1) / 2)


def cut_window(volume: Tensor, start: Sequence[int], patch: Sequence[int]) -> Tensor:
    """One window of a volume; where it reaches over the edge there are zeros, that is, air.

    Args:
        volume: (C, D, H, W), scaled so that air is 0.
        start: first voxel of the window, which may be negative; some of it lies inside.
        patch: voxels of the window.

    Returns:
        (C, *patch); a view where the window lies inside.
    """
    places = list(zip(volume.shape[1:], map(int, start), patch, strict=True))
    inside = (slice(None), *(slice(max(0, s), min(n, s + p)) for n, s, p in places))
    margins = [(max(0, -s), max(0, s + p - n)) for n, s, p in places]
    part = volume[inside]
    if not any(before or after for before, after in margins):
        return part
    # torch pads the last axis first
    return functional.pad(part, [n for margin in reversed(margins) for n in margin])

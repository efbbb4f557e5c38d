"""Grids of voxels in space: positions in mm, and whether two volumes lie on the same grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "AFFINE_TOLERANCE_MM",
    "axes_problem",
    "farthest_corner_mm",
    "mm_to_voxels",
    "spacing_of",
    "voxels_to_mm",
]

#: Corners of two volumes may lie this far apart: what headers round, not another grid.
AFFINE_TOLERANCE_MM = 0.5


def farthest_corner_mm(shape: Sequence[int], affine: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """The largest distance from a corner voxel to the same voxel by another affine.

    No other voxel of the volume lies farther apart.

    Args:
        shape: voxels (X, Y, Z) of both volumes.
        affine: (4, 4) of one, voxels to mm.
        other: (4, 4) of the other.
    """
    corners = np.indices((2, 2, 2)).reshape(3, -1) * (np.array(shape)[:, None] - 1)
    difference = np.asarray(affine, dtype=float) - np.asarray(other, dtype=float)
    apart = difference[:3, :3] @ corners + difference[:3, 3:]
    return float(np.linalg.norm(apart, axis=0).max())


def voxels_to_mm(affine: npt.ArrayLike, voxels: npt.ArrayLike) -> npt.NDArray[Any]:
    """Voxel positions (N, 3), whole or not, to mm (N, 3), by an affine (4, 4)."""
    matrix = np.asarray(affine, dtype=float)
    positions: npt.NDArray[Any] = np.asarray(voxels, dtype=float) @ matrix[:3, :3].T + matrix[:3, 3]
    return positions


def mm_to_voxels(affine: npt.ArrayLike, points: npt.ArrayLike) -> npt.NDArray[Any]:
    """Places in mm (N, 3) to voxel positions (N, 3), not rounded, by an affine (4, 4)."""
    return voxels_to_mm(np.linalg.inv(np.asarray(affine, dtype=float)), points)


def spacing_of(affine: npt.ArrayLike) -> npt.NDArray[Any]:
    """Distance in mm from voxel to voxel along each stored axis (3,), in the affine's precision.

    Args:
        affine: (4, 4), voxels to mm, or its directions (3, 3).
    """
    spacing: npt.NDArray[Any] = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)
    return spacing


def axes_problem(affine: npt.NDArray[Any]) -> str | None:
    """Why an affine places no volume in space; None: it places one.

    Args:
        affine: (4, 4), voxels to mm, or its directions (3, 3).
    """
    spacing = spacing_of(affine)
    if not np.isfinite(affine).all() or (spacing <= 0).any():
        return "affine singular or not finite"
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < 0.1:
        return "axes not independent"
    return None

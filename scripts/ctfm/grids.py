"""Do two volumes lie on the same grid? By how far their voxels are apart in mm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["AFFINE_TOLERANCE_MM", "farthest_corner_mm"]

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

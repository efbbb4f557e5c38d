"""Label maps as arrays of class ids, whatever they came in."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from ctfm.base.errors import UserError
from ctfm.base.types import Array

__all__ = [
    "Array",
    "Volume",
    "as_numpy",
    "count_voxels",
    "label_map",
    "label_map_pair",
    "present_ids",
]

Volume = Array | torch.Tensor

#: Voxels counted at once: their copy of 8 bytes a voxel, for `numpy.bincount`, fits into a cache.
COUNT_BLOCK = 1 << 16


def as_numpy(volume: Volume) -> Array:
    """An array or a tensor, on any device, as an array; no copy where none is needed."""
    return np.asarray(volume.detach().cpu() if isinstance(volume, torch.Tensor) else volume)


def label_map(labels: Volume, role: str) -> Array:
    """`labels` as an integer array `(D, H, W)`, without a copy where it is one already.

    Args:
        labels: integers, booleans, or floats that hold integers.
        role: what errors call it, such as "prediction".

    Raises:
        UserError: it has not three axes, or holds numbers that are not whole.
    """
    array = as_numpy(labels)
    if array.ndim != 3:
        raise UserError(f"{role} has shape {array.shape}: expected a label map (D, H, W)")
    if array.dtype == bool:
        return array.view(np.uint8)
    if np.issubdtype(array.dtype, np.integer):
        return array
    with np.errstate(invalid="ignore"):
        integers = array.astype(np.int32)
    if not np.array_equal(integers, array):
        raise UserError(
            f"{role} holds numbers that are not whole: expected class ids, not an image or "
            "probabilities"
        )
    return integers


def label_map_pair(
    prediction: Volume, reference: Volume, spacing: Sequence[float]
) -> tuple[tuple[Array, Array], tuple[float, ...]]:
    """Two label maps that can be compared voxel by voxel, and their voxel size in mm.

    Args:
        prediction: `(D, H, W)`.
        reference: the same, on the same grid.
        spacing: mm, in the order of the array's axes.

    Raises:
        UserError: the shapes differ, a map is no label map, or the spacing is not three
            positive numbers.
    """
    maps = label_map(prediction, "prediction"), label_map(reference, "reference")
    if maps[0].shape != maps[1].shape:
        raise UserError(
            f"prediction has shape {maps[0].shape}, reference {maps[1].shape}: they must lie on "
            "the same grid; resample the prediction onto the reference (nearest neighbour)"
        )
    voxel = tuple(float(size) for size in spacing)
    if len(voxel) != 3 or not all(math.isfinite(size) and size > 0 for size in voxel):
        raise UserError(f"spacing is {voxel}: expected three positive numbers (mm)")
    return maps, voxel


def count_voxels(labels: Array) -> Array:
    """Voxels of each id from 0 to the largest, counted in blocks to keep memory low.

    Args:
        labels: class ids, of any shape and any type that holds whole numbers.

    Raises:
        UserError: the label map is empty or holds negative numbers.
    """
    if labels.size == 0 or (labels.dtype.kind not in "bu" and labels.min() < 0):
        raise UserError(
            f"label map of shape {labels.shape} is empty or holds negative numbers: expected class "
            "ids, 0 for background"
        )
    flat = labels.ravel(order="K")
    counts = np.zeros(int(flat.max()) + 1, dtype=np.int64)
    for start in range(0, flat.size, COUNT_BLOCK):
        block = flat[start : start + COUNT_BLOCK]
        inside = block[block != 0].astype(np.intp)  # most of a scan is background
        counts += np.bincount(inside, minlength=len(counts))
    counts[0] = flat.size - counts.sum()
    return counts


def present_ids(voxels: Array) -> list[int]:
    """Class ids with a voxel, ascending, without background.

    Args:
        voxels: of each id, as `count_voxels` gives them.
    """
    return [int(i) for i in np.flatnonzero(voxels) if i]

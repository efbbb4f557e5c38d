"""Separable resampling: linear, anti-aliased when coarsening; nearest for labels.

The grid is that of MONAI's `Spacing`: the first voxel keeps its place, and the number of voxels is
``round((n - 1) * old / new + 1)``. Three passes of small sparse matrices cost a fraction of a
three-dimensional interpolation.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from ctfm.base.types import Array

__all__ = ["resample_labels", "resample_linear", "resampled_shape"]

Steps = tuple[float, ...]


def resampled_shape(shape: tuple[int, ...], steps: Steps) -> tuple[int, ...]:
    """Voxels along each axis; `steps` are new voxel sizes in old ones."""
    return tuple(round((n - 1) / step + 1) for n, step in zip(shape, steps, strict=True))


def resample_linear(volume: Array, steps: Steps) -> npt.NDArray[np.float32]:
    """Resample (D, H, W) voxels; values between voxels are linear, beyond the last one constant.

    Args:
        volume: any real type.
        steps: new voxel sizes in old ones; above 1 a triangle as wide as a new voxel averages.
    """
    shape = resampled_shape(volume.shape, steps)
    weights = [_weights(*row) for row in zip(volume.shape, shape, steps, strict=True)]
    depth_first = shape[0] <= volume.shape[0]
    if depth_first:
        volume = _along_depth(volume, weights[0], steps[0])
    planes = np.empty((len(volume), *shape[1:]), np.float32)
    for plane, resampled in zip(volume, planes, strict=True):
        _plane(plane, weights[1], weights[2], steps, resampled)
    return planes if depth_first else _along_depth(planes, weights[0], steps[0])


def resample_labels(labels: Array, steps: Steps) -> Array:
    """Resample (D, H, W) labels by the nearest voxel; ties go to the even one, as in MONAI."""
    shape = resampled_shape(labels.shape, steps)
    nearest = [
        np.rint(np.arange(new) * step).astype(np.intp).clip(0, old - 1)
        for old, new, step in zip(labels.shape, shape, steps, strict=True)
    ]
    return np.ascontiguousarray(labels[nearest[0]][:, nearest[1]][:, :, nearest[2]])


def _along_depth(volume: Array, weights: Any, step: float) -> Array:
    if step == 1:
        return volume
    flat = np.ascontiguousarray(volume, np.float32).reshape(len(volume), -1)
    result: Array = (weights @ flat).reshape(-1, *volume.shape[1:])
    return result


def _plane(plane: Array, rows: Any, columns: Any, steps: Steps, out: Array) -> None:
    image = np.ascontiguousarray(plane, np.float32)
    if steps[1] != 1:
        image = rows @ image
    if steps[2] != 1:
        image = (columns @ np.ascontiguousarray(image.T)).T
    out[...] = image


def _weights(old: int, new: int, step: float) -> Any:
    """(new, old) sparse matrix of a triangle filter, at least one old voxel wide on each side."""
    reach = max(1.0, step)
    centers = np.arange(new)[:, None] * step
    taps = np.floor(centers) + np.arange(-math.ceil(reach) + 1, math.ceil(reach) + 1)
    weights = np.maximum(0, 1 - np.abs(taps - centers) / reach)
    weights /= weights.sum(1, keepdims=True)
    columns = taps.clip(0, old - 1).astype(np.intp)
    rows = np.broadcast_to(np.arange(new)[:, None], columns.shape)
    entries = (weights.ravel().astype(np.float32), (rows.ravel(), columns.ravel()))
    return csr_array(entries, shape=(new, old))

"""Similarity of windows as a map on the grid of a scan, and as a NIfTI file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from ctfm.base.types import Array
from ctfm.imaging.nifti import write_nifti
from ctfm.search.locating.locations import PreparedScan
from ctfm.search.locating.search import SimilarityMap

__all__ = ["heat_map", "moved", "write_heat_map"]


def heat_map(similarities: SimilarityMap, scan: PreparedScan) -> Array:
    """Cosines between windows, linearly, for each stored voxel.

    Args:
        similarities: of the windows over `scan.image`.
        scan: the target.

    Returns:
        (X, Y, Z), float32; 0 outside of the box around the body that was searched.
    """
    image = scan.image.affine.numpy().astype(float)
    shape = tuple(scan.stored.shape[1:])
    heat = moved(similarities.cosines, similarities.affine(image), scan.affine, shape, 1, "nearest")
    box = moved(np.ones(scan.image.shape[1:]), image, scan.affine, shape, 0)
    heat[box == 0] = 0
    return heat


def write_heat_map(heat: Array, affine: Array, path: Path) -> None:
    """Write a map (X, Y, Z) as NIfTI, in mm of the patient.

    Raises:
        UserError: it cannot be written.
    """
    write_nifti(heat, affine, path, intent=("estimate", "cosine"))


def moved(
    values: Array,
    affine: Array,
    target: Array,
    shape: Sequence[int],
    order: int,
    beyond: str = "constant",
) -> Array:
    """Values on one grid at the voxels of another.

    Args:
        values: (D, H, W).
        affine: (4, 4) of their grid.
        target: (4, 4) of the other.
        shape: of the other.
        order: 1: linear between voxels; 0: the nearest.
        beyond: the edge there is 0 ("constant"), or the value at the edge ("nearest").
    """
    matrix = np.linalg.inv(affine) @ target
    values_there: Array = ndimage.affine_transform(
        np.asarray(values, np.float32), matrix[:3, :3], matrix[:3, 3], tuple(shape), np.float32,
        order=order, mode=beyond,
    )  # fmt: skip
    return values_there

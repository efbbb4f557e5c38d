"""Similarity of windows as a map on the grid of a scan, and as a NIfTI file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ctfm.base.types import Array
from ctfm.imaging.nifti import write_nifti
from ctfm.imaging.reslice import on_grid
from ctfm.search.locating.locations import PreparedScan
from ctfm.search.locating.search import SimilarityMap

__all__ = ["heat_map", "write_heat_map"]


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
    heat = on_grid(
        similarities.cosines, similarities.affine(image), scan.affine, shape, 1, "nearest"
    )
    box = on_grid(np.ones(scan.image.shape[1:]), image, scan.affine, shape, 0)
    heat[box == 0] = 0
    return heat


def write_heat_map(heat: Array, affine: Array, path: Path) -> None:
    """Write a map (X, Y, Z) as NIfTI, in mm of the patient.

    Raises:
        UserError: it cannot be written.
    """
    write_nifti(heat, affine, path, intent=("estimate", "cosine"))

"""Likeness of windows as a map on the grid of a scan, and as a NIfTI file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from ctfm.base.types import Array
from ctfm.imaging.nifti import write_nifti
from ctfm.search.locating.places import Scan
from ctfm.search.locating.search import Found

__all__ = ["heat_map", "write_heat_map"]


def heat_map(found: Found, scan: Scan) -> Array:
    """Cosines between windows, linearly, for each stored voxel.

    Args:
        found: of the windows over `scan.image`.
        scan: the target.

    Returns:
        (X, Y, Z), float32; 0 outside of the box around the body that was searched.
    """
    image = scan.image.affine.numpy().astype(float)
    shape = tuple(scan.stored.shape[1:])
    heat = _moved(found.cosines, found.affine(image), scan.affine, shape, 1, "nearest")
    box = _moved(np.ones(scan.image.shape[1:]), image, scan.affine, shape, 0, "constant")
    heat[box == 0] = 0
    return heat


def write_heat_map(heat: Array, affine: Array, path: Path) -> None:
    """Write a map (X, Y, Z) as NIfTI, in mm of the patient.

    Raises:
        UserError: it cannot be written.
    """
    write_nifti(heat, affine, path, intent=("estimate", "cosine"))


def _moved(
    values: Array, affine: Array, target: Array, shape: tuple[int, ...], order: int, mode: str
) -> Array:
    """Values on one grid at the voxels of another."""
    matrix = np.linalg.inv(affine) @ target
    moved: Array = ndimage.affine_transform(
        np.asarray(values, np.float32), matrix[:3, :3], matrix[:3, 3], shape, np.float32,
        order=order, mode=mode,
    )  # fmt: skip
    return moved

"""The planes of a labelled volume that are worth a look, the way a radiologist holds them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nibabel.orientations import apply_orientation, io_orientation

from ctfm.base.types import Array
from ctfm.imaging.grids import spacing_of

__all__ = ["Plane", "best_slices", "extract_planes"]

#: The label map is looked at on a grid of about so many steps an axis when planes are chosen.
SEARCH_STEPS = 128


@dataclass(frozen=True)
class Plane:
    """A slice as it is shown: row 0 is the top of the picture, column 0 its left.

    Attributes:
        name: "axial", "coronal" or "sagittal".
        image: HU `(rows, columns)`, float32.
        label: class ids `(rows, columns)`.
        pixel_mm: height and width of a pixel in mm.
        marks: what lies at the left, right, top and bottom ("R", "L", "A", "P", "S", "I").
        index: number of the slice, from 0 at the patient's left, posterior or inferior end.
        count: how many slices there are.
    """

    name: str
    image: Array
    label: Array
    pixel_mm: tuple[float, float]
    marks: str
    index: int
    count: int

    @property
    def size_mm(self) -> tuple[float, float]:
        """Height and width in mm."""
        rows, columns = self.image.shape
        return rows * self.pixel_mm[0], columns * self.pixel_mm[1]


def extract_planes(image: Array, label: Array, affine: Array) -> list[Plane]:
    """The axial, coronal and sagittal plane that show the labelled structures best.

    Args:
        image: CT in HU `(D, H, W)`; only views of it are made.
        label: class ids of the same shape.
        affine: voxel index to mm, right-anterior-superior, `(4, 4)`.
    """
    orientation = io_orientation(affine)
    right, anterior, superior = np.argsort(orientation[:, 0])
    sizes = spacing_of(affine)
    x, y, z = (float(sizes[axis]) for axis in (right, anterior, superior))
    # axes now run to the patient's right, anterior, superior; reversed, they run as they are shown
    shown = [apply_orientation(array, orientation)[::-1, ::-1, ::-1] for array in (image, label)]
    i, j, k = best_slices(shown[1])

    def plane(name: str, axis: int, index: int, pixel_mm: tuple[float, float], marks: str) -> Plane:
        # no numpy.take here: it copies a volume that is not contiguous
        hu, ids = (np.moveaxis(array, axis, 0)[index].T for array in shown)
        count = shown[1].shape[axis]
        return Plane(name, hu.astype(np.float32), ids, pixel_mm, marks, count - 1 - index, count)

    return [
        plane("axial", 2, k, (y, x), "RLAP"),
        plane("coronal", 1, j, (z, x), "RLSI"),
        plane("sagittal", 0, i, (z, y), "APSI"),
    ]


def best_slices(label: Array) -> tuple[int, ...]:
    """For each axis, the index of the slice that shows most; the middle where nothing is labelled.

    A class adds the square root of its area in the slice over its largest area in any slice: many
    classes near their largest win, and no large class outweighs the others.
    """
    steps = tuple(max(1, size // SEARCH_STEPS) for size in label.shape)
    coarse = label[tuple(slice(None, None, step) for step in steps)]
    if not coarse.any():
        # whatever is there is smaller than a step: go through a voxel of it
        voxel = tuple(int(i) for i in np.unravel_index(label.argmax(), label.shape))
        return voxel if label[voxel] else tuple(size // 2 for size in label.shape)
    ids, compact = np.unique(coarse, return_inverse=True)
    compact = compact.reshape(coarse.shape)
    best = []
    for axis, (size, step) in enumerate(zip(coarse.shape, steps, strict=True)):
        slices = np.arange(size).reshape([-1 if a == axis else 1 for a in range(label.ndim)])
        flat = (slices * len(ids) + compact).ravel()
        areas = np.bincount(flat, minlength=size * len(ids)).reshape(size, len(ids))[:, ids != 0]
        score = np.sqrt(areas / np.maximum(areas.max(axis=0), 1)).sum(axis=1)
        best.append(int(score.argmax()) * step)
    return tuple(best)

"""Patches whose saliency is looked at: around the organs of labelled scans, or around a place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage
from torch import Tensor

from ctfm.base.errors import UserError
from ctfm.base.types import Array
from ctfm.contract.classes import TOTALSEGMENTATOR_V2
from ctfm.embedding.embedder import Embedder
from ctfm.embedding.windows import cut_window
from ctfm.search.locating.places import Scan, find_place

__all__ = ["Patch", "around_organs", "around_place", "moved"]


@dataclass(frozen=True)
class Patch:
    """A part of a scan, as the encoder sees it.

    Attributes:
        what: what it is called: an organ, or a place.
        class_id: of the organ; None: it is not known.
        image: (1, D, H, W).
        organ: mask of the organ, (D, H, W); None: there is none.
        affine: voxel to mm, (4, 4).
    """

    what: str
    class_id: int | None
    image: Tensor
    organ: Array | None
    affine: Array


def around_organs(scan: Scan, ids: Sequence[int] | None, embedder: Embedder) -> Iterator[Patch]:
    """One around the centre of mass of each class; those without a voxel in it are left out.

    Args:
        scan: with labels.
        ids: classes that are taken; None: all.
        embedder: whose patches they are.
    """
    assert scan.labels is not None
    for class_id in (int(i) for i in np.unique(scan.labels) if i > 0):
        if ids is None or class_id in ids:
            centre = scan.centroid(class_id)
            assert centre is not None
            patch = _cut(scan, centre, class_id, embedder)
            if patch.organ is not None:
                yield patch


def around_place(
    scan: Scan, embedder: Embedder, point: Any = None, voxel: Any = None, organ: Any = None
) -> Patch:
    """The patch around a place that a user names.

    Args:
        scan: with labels, or without.
        embedder: whose patch it is.
        point: x,y,z in mm, RAS+.
        voxel: i,j,k of the stored array.
        organ: name or id; without point and voxel, its centre of mass.

    Raises:
        UserError: there is no such place, or no way to tell which is meant.
    """
    if point is None and voxel is None and (organ is None or scan.labels is None):
        raise UserError(
            "no place is given: add --point x,y,z (mm), --voxel i,j,k, or --organ NAME with "
            "--labels FILE"
        )
    place = find_place(scan, point, voxel, organ)
    return _cut(scan, place.point, place.organ, embedder)


def moved(values: Array, affine: Array, target: Array, shape: Sequence[int], order: int) -> Array:
    """Values on one grid at the voxels of another; 0 outside.

    Args:
        values: (D, H, W).
        affine: (4, 4) of their grid.
        target: (4, 4) of the other.
        shape: of the other.
        order: 1: linear between voxels; 0: the nearest.
    """
    matrix = np.linalg.inv(affine) @ target
    found: Array = ndimage.affine_transform(
        np.asarray(values, np.float32), matrix[:3, :3], matrix[:3, 3], tuple(shape), np.float32,
        order=order, mode="constant",
    )  # fmt: skip
    return found


def _cut(scan: Scan, point: Array, class_id: int | None, embedder: Embedder) -> Patch:
    start = embedder.starts_at(scan.image, point[None])[0]
    affine = scan.image.affine.numpy().astype(float)
    affine[:3, 3] += affine[:3, :3] @ start
    mask = None
    if class_id is not None and scan.labels is not None:
        mask = moved(scan.labels == class_id, scan.affine, affine, embedder.patch, 0) > 0
    image = cut_window(scan.image.as_tensor(), start.tolist(), embedder.patch)
    what = _spell(point) if class_id is None else _name(class_id)
    return Patch(what, class_id, image, mask if mask is not None and mask.any() else None, affine)


def _spell(point: Array) -> str:
    return ", ".join(f"{mm:.1f}" for mm in point) + " mm"


def _name(class_id: int) -> str:
    return TOTALSEGMENTATOR_V2.get(class_id, f"class {class_id}")

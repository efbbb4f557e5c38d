"""Patches whose saliency is looked at: around organs of labelled scans, or around a location."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from ctfm.base.errors import UserError
from ctfm.base.types import Array
from ctfm.contract.classes import class_name
from ctfm.embedding.embedder import Embedder
from ctfm.embedding.windows import cut_window
from ctfm.imaging.label_maps import count_voxels, present_ids
from ctfm.imaging.reslice import on_grid
from ctfm.search.locating.locations import PreparedScan, find_location
from ctfm.search.options import LocationOptions

__all__ = ["SalientPatch", "around_location", "around_organs"]


@dataclass(frozen=True)
class SalientPatch:
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


def around_organs(
    scan: PreparedScan, ids: Sequence[int] | None, embedder: Embedder
) -> Iterator[SalientPatch]:
    """One around the centre of mass of each class; those without a voxel in it are left out.

    Args:
        scan: with labels.
        ids: classes that are taken; None: all.
        embedder: whose patches they are.
    """
    assert scan.labels is not None
    for class_id in present_ids(count_voxels(scan.labels)):
        if ids is None or class_id in ids:
            centre = scan.centroid(class_id)
            assert centre is not None
            patch = _cut(scan, centre, class_id, embedder)
            if patch.organ is not None:
                yield patch


def around_location(
    scan: PreparedScan, embedder: Embedder, options: LocationOptions
) -> SalientPatch:
    """The patch around a location that a user names.

    Args:
        scan: with labels, or without.
        embedder: whose patch it is.
        options: where it is.

    Raises:
        UserError: there is no such place, or no way to tell which is meant.
    """
    no_point = options.point is None and options.voxel is None
    if no_point and (options.organ is None or scan.labels is None):
        raise UserError(
            "no place is given: add --point x,y,z (mm), --voxel i,j,k, or --organ NAME with "
            "--labels FILE"
        )
    location = find_location(scan, options)
    return _cut(scan, location.point, location.organ, embedder)


def _cut(
    scan: PreparedScan, point: Array, class_id: int | None, embedder: Embedder
) -> SalientPatch:
    start = embedder.starts_at(scan.image, point[None])[0]
    affine = scan.image.affine.numpy().astype(float)
    affine[:3, 3] += affine[:3, :3] @ start
    mask = None
    if class_id is not None and scan.labels is not None:
        mask = on_grid(scan.labels == class_id, scan.affine, affine, embedder.patch, 0) > 0
    image = cut_window(scan.image.as_tensor(), start.tolist(), embedder.patch)
    what = _spell(point) if class_id is None else class_name(class_id)
    return SalientPatch(
        what, class_id, image, mask if mask is not None and mask.any() else None, affine
    )


def _spell(point: Array) -> str:
    return ", ".join(f"{mm:.1f}" for mm in point) + " mm"

"""Scans and locations in them: voxels, mm of the patient, or the centre of a labelled organ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor

from ctfm.base.errors import UserError
from ctfm.base.types import Array
from ctfm.embedding.embedder import Embedder
from ctfm.imaging.checks.ct import check_label
from ctfm.imaging.class_names import class_id_of, class_names, spelled
from ctfm.imaging.grids import mm_to_voxels, voxels_to_mm
from ctfm.imaging.label_maps import count_voxels, present_ids
from ctfm.imaging.transforms import LoadScand
from ctfm.search.options import LocationOptions

__all__ = ["Location", "PreparedScan", "find_location", "read_prepared", "triple"]


@dataclass(frozen=True)
class PreparedScan:
    """A scan as it is stored, and as the encoder sees it.

    Attributes:
        path: of the file or folder.
        stored: HU (1, X, Y, Z), with its affine.
        image: (1, D, H, W), of `Embedder.read`.
        labels: class ids (X, Y, Z); None: there are none.
        names: of the classes, where they lie beside the labels.
    """

    path: str
    stored: MetaTensor
    image: MetaTensor
    labels: Array | None
    names: Mapping[int, str] = field(default_factory=dict)

    @property
    def affine(self) -> Array:
        """(4, 4), stored voxel to mm, RAS+."""
        return np.asarray(self.stored.affine.numpy(), dtype=float)

    def voxel(self, point: Array) -> Array:
        """The stored voxel (3,) that is nearest to a location in mm (3,), which may lie outside."""
        voxel: Array = np.rint(mm_to_voxels(self.affine, point[None])[0]).astype(int)
        return voxel

    def contains(self, voxel: Array) -> bool:
        """Whether the scan has such a voxel (3,)."""
        return bool((voxel >= 0).all() and (voxel < self.stored.shape[1:]).all())

    def label_at(self, voxel: Array) -> int:
        """Class id there; 0 outside, and where there are no labels."""
        if self.labels is None or not self.contains(voxel):
            return 0
        return int(self.labels[tuple(voxel)])

    def centroid(self, organ: int) -> Array | None:
        """Centre of mass of a class in mm, (3,); None: it is not there."""
        assert self.labels is not None
        voxels = np.argwhere(self.labels == organ)
        return voxels_to_mm(self.affine, voxels.mean(axis=0)[None])[0] if len(voxels) else None


@dataclass(frozen=True)
class Location:
    """What is looked for.

    Attributes:
        point: mm, RAS+, (3,).
        organ: class id that it belongs to; None: not known.
    """

    point: Array
    organ: int | None


def read_prepared(
    embedder: Embedder, path: str, labels: str | None, input_check: str = "error"
) -> PreparedScan:
    """Read a scan, with a label map of its own grid where one is given.

    Raises:
        UserError: it is unreadable, no CT, or the label map is another's.
    """
    stored = _read(path, input_check)
    class_ids, names = None, {}
    if labels is not None:
        names = class_names(labels)
        read = _read(labels, "off")
        check_label(read, labels, tuple(stored.shape[1:]), stored.affine)
        class_ids = read[0].as_tensor().round().int().numpy()
    return PreparedScan(path, stored, embedder.prepare(stored), class_ids, names)


def find_location(scan: PreparedScan, options: LocationOptions) -> Location:
    """The location that is looked for.

    Args:
        scan: of the query.
        options: where it is.

    Raises:
        UserError: there is no such place, or no way to tell which is meant.
    """
    point, voxel, organ = options.point, options.voxel, options.organ
    typed = point if voxel is None else voxel
    if typed is None:
        return _organ_centre(scan, organ)
    class_meant = None if organ is None else class_id_of(organ, scan.names, scan.path)
    numbers = triple(typed)
    in_voxels = voxel is not None
    in_mm = voxels_to_mm(scan.affine, numbers[None])[0] if in_voxels else numbers
    nearest = scan.voxel(in_mm)
    if not scan.contains(nearest):
        raise UserError(_outside(scan, numbers, in_voxels))
    labelled = scan.label_at(nearest) or None
    return Location(in_mm, labelled if class_meant is None else class_meant)


def triple(value: Any) -> Array:
    """Three numbers, out of ``1,2,3`` or a list.

    Raises:
        UserError: they are not.
    """
    try:
        listed = value.split(",") if isinstance(value, str) else list(value)
        numbers = np.array([float(one) for one in listed])
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (3,) or not np.isfinite(numbers).all():
        raise UserError(
            f"the place is {value!r}: give three numbers with commas, as --point 10,-20,300"
        )
    return numbers


def _read(path: str, input_check: str) -> MetaTensor:
    row: Mapping[Any, Any] = LoadScand("image", input_check)({"image": str(Path(path))})
    scan: MetaTensor = row["image"]
    return scan


def _organ_centre(scan: PreparedScan, organ: Any) -> Location:
    if organ is None:
        raise UserError(
            "no place is given: add --point x,y,z (mm), --voxel i,j,k, or --organ NAME with "
            "--labels_query FILE"
        )
    if scan.labels is None:
        raise UserError("an organ is looked up in labels: add --labels_query FILE, or --point")
    class_id = class_id_of(organ, scan.names, scan.path)
    centre = scan.centroid(class_id)
    if centre is None:
        there = [spelled(i, scan.names) for i in present_ids(count_voxels(scan.labels))]
        shown = ", ".join(there[:6]) + (", …" if len(there) > 6 else "")
        name = spelled(class_id, scan.names)
        raise UserError(f"the labels of {scan.path} do not show {name}: they show {shown}")
    return Location(centre, class_id)


def _outside(scan: PreparedScan, numbers: Array, in_voxels: bool) -> str:
    shape = tuple(scan.stored.shape[1:])
    spelled = ",".join(f"{one:g}" for one in numbers)
    if in_voxels:
        size = " x ".join(map(str, shape))
        return f"{scan.path} has no voxel {spelled}: it has {size}, counted from 0"
    corners = voxels_to_mm(
        scan.affine, np.indices((2, 2, 2)).reshape(3, -1).T * (np.array(shape) - 1)
    )
    spans = zip("xyz", corners.min(0), corners.max(0), strict=True)
    reach = ", ".join(f"{axis} {low:.0f}..{high:.0f}" for axis, low, high in spans)
    return (
        f"{spelled} mm lies outside of {scan.path}, which reaches over {reach} mm: x grows to the "
        "patient's right and y to the front (in DICOM the other way); --voxel takes i,j,k"
    )

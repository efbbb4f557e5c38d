"""How large, how dense and where each class of a label map is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from ctfm.base.tables import write_json, write_records
from ctfm.base.types import Array
from ctfm.imaging.label_maps import count_voxels, present_ids

__all__ = ["ClassStatistics", "label_statistics", "write_statistics"]

#: Ids of a label map, uint8.
IDS = 256


@dataclass(frozen=True)
class ClassStatistics:
    """One class of a label map.

    Attributes:
        class_id: its id.
        name: its name.
        voxels: how many.
        volume_ml: their volume.
        mean_hu, sd_hu: mean and standard deviation of their HU.
        x_mm, y_mm, z_mm: centre of mass, RAS+, as NIfTI has it.
        touches_border: a voxel lies on the outermost layer of the scan, so that some of the
            structure may be missing.
        confidence: mean difference of the two largest probabilities; nan where it is not known.
    """

    class_id: int
    name: str
    voxels: int
    volume_ml: float
    mean_hu: float
    sd_hu: float
    x_mm: float
    y_mm: float
    z_mm: float
    touches_border: bool
    confidence: float = math.nan


def label_statistics(
    label: Array,
    image: Array,
    affine: Array,
    names: Mapping[int, str],
    voxels: Array | None = None,
) -> list[ClassStatistics]:
    """Measure each class that is there; background, 0, is none.

    Goes through slice by slice, in float64, without a copy of the volume.

    Args:
        label: (X, Y, Z), uint8.
        image: (X, Y, Z), HU.
        affine: (4, 4), voxel to RAS+ in mm.
        names: id -> name.
        voxels: of each id, where they are counted already; None: they are counted here.

    Returns:
        One a class, by id.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> label = np.zeros((4, 4, 4), np.uint8)
        >>> label[1:3, 1, 1] = 5
        >>> [liver] = label_statistics(label, np.full((4, 4, 4), 60), np.eye(4), {5: "liver"})
        >>> liver.voxels, liver.mean_hu, liver.x_mm, liver.touches_border
        (2, 60.0, 1.5, False)
    """
    if label.shape != image.shape:
        raise ValueError(f"label map of {label.shape} voxels, image of {image.shape}")
    counts = count_voxels(label) if voxels is None else voxels
    places, sums, squares = _sums(label, image)
    at_border = _at_border(label)
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    found = []
    for i in present_ids(counts):
        number = int(counts[i])
        mean = sums[i] / number
        place = affine[:3, :3] @ (places[:, i] / number) + affine[:3, 3]
        found.append(
            ClassStatistics(
                class_id=i,
                name=names.get(i, f"class {i}"),
                voxels=number,
                volume_ml=number * voxel_ml,
                mean_hu=float(mean),
                sd_hu=math.sqrt(max(squares[i] / number - mean * mean, 0.0)),
                x_mm=float(place[0]),
                y_mm=float(place[1]),
                z_mm=float(place[2]),
                touches_border=bool(at_border[i]),
            )
        )
    return found


def _sums(label: Array, image: Array) -> tuple[Array, Array, Array]:
    """Of each id: sums of its voxels' indices (3, IDS), of their HU (IDS,) and its squares."""
    sums, squares = np.zeros(IDS), np.zeros(IDS)
    places = np.zeros((3, IDS))
    order = [int(axis) for axis in np.argsort(label.strides)[::-1]]  # as it lies in memory
    labels, images = label.transpose(order), image.transpose(order)
    _, height, width = labels.shape
    row, column = (np.arange(n, dtype=np.intp) for n in (height, width))
    rows, columns = np.repeat(row * IDS, width), np.tile(column * IDS, height)
    for number in range(len(labels)):
        ids, hu = labels[number].ravel(), images[number].ravel()
        inside = np.flatnonzero(ids)
        # taking what is inside costs more than counting background where there is little of it
        kept = inside if 2 * len(inside) < len(ids) else slice(None)
        ids, hu = ids[kept].astype(np.intp), hu[kept].astype(np.float64)
        in_rows = np.bincount(ids + rows[kept], minlength=height * IDS).reshape(height, IDS)
        in_columns = np.bincount(ids + columns[kept], minlength=width * IDS).reshape(width, IDS)
        moments = (number * in_rows.sum(axis=0), row @ in_rows, column @ in_columns)
        for axis, moment in zip(order, moments, strict=True):
            places[axis] += moment
        sums += np.bincount(ids, hu, IDS)
        squares += np.bincount(ids, hu * hu, IDS)
    return places, sums, squares


def _at_border(label: Array) -> Array:
    """Which ids lie on the outermost layer, (IDS,)."""
    there = np.zeros(IDS, bool)
    for axis in range(3):
        for end in (0, -1):
            face = np.moveaxis(label, axis, 0)[end]  # a view: take() gathers, twenty times slower
            there[np.unique(face)] = True
    return there


def write_statistics(rows: Sequence[ClassStatistics], base: Path) -> None:
    """Write ``BASE.csv`` and ``BASE.json``.

    Raises:
        UserError: a file cannot be written.
    """
    classes = [asdict(row) for row in rows]
    columns = [field.name for field in fields(ClassStatistics)]
    write_records(base.with_name(f"{base.name}.csv"), classes, columns)
    document = {"classes": classes, "coordinates": "mm, RAS+"}
    write_json(base.with_name(f"{base.name}.json"), document)

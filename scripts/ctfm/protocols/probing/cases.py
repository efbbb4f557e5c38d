"""Labelled scans as a search of organs sees them: volume, windows, and where the organs lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import (
    Compose,
    CropForegroundd,
    Orientationd,
    ScaleIntensityRanged,
    Spacingd,
    SpatialPadd,
)
from torch import Tensor

from ctfm.base.errors import UserError
from ctfm.base.types import Array
from ctfm.contract.tasks import AXCODES, HU_WINDOW
from ctfm.embedding.inputs import apply_steps, soft_tissue
from ctfm.embedding.windows import WindowGrid
from ctfm.imaging.checks.ct import check_label
from ctfm.imaging.grids import voxels_to_mm
from ctfm.imaging.transforms import LoadScand

__all__ = ["OrganCase", "load_cases", "scan_name"]


@dataclass(frozen=True)
class OrganCase:
    """A scan with what its labels say of its windows.

    A window stands for the voxel ``start + patch // 2``, as in the published search.

    Attributes:
        name: of the scan.
        image: (1, D, H, W), scaled to 0..1.
        grid: windows over it.
        points: where the windows stand, mm, (N, 3).
        point_ids: class id at each of these points, (N,).
        centroids: class id -> centre of mass of its voxels, mm, (3,).
        query_starts: class id -> first voxel of the window centred there, (3,).
        outside: classes whose centre of mass lies outside of them, as a colon's may.
        affine: voxel of `image` to mm, (4, 4).
    """

    name: str
    image: Tensor
    grid: WindowGrid
    points: Array
    point_ids: Array
    centroids: dict[int, Array]
    query_starts: dict[int, Array]
    outside: frozenset[int]
    affine: Array

    def locations(self, starts: Array) -> Array:
        """Where windows stand, by their first voxels (N, 3), in mm, (N, 3)."""
        return voxels_to_mm(self.affine, starts + np.asarray(self.grid.patch) // 2)


def load_cases(
    rows: Sequence[Mapping[str, Any]],
    base_dir: str,
    class_ids: Sequence[int] | None,
    spacing: Sequence[float],
    patch: Sequence[int],
    overlap: float,
    input_check: str = "error",
) -> list[OrganCase]:
    """Read labelled scans.

    Args:
        rows: image and label of each, absolute paths.
        base_dir: folder below which scans are named.
        class_ids: classes that are looked for; None: all that the labels hold.
        spacing: voxel size in mm, axes SPL.
        patch: voxels of a window.
        overlap: share of a window that neighbours have in common.
        input_check: what to do about values that are no CT's: "error", "warn" or "off".

    Raises:
        UserError: a scan is unreadable, no CT, or has no label of its own grid.
    """
    steps = _preprocessing(spacing, patch, input_check)
    cases = []
    for row in rows:
        if not isinstance(row.get("label"), str):
            raise UserError(f"{row['image']}: the datalist has no label file for it: give one")
        files = {key: str(row[key]) for key in ("image", "label")}
        loaded = apply_steps(steps, files, *files.values())
        name = scan_name(str(row["image"]), base_dir)
        cases.append(_case(name, loaded, class_ids, (tuple(patch), overlap)))
    return cases


def _preprocessing(spacing: Sequence[float], patch: Sequence[int], input_check: str) -> Compose:
    """As in pretraining, and the published search: cropped to what lies above 0 HU, then scaled."""
    both, low = ("image", "label"), HU_WINDOW[0]
    return Compose(
        [
            LoadScand("image", input_check),
            LoadScand("label", "off"),
            _check_grids,
            Orientationd(both, AXCODES, labels=None),
            Spacingd(both, spacing, mode=("bilinear", "nearest")),
            CropForegroundd(both, "image", select_fn=soft_tissue, allow_smaller=True),
            SpatialPadd("image", patch, value=low),
            SpatialPadd("label", patch, value=0),
            ScaleIntensityRanged("image", *HU_WINDOW, 0, 1, clip=True),
        ]
    )


def _check_grids(data: dict[str, Any]) -> dict[str, Any]:
    image, label = data["image"], data["label"]
    path = str(label.meta["filename_or_obj"])
    check_label(label, path, tuple(image.shape[1:]), image.affine)
    return data


def scan_name(path: str, base_dir: str) -> str:
    """A scan's path below a folder; outside of it, the path as it is."""
    image, base = Path(path), Path(base_dir).absolute()
    return str(image.relative_to(base)) if image.is_relative_to(base) else path


def _case(
    name: str,
    loaded: Mapping[str, Any],
    class_ids: Sequence[int] | None,
    windows: tuple[tuple[int, ...], float],
) -> OrganCase:
    image, affine = loaded["image"], loaded["image"].affine.numpy()
    labels = loaded["label"][0].as_tensor().round().int().numpy()
    grid = WindowGrid(tuple(image.shape[1:]), *windows)
    half = np.asarray(grid.patch) // 2
    centroids = _centroids(labels, class_ids)
    nearest = {i: np.rint(voxel).astype(int) for i, voxel in centroids.items()}
    points = grid.starts() + half
    return OrganCase(
        name=name,
        image=image.as_tensor(),
        grid=grid,
        points=voxels_to_mm(affine, points),
        point_ids=_values(labels, points),
        centroids={i: voxels_to_mm(affine, voxel[None])[0] for i, voxel in centroids.items()},
        query_starts={i: voxel - half for i, voxel in nearest.items()},
        outside=frozenset(i for i, v in nearest.items() if _values(labels, v[None])[0] != i),
        affine=affine,
    )


def _centroids(labels: Array, class_ids: Sequence[int] | None) -> dict[int, Array]:
    """Centre of mass of each class that is there, in voxels."""
    flat = np.flatnonzero(labels)
    ids = labels.reshape(-1)[flat]
    voxels = np.unravel_index(flat, labels.shape)
    counts = np.bincount(ids)
    sums = np.stack([np.bincount(ids, weights=axis, minlength=len(counts)) for axis in voxels])
    found = np.flatnonzero(counts)
    wanted = found if class_ids is None else [i for i in class_ids if i in found]
    return {int(i): sums[:, i] / counts[i] for i in wanted}


def _values(labels: Array, voxels: Array) -> Array:
    """Class ids at voxels (N, 3); background beyond the edge, where windows over it may stand."""
    shape = np.asarray(labels.shape)
    inside = (voxels < shape).all(axis=1)
    values = labels[tuple(np.minimum(voxels, shape - 1).T)]
    return np.where(inside, values, 0)

"""One scan as a task's network sees it: oriented, resampled, cropped, int16."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation
from nibabel.orientations import ornt_transform as transform_between

from ctfm.base.errors import UserError
from ctfm.base.types import Array
from ctfm.imaging.checks.ct import check_ct, check_label
from ctfm.imaging.grids import spacing_of
from ctfm.imaging.scans import read_scan
from ctfm.loading.store.recipe import StoreRecipe
from ctfm.loading.store.resampling import resample_labels, resample_linear
from ctfm.loading.transforms import ClassPositionsd

__all__ = ["Volume", "convert_scan"]

#: Positions kept of each class: enough that a crop's centre is as good as drawn from all of them.
POSITIONS_PER_CLASS = 1024


@dataclass(frozen=True)
class Volume:
    """A converted scan.

    Attributes:
        image: HU, int16, (D, H, W).
        label: class ids, uint8 or uint16, same shape; None without labels.
        affine: (4, 4), stored voxel index to RAS+ in mm.
        box: start and stop of the stored voxels in the resampled, uncropped grid.
        source_affine: (4, 4) of the file that was read.
        source_shape: voxels of that file.
        positions: class id -> flat indices of some of its voxels, int32.
        hu: mean, standard deviation, and percentiles 0.5, 50 and 99.5 of the stored voxels.
    """

    image: npt.NDArray[np.int16]
    label: Array | None
    affine: Array
    box: tuple[tuple[int, ...], tuple[int, ...]]
    source_affine: Array
    source_shape: tuple[int, ...]
    positions: dict[int, Array]
    hu: dict[str, float]


def convert_scan(
    image: str, label: str | None, recipe: StoreRecipe, input_check: str = "error"
) -> Volume:
    """Read a scan, with its labels if there are any, and convert both.

    Args:
        image: NIfTI, NRRD or MHA/MHD file, or a folder with a DICOM series.
        label: label file on the image's grid; None: none.
        recipe: what to make of it.
        input_check: what to do about values that are no CT's: "error", "warn" or "off".

    Raises:
        UserError: unreadable, no CT, or image and label on different grids.
    """
    scan = read_scan(image)
    check_ct(scan, image, input_check)
    affine, voxels = np.asarray(scan.affine, dtype=float), scan[0].numpy()
    voxels, oriented = _orient(voxels, affine, recipe.axcodes)
    steps = tuple(recipe.spacing / spacing_of(oriented))
    steps = tuple(1.0 if abs(step - 1) < 1e-4 else float(step) for step in steps)
    resampled = np.rint(resample_linear(voxels, steps))
    np.clip(resampled, *recipe.hu_window, out=resampled)
    start, stop = _foreground(resampled, recipe, image)
    inside = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    labels = _labels(label, affine, scan.shape[1:], recipe.axcodes, steps, inside)
    stored = np.ascontiguousarray(resampled[inside], np.int16)
    return Volume(
        image=stored,
        label=labels,
        affine=oriented @ np.diag([*steps, 1.0]) @ _shift(start),
        box=(start, stop),
        source_affine=affine,
        source_shape=tuple(scan.shape[1:]),
        positions={} if labels is None else _positions(labels),
        hu=_statistics(stored),
    )


def _orient(voxels: Array, affine: Array, axcodes: str) -> tuple[Array, Array]:
    """A view with the axes in the order and direction of `axcodes`, and its affine."""
    change = transform_between(io_orientation(affine), axcodes2ornt(axcodes))
    return apply_orientation(voxels, change), affine @ inv_ornt_aff(change, voxels.shape)


def _shift(start: tuple[int, ...]) -> Array:
    matrix = np.eye(4)
    matrix[:3, 3] = start
    return matrix


def _foreground(volume: Array, recipe: StoreRecipe, path: str) -> tuple[tuple[int, ...], ...]:
    """Start and stop of the box of voxels above the threshold, with its margin."""
    above = volume > recipe.foreground_hu
    spans = []
    for axis in range(3):
        others = tuple(i for i in range(3) if i != axis)
        hits = np.flatnonzero(above.any(axis=others))
        if not len(hits):
            raise UserError(f"{path}: nothing lies above {recipe.foreground_hu:g} HU: not a body")
        low = max(0, int(hits[0]) - recipe.margin)
        spans.append((low, min(volume.shape[axis], int(hits[-1]) + 1 + recipe.margin)))
    return tuple(a for a, _ in spans), tuple(b for _, b in spans)


def _labels(
    path: str | None,
    affine: Array,
    shape: tuple[int, ...],
    axcodes: str,
    steps: tuple[float, ...],
    inside: tuple[slice, ...],
) -> Array | None:
    if path is None:
        return None
    scan = read_scan(path)
    check_label(scan, path, shape, affine)
    values = scan[0].numpy()
    dtype = np.uint8 if values.max() < 256 else np.uint16
    labels, _ = _orient(values.astype(dtype), affine, axcodes)
    return np.ascontiguousarray(resample_labels(labels, steps)[inside])


def _positions(labels: Array) -> dict[int, Array]:
    """Where each class lies; background, which is nearly everywhere, is left out."""
    find = ClassPositionsd("label", "positions", int(labels.max()) + 1, POSITIONS_PER_CLASS)
    if not labels.any():
        return {}
    found = find({"label": labels.astype(np.int64)})["positions"]
    return {i: p.numpy().astype(np.int32) for i, p in enumerate(found) if len(p)}


def _statistics(volume: Array) -> dict[str, float]:
    sample = volume.reshape(-1)[:: max(1, volume.size // 200_000)].astype(np.float64)
    low, median, high = np.percentile(sample, [0.5, 50, 99.5])
    return {
        "mean": round(float(sample.mean()), 2),
        "std": round(float(sample.std()), 2),
        "p00_5": float(low),
        "p50": float(median),
        "p99_5": float(high),
    }

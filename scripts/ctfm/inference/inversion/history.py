"""What MONAI's transforms did to the grid of a scan, read backwards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.networks.utils import to_norm_affine
from monai.utils import TraceKeys
from torch.nn import functional

from ctfm.base.errors import UserError
from ctfm.imaging.grids import AFFINE_TOLERANCE_MM, farthest_corner_mm
from ctfm.imaging.reslice import Numbers, Taps

__all__ = ["Grid", "NotSeparableError", "Step", "before_resampling", "steps_back", "way_back"]

#: MONAI's: affines that differ less are the same, and nothing is resampled.
AFFINE_TOLERANCE = 1e-3
#: Axes of two grids are parallel if going along one leaves another by no more voxels. Rotations in
#: headers are float32, which is 1e-4 voxels over a scan.
PARALLEL_VOXELS = 1e-3


class NotSeparableError(UserError):
    """The axes of two grids are not parallel, or what a transform did is not known here."""


@dataclass(frozen=True)
class Grid:
    """Where voxels lie.

    Attributes:
        shape: voxels along each axis.
        affine: (4, 4), float64, voxels to mm.
    """

    shape: tuple[int, ...]
    affine: npt.NDArray[np.float64]

    @classmethod
    def of(cls, image: MetaTensor) -> Grid:
        """The grid of an image (C, D, H, W)."""
        return cls(tuple(image.shape[1:]), np.asarray(image.affine.cpu(), dtype=np.float64))

    def whole(self) -> list[Taps]:
        """Its own axes."""
        return [Taps.whole(axis, length) for axis, length in enumerate(self.shape)]


@dataclass(frozen=True)
class Step(ABC):
    """What one transform did.

    Attributes:
        grid: from before.
    """

    grid: Grid

    @abstractmethod
    def back(self, axes: Sequence[Taps], linear: bool = False) -> list[Taps]:
        """The axes of the grid from before.

        Args:
            axes: of the grid that the transform made, in its order, along any array.
            linear: resampling interpolates; False: it takes the nearest voxel.
        """


@dataclass(frozen=True)
class _Cropped(Step):
    """The first voxel of the new grid is the one at `offset`, which padding makes negative."""

    offset: tuple[int, ...]

    def back(self, axes: Sequence[Taps], linear: bool = False) -> list[Taps]:
        sides = zip(axes, self.grid.shape, self.offset, strict=True)
        return [taps.at(np.arange(length) - offset) for taps, length, offset in sides]


@dataclass(frozen=True)
class _Turned(Step):
    """Each axis of the new grid is one from before, `targets`, with a direction of 1 or -1."""

    targets: tuple[tuple[int, int], ...]

    def back(self, axes: Sequence[Taps], linear: bool = False) -> list[Taps]:
        turned = {
            target: taps if direction > 0 else taps.at(np.arange(len(taps))[::-1])
            for taps, (target, direction) in zip(axes, self.targets, strict=True)
        }
        return [turned[axis] for axis in range(len(axes))]


@dataclass(frozen=True)
class _Resampled(Step):
    """Along each axis, where the voxels from before lie on the new grid, by MONAI's rounding.

    Its `Invertd` leaves corners unaligned for the nearest voxel, whatever the transform says.
    """

    nearest: tuple[Numbers, ...]
    linear: tuple[Numbers, ...]

    def back(self, axes: Sequence[Taps], linear: bool = False) -> list[Taps]:
        if linear:
            return [taps.between(p) for taps, p in zip(axes, self.linear, strict=True)]
        # halves to the even one, as torch's grid_sample does
        found = [np.rint(p).astype(np.int64) for p in self.nearest]
        return [taps.at(index) for taps, index in zip(axes, found, strict=True)]


@dataclass(frozen=True)
class _Kept(Step):
    """The spacing was right: nothing was resampled."""

    def back(self, axes: Sequence[Taps], linear: bool = False) -> list[Taps]:
        return list(axes)


def steps_back(operations: Sequence[Mapping[str, Any]], grid: Grid) -> Iterator[Step]:
    """Read what was done to an image.

    Args:
        operations: its `applied_operations`.
        grid: on which it lies now.

    Yields:
        What the transforms did, the last one first.

    Raises:
        NotSeparableError: axes are not parallel, or what a transform did is not known.
    """
    for operation in reversed(operations):
        step = _read(operation, grid)
        yield step
        grid = step.grid


def before_resampling(
    operations: Sequence[Mapping[str, Any]], grid: Grid
) -> tuple[list[Taps], Grid, list[Mapping[str, Any]]]:
    """The grid that an image had before it was last resampled, for linear interpolation.

    Args:
        operations: the image's `applied_operations`.
        grid: on which it lies now.

    Returns:
        Axes of the grid from before along those of the image, that grid, and what was done
        before. An image that was not resampled stays where it is, a crop of it included.

    Raises:
        NotSeparableError: as for `steps_back`.
    """
    axes = grid.whole()
    for number, step in enumerate(steps_back(operations, grid), start=1):
        axes = step.back(axes, linear=True)
        if isinstance(step, _Resampled):
            return axes, step.grid, list(operations[:-number])
    return grid.whole(), grid, list(operations)


def way_back(
    operations: Sequence[Mapping[str, Any]], grid: Grid, label: Grid
) -> tuple[list[Taps] | None, Grid]:
    """The grid that an image was read on, for taking the nearest voxels of a label map.

    Args:
        operations: the image's `applied_operations`.
        grid: on which the image lies now.
        label: on which the label map lies: the image's grid, or one that it had before.

    Returns:
        Axes of the grid that the image was read on along those of the label map, None if it lies
        there already; and that grid.

    Raises:
        NotSeparableError: as for `steps_back`.
        UserError: the label map lies on another grid.
    """
    steps = list(steps_back(operations, grid))
    grids = [grid, *(step.grid for step in steps)]
    apart = [
        farthest_corner_mm(g.shape, g.affine, label.affine) if g.shape == label.shape else np.inf
        for g in grids
    ]
    start = int(np.argmin(apart))
    if apart[start] > AFFINE_TOLERANCE_MM:
        shapes = ", ".join(str(g.shape) for g in grids)
        raise UserError(
            f"a label map of {label.shape} voxels lies on no grid that its image had ({shapes}): "
            "it cannot be brought back"
        )
    if start == len(steps):
        return None, grids[-1]
    axes = label.whole()
    for step in steps[start:]:
        axes = step.back(axes)
    return axes, grids[-1]


def _read(operation: Mapping[str, Any], grid: Grid) -> Step:
    info = operation.get(TraceKeys.EXTRA_INFO) or {}
    shape = tuple(int(n) for n in operation.get(TraceKeys.ORIG_SIZE) or ())
    if len(shape) == len(grid.shape):
        if "cropped" in info or "padded" in info:
            return _cropped(info, shape, grid)
        if "original_affine" in info:
            return _turned(Grid(shape, _matrix(info["original_affine"])), grid)
        if "src_affine" in info and info.get("padding_mode") == "border":
            return _resampled(info, Grid(shape, _matrix(info["src_affine"])), grid)
    name = operation.get(TraceKeys.CLASS_NAME, "an unknown transform")
    raise NotSeparableError(
        f"what {name} did to the image cannot be inverted axis by axis: use Orientation, Spacing "
        "with padding by border, crops and pads alone, or give InvertLabelsd the transform"
    )


def _matrix(affine: Any) -> npt.NDArray[np.float64]:
    return np.asarray(affine, dtype=np.float64)


def _cropped(info: Mapping[str, Any], shape: tuple[int, ...], grid: Grid) -> _Cropped:
    before = np.zeros(len(shape), dtype=np.int64)
    if "cropped" in info:
        before += np.asarray(info["cropped"], dtype=np.int64).reshape(-1, 2)[: len(shape), 0]
    padding = info.get("pad_info", {}).get(TraceKeys.EXTRA_INFO, info)
    if "padded" in padding:  # the first pair is the channels'
        before -= np.asarray(padding["padded"], dtype=np.int64)[1 : 1 + len(shape), 0]
    back = np.eye(len(shape) + 1)
    back[:-1, -1] = -before
    return _Cropped(Grid(shape, grid.affine @ back), tuple(before.tolist()))


def _turned(before: Grid, grid: Grid) -> _Turned:
    now, then = (nib.orientations.io_orientation(g.affine) for g in (grid, before))
    turns = nib.orientations.ornt_transform(now, then)
    return _Turned(before, tuple((int(axis), int(direction)) for axis, direction in turns))


def _resampled(info: Mapping[str, Any], before: Grid, grid: Grid) -> Step:
    """As MONAI's `SpatialResample` inverts itself."""
    xform = _matrix(np.linalg.solve(grid.affine, before.affine))
    alike = (
        np.allclose(grid.affine, before.affine, atol=AFFINE_TOLERANCE),
        np.allclose(xform, np.eye(len(xform)), atol=AFFINE_TOLERANCE),
    )
    if before.shape == grid.shape and any(alike):
        return _Kept(before)
    across = np.abs(xform - np.diag(np.diag(xform)))[:-1, :-1]
    if (across @ (np.array(before.shape) - 1) / 2).max() > PARALLEL_VOXELS:
        raise NotSeparableError(
            "the axes of the scan are not at right angles (a tilted gantry?), so that its voxels "
            "cannot be found axis by axis: take nearest, and give InvertLabelsd the transform"
        )
    dtype = getattr(torch, str(info["dtype"]).removeprefix("torch."))
    found = {
        aligned: _positions(xform, grid.shape, before.shape, dtype, aligned)
        for aligned in {False, info.get("align_corners") is True}
    }
    return _Resampled(before, found[False], found[max(found)])


def _positions(
    xform: npt.NDArray[np.float64],
    source: tuple[int, ...],
    target: tuple[int, ...],
    dtype: torch.dtype,
    align_corners: bool,
) -> tuple[Numbers, ...]:
    """Where the voxels of `target` lie in `source`, each axis in the middle of the others.

    By the functions and in the order that MONAI's `AffineTransform` computes in, since rounding
    decides which voxel is the nearest one half-way between two.
    """
    matrix = torch.from_numpy(xform)[None].to(dtype)
    theta = to_norm_affine(matrix, source, target, align_corners)[:, :-1]
    rank, found = len(source), []
    theta = torch.cat([theta[:, :, :rank].flip(1, 2), theta[:, :, rank:].flip(1)], 2)
    for axis, (length, count) in enumerate(zip(source, target, strict=True)):
        size = [1, 1, *(count if n == axis else 3 for n in range(rank))]
        grid = functional.affine_grid(theta, size, align_corners=align_corners)
        middle = tuple(slice(None) if n == axis else 1 for n in range(rank))
        places = grid[0][middle][:, rank - 1 - axis] + 1
        places = places / 2 * (length - 1) if align_corners else (places * length - 1) / 2
        found.append(places.clamp(0, length - 1).double().numpy())
    return tuple(found)

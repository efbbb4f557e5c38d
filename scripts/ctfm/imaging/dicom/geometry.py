"""Where the pixels of a series lie, and the interpolation that makes its grid even and upright."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample

from ctfm.base.errors import UserError
from ctfm.base.types import Array
from ctfm.imaging.dicom.headers import ONE_VOLUME, Slice
from ctfm.imaging.reslice import Taps

__all__ = ["Grid", "correction", "on_even_grid", "sort_slices"]

#: A gap wider than this many usual ones means that slices are missing.
WIDEST_GAP = 1.5
#: Images nearer to each other than this, in mm, lie at one position.
SAME_POSITION = 0.01
#: Slices farther from even positions than this part of the spacing are interpolated.
UNEVEN = 0.1
#: A stack that leans farther than this from end to end, in pixels, is set upright.
LEAN = 0.25
#: Usual gaps that differ by less than this factor are those of one thickness.
SAME_THICKNESS = 1.1


@dataclass(frozen=True)
class Grid:
    """Where the pixels lie, in mm, in DICOM's axes (LPS+).

    Attributes:
        axes: (3, 3), its columns point along columns, rows, and the normal; unit length.
        spacing: (2,), from column to column, and from row to row.
        positions: (Z, 3), the centre of the first pixel of each slice.
        usual: (Z,), distance to the next slice that is usual among slices of the same thickness.
    """

    axes: Array
    spacing: Array
    positions: Array
    usual: Array

    @property
    def depth(self) -> Array:
        """(Z,), positions along the normal, ascending."""
        return np.asarray(self.positions @ self.axes[:, 2])

    @property
    def even_depth(self) -> Array:
        """Positions along the normal at even distances, from the first slice to the last.

        As many as there are slices; of a series of two thicknesses as many as the finer ones need,
        so that nothing of theirs is lost.
        """
        count = len(self.depth)
        if self.usual.max() > SAME_THICKNESS * self.usual.min():
            count = round((self.depth[-1] - self.depth[0]) / self.usual.min()) + 1
        return np.linspace(self.depth[0], self.depth[-1], count)

    def across(self, shift: Array) -> Array:
        """(..., 2), the part within the plane of a shift (..., 3), in pixels."""
        return np.asarray(shift @ self.axes[:, :2] / self.spacing)

    def affine(self, step: Array, first: Sequence[float] | Array = (0, 0)) -> Array:
        """(4, 4) to RAS+, for slices `step` mm apart, from the first slice's pixel `first` on."""
        matrix = np.eye(4)
        matrix[:3, :2] = self.axes[:, :2] * self.spacing
        matrix[:3, 2] = step
        matrix[:3, 3] = self.positions[0] + matrix[:3, :2] @ np.asarray(first)
        return np.asarray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix)


def sort_slices(folder: Path, slices: Sequence[Slice]) -> tuple[list[Slice], Grid]:
    """Order slices along their normal, and say where they lie.

    Raises:
        UserError: slices coincide, are missing, or do not lie in one line.
    """
    row, column = np.reshape(slices[0].orientation or (), (2, 3))
    normal = np.cross(row, column)
    row, normal = row / np.linalg.norm(row), normal / np.linalg.norm(normal)
    axes = np.stack([row, np.cross(normal, row), normal], axis=1)
    positions = np.array([header.position for header in slices])
    order = np.argsort(positions @ normal)
    ordered = [slices[i] for i in order]
    usual = _usual_gaps(np.diff((positions @ normal)[order]), [one.thickness for one in ordered])
    grid = Grid(axes, np.array(slices[0].spacing)[::-1], positions[order], usual)
    _check_positions(folder, [one.path.name for one in ordered], grid)
    return ordered, grid


def _usual_gaps(gaps: Array, thicknesses: Sequence[float | None]) -> Array:
    """For each slice, the median distance between neighbours of its own thickness.

    Heads are scanned in thin slices at the base and thicker ones above: there a wider gap is no
    missing slice.
    """
    thickness = np.array([round(one or 0.0, 2) for one in thicknesses])
    alike = thickness[1:] == thickness[:-1]
    usual = np.full(len(thickness), float(np.median(gaps)))
    for one in np.unique(thickness):
        inside = gaps[alike & (thickness[1:] == one)]
        if inside.size:
            usual[thickness == one] = np.median(inside)
    return usual


def _check_positions(folder: Path, names: Sequence[str], grid: Grid) -> None:
    gaps = np.diff(grid.depth)
    expected = np.maximum(grid.usual[1:], grid.usual[:-1])
    least = int(gaps.argmin())
    if gaps[least] < SAME_POSITION:
        raise UserError(
            f"{folder}: {(gaps < SAME_POSITION).sum()} of {len(names)} images lie where another "
            f"does, such as {names[least]} and {names[least + 1]}: {ONE_VOLUME}"
        )
    most = int((gaps / expected).argmax())
    if gaps[most] > WIDEST_GAP * expected[most]:
        raise UserError(
            f"{folder}: slices are missing, such as between {names[most]} and {names[most + 1]}, "
            f"{gaps[most]:.3g} mm apart instead of {expected[most]:.3g} mm: "
            "export the whole series again"
        )
    part = (grid.depth - grid.depth[0]) / (grid.depth[-1] - grid.depth[0])
    line = grid.positions[0] + part[:, None] * (grid.positions[-1] - grid.positions[0])
    off = np.abs(grid.across(grid.positions - line)).max(axis=1)
    if off.max() > 1:
        raise UserError(
            f"{folder}: {names[int(off.argmax())]} is shifted sideways by {off.max():.3g} pixels "
            f"against the line of the others: {ONE_VOLUME}"
        )


def correction(grid: Grid) -> str | None:
    """Why the volume does not lie on the grid of its images; None: it does."""
    if _lean(grid).any():
        return "its gantry was tilted"
    return "its slices lie at uneven distances" if _is_uneven(grid.depth) else None


def _is_uneven(depth: Array) -> bool:
    even = np.linspace(depth[0], depth[-1], len(depth))
    return bool(np.abs(depth - even).max() > UNEVEN * (even[1] - even[0]))


def _lean(grid: Grid) -> Array:
    """How far the last slice is shifted against the first, in pixels, (2,)."""
    lean = grid.across(grid.positions[-1] - grid.positions[0])
    lean[np.abs(lean) <= LEAN] = 0
    return lean


def on_even_grid(volume: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, Array]:
    """The volume on a grid of even, orthogonal steps, and its affine.

    A series that lies on one is not interpolated.

    Args:
        volume: (X, Y, Z), HU, slices in the order of `grid`.
        grid: where they lie.
    """
    if not _is_uneven(grid.depth):
        return _upright(volume, grid)
    lean, darkest = _lean(grid), volume.min()
    first = np.zeros(2)
    if lean.any():  # slice by slice: the shift follows the uneven positions
        shifts = grid.across(grid.positions - grid.positions[0]) * (lean != 0)
        for axis in (0, 1):
            first[axis] = math.floor(min(0.0, float(shifts[:, axis].min())))
            volume = _shifted(volume - darkest, axis, shifts[:, axis], int(first[axis])) + darkest
    depth = grid.even_depth
    taps = Taps.among(2, grid.depth, depth).tensors(volume.device)
    even = torch.lerp(volume[..., taps.first], volume[..., taps.second], taps.share)
    return even, grid.affine(grid.axes[:, 2] * (depth[1] - depth[0]), first=first)


def _shifted(volume: torch.Tensor, axis: int, shifts: Array, first: int) -> torch.Tensor:
    """Shift each slice along an axis by its own number of pixels, zeros beside it.

    Args:
        volume: (X, Y, Z).
        axis: 0 or 1.
        shifts: (Z,), pixels.
        first: index of the result's first pixel.
    """
    old = volume.shape[axis]
    size = old + math.ceil(float(shifts.max())) - first
    places = np.arange(size)[:, None] + first - shifts  # of each new pixel among the old ones
    below = np.clip(np.floor(places), -1, old - 1).astype(np.int64)
    share = torch.from_numpy(np.clip(places - below, 0, 1)).to(volume)
    padded = torch.nn.functional.pad(volume.movedim(axis, 0), (0, 0, 0, 0, 1, 1))
    index = torch.from_numpy(below + 1)[:, None].expand(-1, padded.shape[1], -1)
    shifted = torch.lerp(padded.gather(0, index), padded.gather(0, index + 1), share[:, None])
    return shifted.movedim(0, axis)


def _upright(volume: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, Array]:
    """Shift the slices of a tilted gantry so that the axes are orthogonal; with the affine."""
    way, gaps = grid.positions[-1] - grid.positions[0], len(grid.positions) - 1
    upright_step = grid.axes[:, 2] * (way @ grid.axes[:, 2]) / gaps
    lean = _lean(grid)
    if not lean.any():
        return volume, grid.affine(upright_step)
    leaning_step = upright_step + grid.axes[:, :2] @ (lean * grid.spacing) / gaps
    affine = grid.affine(upright_step, first=np.floor(np.minimum(lean, 0)))
    size = [n + math.ceil(abs(pixels)) for n, pixels in zip(volume.shape, [*lean, 0], strict=True)]
    darkest = volume.min()
    leaning = MetaTensor((volume - darkest)[None], affine=grid.affine(leaning_step))
    resample = SpatialResample(padding_mode="zeros", dtype=torch.float32)
    upright = resample(leaning, torch.from_numpy(affine), spatial_size=size)
    return upright.as_tensor()[0] + darkest, affine

"""The kernels for CPUs, compiled by numba: a volume passes through the cache once.

They release the interpreter's lock, so that a loader's threads run them side by side. Against the
same in torch operations they take a seventh to a half of the time (figures in CHANGELOG.md). Arrays
are (D, H, W), contiguous; `out` has the shape of the result. Compiled code is kept on disk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from ctfm.base.optional import require
from ctfm.base.types import Array

__all__ = ["affine_linear", "affine_nearest", "bend", "resize", "smooth"]

Function = TypeVar("Function", bound=Callable[..., Any])


def _compiled(function: Function) -> Function:
    numba = require("numba", purpose="augment scans on a CPU", extra="store")
    options = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy"}
    try:
        made: Function = numba.njit(function, cache=True, **options)
    except RuntimeError:  # nowhere to keep it: neither beside this file nor in the user's folder
        made = numba.njit(function, **options)
    return made


@_compiled
def _taps(old: int, new: int) -> tuple[Array, Array, Array]:
    """Neighbours of each new voxel, and the share of the second: centres are at halves."""
    below, above = np.empty(new, np.int64), np.empty(new, np.int64)
    share = np.empty(new, np.float32)
    for i in range(new):
        place = min(max((i + 0.5) * (old / new) - 0.5, 0.0), old - 1.0)
        below[i] = min(int(place), max(old - 2, 0))
        above[i] = min(below[i] + 1, old - 1)
        share[i] = place - below[i]
    return below, above, share


@_compiled
def _resize_plane(
    plane: Array,
    across_rows: tuple[Array, Array, Array],
    across_columns: tuple[Array, Array, Array],
    lines: Array,
    out: Array,
) -> None:
    """Resize (H, W); `lines` (2, W of out) is room for the two rows that are in use."""
    top, bottom, down = across_rows
    left, right, along = across_columns
    held = np.full(2, -1)
    for i in range(out.shape[0]):
        for row in (top[i], bottom[i]):
            if held[row & 1] != row:
                held[row & 1] = row
                line, source = lines[row & 1], plane[row]
                for j in range(out.shape[1]):
                    a = source[left[j]]
                    line[j] = a + (source[right[j]] - a) * along[j]
        first, second, share = lines[top[i] & 1], lines[bottom[i] & 1], down[i]
        for j in range(out.shape[1]):
            out[i, j] = first[j] + (second[j] - first[j]) * share


@_compiled
def resize(volume: Array, out: Array) -> None:
    """Trilinear, as `torch.nn.functional.interpolate` without ``align_corners``."""
    depth, rows, columns = (
        _taps(volume.shape[0], out.shape[0]),
        _taps(volume.shape[1], out.shape[1]),
        _taps(volume.shape[2], out.shape[2]),
    )
    planes = np.empty((2, out.shape[1], out.shape[2]), np.float32)
    lines = np.empty((2, out.shape[2]), np.float32)
    held = np.full(2, -1)
    for i in range(out.shape[0]):
        for plane in (depth[0][i], depth[1][i]):
            if held[plane & 1] != plane:
                held[plane & 1] = plane
                _resize_plane(volume[plane], rows, columns, lines, planes[plane & 1])
        near, far, share = planes[depth[0][i] & 1], planes[depth[1][i] & 1], depth[2][i]
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                out[i, y, x] = near[y, x] + (far[y, x] - near[y, x]) * share


@_compiled
def smooth(
    volume: Array, depth: Array, rows: Array, columns: Array, planes: Array, out: Array
) -> None:
    """Convolve along each axis with a symmetric kernel of odd length, zeros outside.

    `planes` is room for a volume; `out` may be the volume itself.
    """
    depths, height, width = volume.shape
    line = np.zeros(width + 2 * (len(columns) // 2), np.float32)
    plane = np.empty((height, width), np.float32)
    for z in range(depths):
        _smooth_lines(volume[z], columns, line, plane)
        _smooth_across(plane, rows, planes[z])
    for z in range(depths):
        first = z - len(depth) // 2
        for y in range(height):
            out[z, y] = 0
            for i in range(max(0, -first), min(len(depth), depths - first)):
                weight = depth[i]
                for x in range(width):
                    out[z, y, x] += weight * planes[first + i, y, x]


@_compiled
def _smooth_lines(plane: Array, kernel: Array, line: Array, out: Array) -> None:
    """Convolve each line of a plane; `line` is room for one with zeros around it."""
    reach = len(kernel) // 2
    height, width = plane.shape
    for y in range(height):
        line[reach : reach + width] = plane[y]
        out[y] = 0
        for i in range(len(kernel)):
            weight = kernel[i]
            for x in range(width):
                out[y, x] += weight * line[x + i]


@_compiled
def _smooth_across(plane: Array, kernel: Array, out: Array) -> None:
    """Convolve a plane across its lines."""
    height, width = plane.shape
    for y in range(height):
        top = y - len(kernel) // 2
        out[y] = 0
        for i in range(max(0, -top), min(len(kernel), height - top)):
            weight = kernel[i]
            for x in range(width):
                out[y, x] += weight * plane[top + i, x]


@_compiled
def bend(values: Array, slope: float, offset: float, knots: Array, changes: Array) -> None:
    """Piecewise linear map of (N,), in place: `slope` changes by `changes` at `knots`."""
    size = 1024  # stays in the first cache
    before = np.empty(size, np.float32)
    for start in range(0, len(values), size):
        part = values[start : start + size]
        for i in range(len(part)):
            before[i] = part[i]
            part[i] = slope * part[i] + offset
        for k in range(len(knots)):
            knot, change = knots[k], changes[k]
            for i in range(len(part)):
                part[i] += change * max(before[i] - knot, np.float32(0))


@_compiled
def _at(volume: Array, z: int, y: int, x: int, fill: float) -> float:
    depths, rows, columns = volume.shape
    inside = 0 <= z < depths and 0 <= y < rows and 0 <= x < columns
    return volume[z, y, x] if inside else fill


@_compiled
def _inside(volume: Array, z: float, y: float, x: float) -> float:
    """Trilinear value at a point whose eight neighbours exist."""
    zi, yi, xi = np.int32(z), np.int32(y), np.int32(x)
    near, down, along = z - np.float32(zi), y - np.float32(yi), x - np.float32(xi)
    # unsigned: a signed index is compared with 0 each time, as it may count from the end
    k, j, i, one = np.uintp(zi), np.uintp(yi), np.uintp(xi), np.uintp(1)
    a, b = volume[k, j, i], volume[k, j, i + one]
    c, d = volume[k, j + one, i], volume[k, j + one, i + one]
    e, f = volume[k + one, j, i], volume[k + one, j, i + one]
    g, h = volume[k + one, j + one, i], volume[k + one, j + one, i + one]
    a, c, e, g = a + (b - a) * along, c + (d - c) * along, e + (f - e) * along, g + (h - g) * along
    a, e = a + (c - a) * down, e + (g - e) * down
    return a + (e - a) * near  # type: ignore[no-any-return]


@_compiled
def _at_border(volume: Array, z: float, y: float, x: float, fill: float) -> float:
    """Trilinear value at a point some of whose neighbours are `fill`."""
    k, j, i = math.floor(z), math.floor(y), math.floor(x)
    near, down, along = z - np.float32(k), y - np.float32(j), x - np.float32(i)
    value: Any = np.float32(0)
    for dz in range(2):
        for dy in range(2):
            for dx in range(2):
                weight = (near if dz else 1 - near) * (down if dy else 1 - down)
                weight *= along if dx else 1 - along
                value += weight * _at(volume, k + dz, j + dy, i + dx, fill)
    return value  # type: ignore[no-any-return]


@_compiled
def affine_linear(volume: Array, matrix: Array, fill: float, out: Array) -> None:
    """Trilinear at ``matrix @ (z, y, x, 1)``, `fill` outside."""
    depths, rows, columns = volume.shape
    step = matrix[:, 2].astype(np.float32)
    for d in range(out.shape[0]):
        for h in range(out.shape[1]):
            start = (matrix[:, 0] * d + matrix[:, 1] * h + matrix[:, 3]).astype(np.float32)
            for w in range(out.shape[2]):
                z = start[0] + step[0] * np.float32(w)
                y = start[1] + step[1] * np.float32(w)
                x = start[2] + step[2] * np.float32(w)
                if 0 <= z < depths - 1 and 0 <= y < rows - 1 and 0 <= x < columns - 1:
                    out[d, h, w] = _inside(volume, z, y, x)
                elif -1 < z < depths and -1 < y < rows and -1 < x < columns:
                    out[d, h, w] = _at_border(volume, z, y, x, fill)
                else:
                    out[d, h, w] = fill


@_compiled
def affine_nearest(labels: Array, matrix: Array, out: Array) -> None:
    """The voxel nearest to ``matrix @ (z, y, x, 1)``, 0 outside."""
    step = matrix[:, 2].astype(np.float32)
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            start = (matrix[:, 0] * z + matrix[:, 1] * y + matrix[:, 3]).astype(np.float32)
            for x in range(out.shape[2]):
                k = int(np.rint(start[0] + step[0] * np.float32(x)))
                j = int(np.rint(start[1] + step[1] * np.float32(x)))
                i = int(np.rint(start[2] + step[2] * np.float32(x)))
                out[z, y, x] = _at(labels, k, j, i, 0)

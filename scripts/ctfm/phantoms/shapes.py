"""Solids that bodies are built from, and the voxel grid that they are drawn on.

Coordinates are millimetres, RAS+: x to the right, y to anterior, z to superior.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from ctfm.base.types import Array
from ctfm.contract.classes import TOTALSEGMENTATOR_V2

__all__ = ["Canvas", "Part", "Shape", "blob", "both", "loft", "numbers", "tube"]

Triple = tuple[float, float, float]
Depth = Callable[[Array], Array]

AIR, GAS = -1000, -950
IDS = {name: number for number, name in TOTALSEGMENTATOR_V2.items()}


@dataclass(frozen=True)
class Shape:
    """A union of solids, each with its own box, so that drawing one looks at few voxels.

    Attributes:
        solids: (depth in mm, negative outside, of points (3, X, Y, Z); corners (2, 3) in mm).
    """

    solids: tuple[tuple[Depth, Array], ...]

    @property
    def box(self) -> Array:
        """Lowest and highest corner, (2, 3) in mm."""
        boxes = np.stack([box for _, box in self.solids])
        return np.stack([boxes[:, 0].min(0), boxes[:, 1].max(0)])

    def depth(self, points: Array) -> Array:
        """How deep points (3, X, Y, Z) lie inside, in mm; negative outside."""
        deepest: Array = np.max([depth(points) for depth, _ in self.solids], axis=0)
        return deepest

    def __or__(self, other: Shape) -> Shape:
        return Shape(self.solids + other.solids)

    def cut(self, through: Triple, normal: Triple) -> Shape:
        """What lies on the side of a plane that `normal` points to."""
        unit = np.divide(normal, np.linalg.norm(normal)).astype(np.float32)
        level = np.float32(unit @ np.asarray(through))

        def half(depth: Depth) -> Depth:
            return lambda p: np.minimum(depth(p), np.tensordot(unit, p, 1) - level)

        return Shape(tuple((half(depth), box) for depth, box in self.solids))

    def grow(self, mm: float) -> Shape:
        """All points up to `mm` outside, or deeper than `-mm` inside."""

        def thick(depth: Depth) -> Depth:
            return lambda p: depth(p) + np.float32(mm)

        rim = np.array([[-mm], [mm]])
        return Shape(tuple((thick(depth), box + rim) for depth, box in self.solids))

    def moved(self, shift: Any, scale: Any = (1, 1, 1), centre: Any = (0, 0, 0)) -> Shape:
        """Scaled about `centre`, then shifted by mm; a scale of -1 mirrors."""
        scale, centre = np.asarray(scale, np.float32), np.asarray(centre, np.float32)
        goal = centre + np.asarray(shift, np.float32)

        def there(depth: Depth) -> Depth:
            return lambda p: depth((p - _each(goal)) / _each(scale) + _each(centre))

        def box_there(box: Array) -> Array:
            return np.sort((box - centre) * scale + goal, axis=0)

        return Shape(tuple((there(depth), box_there(box)) for depth, box in self.solids))

    def mirrored(self) -> Shape:
        """The same on the other side of the body."""
        return self.moved((0, 0, 0), (-1, 1, 1))


@dataclass(frozen=True)
class Part:
    """A row of the drawing; later rows draw over earlier ones.

    Attributes:
        name: class to write; "" writes background, None keeps the class that is there.
        hu: HU of the part, or of its outer `rind` mm where `core` is given.
        core: HU of what lies deeper than `rind`.
        gas: y in mm above which the core is gas: the patient lies on the back.
        over: draw only on classes whose names begin so; None draws everywhere.
        lesion: the part is a tumour or a bleed.
    """

    name: str | None
    hu: float
    shape: Shape
    core: float | None = None
    rind: float = 0.0
    gas: float | None = None
    over: str | None = None
    lesion: bool = False


class Canvas:
    """A voxel grid, and for each voxel where it lies in the unbent body of the tables.

    Attributes:
        affine: (4, 4), voxel index to RAS+ mm.
        hu: float32, shape (X, Y, Z).
        label: TotalSegmentator v2 ids, uint8, same shape.
        lesion: 0 or 1, uint8, same shape.
        size: (3,), how much larger than the tables the body is in x, y and z.
    """

    def __init__(self, shape: Array, affine: Array) -> None:
        self.affine, self._inverse = affine, np.linalg.inv(affine)
        self.size, self._swing = np.ones(3), 0.0
        voxels = np.indices(tuple(shape), np.int16).reshape(3, -1).astype(np.float32)
        world = affine[:3, :3].astype(np.float32) @ voxels + affine[:3, 3:].astype(np.float32)
        self._points = world.reshape(3, *shape)
        self.hu = np.full(shape, AIR, np.float32)
        self.label, self.lesion = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)

    def bend(self, rng: np.random.Generator, mm: float) -> None:
        """From here on draw another patient: scaled by some percent, and bent by up to `mm`."""
        self.size, self._swing = rng.normal(1, 0.035, 3).clip(0.93, 1.07), mm
        waves = rng.normal(0, 1, (3, 3))
        waves *= 2 * np.pi / 320 / np.linalg.norm(waves, axis=1, keepdims=True)
        phase = np.tensordot(waves.astype(np.float32), self._points, 1)
        phase += _each(rng.uniform(0, 2 * np.pi, 3))
        self._points /= _each(self.size)
        self._points += np.float32(mm) * np.sin(phase)

    def paint(self, part: Part) -> None:
        """Draw a part over what is there."""
        # wider by a hair, lest rounding puts the window of a solid outside it
        window = self._window(part.shape.box + np.array([[-0.1], [0.1]]))
        label = self.label[window]
        depth = np.full(label.shape, -1, np.float32)
        for solid, box in part.shape.solids:
            x, y, z = near = self._window(box)
            start = [whole.start for whole in window]
            here = tuple(slice(n.start - s, n.stop - s) for n, s in zip(near, start, strict=True))
            if depth[here].size:
                depth[here] = np.maximum(depth[here], solid(self._points[:, x, y, z]))
        inside = depth > 0
        if part.over is not None:
            under = [number for name, number in IDS.items() if name.startswith(part.over)]
            inside &= np.isin(label, under)
        core: Any = part.hu if part.core is None else part.core
        if part.gas is not None:
            core = np.where(self._points[1][window] > part.gas, GAS, core)
        self.hu[window][inside] = np.where(depth > part.rind, core, part.hu)[inside]
        if part.name is not None:
            label[inside] = IDS[part.name] if part.name else 0
        if part.name is not None or part.lesion:
            self.lesion[window][inside] = part.lesion

    def scanned(self, rng: np.random.Generator, noise_hu: float) -> Array:
        """HU, int16, a little blurred, with noise that is a little correlated."""
        noise = gaussian_filter(rng.normal(size=self.hu.shape).astype(np.float32), 0.6)
        image = gaussian_filter(self.hu, 0.45) + noise * np.float32(noise_hu / noise.std())
        scanned: Array = np.rint(image.clip(-1024, 3071)).astype(np.int16)
        return scanned

    def _window(self, box: Array) -> tuple[slice, ...]:
        """The part of the grid that a box (2, 3) in the unbent body can reach."""
        middle, half = box.mean(0) * self.size, (box[1] - box[0]) / 2 * self.size
        centre = self._inverse[:3, :3] @ middle + self._inverse[:3, 3]
        reach = np.abs(self._inverse[:3, :3]) @ (half + 1.1 * self._swing)
        low = np.clip(np.floor(centre - reach), 0, self.label.shape).astype(int)
        high = np.clip(np.ceil(centre + reach) + 1, low, self.label.shape).astype(int)
        return tuple(slice(a, b) for a, b in zip(low, high, strict=True))


def both(part: Part, suffix: str = "") -> list[Part]:
    """A part drawn for the right side, and its mirror image."""
    right = replace(part, name=part.name and f"{part.name}_right{suffix}")
    left = part.name and f"{part.name}_left{suffix}"
    return [right, replace(part, name=left, shape=part.shape.mirrored())]


def numbers(text: str) -> Array:
    """Rows of "1 2 3, 4 5 6" as an array (rows, columns)."""
    return np.array([row.split() for row in text.split(",")], np.float64)


def blob(centre: Triple, radii: Triple, power: float = 2.0, turn: Triple = (0, 0, 0)) -> Shape:
    """Ellipsoid, more of a box the higher `power`; `turn` in degrees about x, then y, then z."""
    rotation = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    reach = np.abs(rotation) @ np.asarray(radii)
    frame = (rotation / np.asarray(radii)).T.astype(np.float32)
    middle = _each(np.asarray(centre))

    def depth(points: Array) -> Array:
        local = np.abs(np.tensordot(frame, points - middle, 1))
        rho: Array = (local**power).sum(0) ** (1 / power)
        deep: Array = (1 - rho) * np.float32(min(radii))
        return deep

    return Shape(((depth, np.stack([centre - reach, centre + reach])),))


def tube(path: str | Array, ripple: float = 0.0) -> Shape:
    """Round tube along smoothed "x y z radius, ..."; `ripple` folds its wall every 25 mm."""
    rows = numbers(path) if isinstance(path, str) else path
    along = np.r_[0, np.cumsum(np.linalg.norm(np.diff(rows[:, :3], axis=0), axis=1))]
    at = np.linspace(0, along[-1], 2 + int(along[-1] / (6 if ripple else 12)))
    nodes = PchipInterpolator(along, rows)(at)
    nodes[:, 3] *= 1 + ripple * np.sin(at * (2 * np.pi / 25))
    return Shape(tuple(_link(*ends) for ends in pairwise(nodes.astype(np.float32))))


def loft(rows: str | Array, power: float = 2.4) -> Shape:
    """Stack of axial superellipses "z x y radius_x radius_y, ...", flat at both ends."""
    keys = numbers(rows) if isinstance(rows, str) else rows
    bottom, top = keys[0, 0], keys[-1, 0]

    def depth(points: Array) -> Array:
        z = points[2]
        x, y, rx, ry = (np.interp(z, keys[:, 0], column).astype("f4") for column in keys.T[1:])
        rho = np.abs((points[0] - x) / rx) ** power + np.abs((points[1] - y) / ry) ** power
        sides = (1 - rho ** (1 / power)) * np.minimum(rx, ry)
        deep: Array = np.minimum(sides, np.minimum(z - bottom, top - z))
        return deep

    low, high = keys[:, 1:3] - keys[:, 3:], keys[:, 1:3] + keys[:, 3:]
    return Shape(((depth, np.array([[*low.min(0), bottom], [*high.max(0), top]])),))


def _link(start: Array, end: Array) -> tuple[Depth, Array]:
    """What a ball sweeps on its way between two rows x, y, z, radius."""
    axis, origin = (end - start)[:3], _each(start[:3])
    toward = axis / (axis @ axis)

    def depth(points: Array) -> Array:
        offset = points - origin
        along = np.clip(np.tensordot(toward, offset, 1), 0, 1)
        offset -= _each(axis) * along
        away: Array = start[3] + along * (end[3] - start[3]) - np.sqrt((offset**2).sum(0))
        return away

    ends = np.stack([start, end]).astype(np.float64)
    low, high = ends[:, :3] - ends[:, 3:], ends[:, :3] + ends[:, 3:]
    return depth, np.stack([low.min(0), high.max(0)])


def _each(values: Array) -> Array:
    return np.asarray(values, np.float32)[:, None, None, None]

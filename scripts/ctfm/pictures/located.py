"""A picture of a search: the query's place above, the answer with the map of similarity below."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ctfm.base.files import atomic_path
from ctfm.base.types import Array
from ctfm.pictures.planes import Plane, extract_planes

__all__ = ["View", "draw_search"]

#: Abdominal soft tissue, wide enough to show lungs' vessels and bone apart.
HU_WINDOW = (-400.0, 500.0)
BACKGROUND, TEXT, FAINT = "#0f1115", "#e8eaed", "#8b929c"
CYAN, GREEN = "#4dd0e1", "#9ccc65"
ALPHA = 0.55
#: Shares of the voxels of lower similarity, from where colours begin to where they end: evenly
#: spaced cosines would show nothing, since those of an encoder may all lie close to 1.
RANKS = (0.9, 0.95, 0.975, 0.99, 0.997, 1.0)
COLORS = np.linspace(0, 1, len(RANKS))
# lengths in pixels
WIDEST, NARROWEST, HEIGHT, MARGIN, GAP, HEADER, FOOTER = 1600, 900, 1240, 30, 26, 76, 60
NOTE = "cross and box: the place and its window; colour: how alike"
WARNING = "for research; not a medical device"


@dataclass(frozen=True)
class View:
    """A scan and a place in it.

    Attributes:
        name: of the scan.
        image: HU (X, Y, Z), axes in any order.
        affine: (4, 4), voxel to mm, RAS+.
        voxel: the place, (3,), in the volume.
        patch_mm: sides of the window around it: superior, posterior, left.
        heat: map on the same grid; None: none is drawn.
        organ: mask on the same grid, whose outline is drawn; None: none is.
    """

    name: str
    image: Array
    affine: Array
    voxel: tuple[int, ...]
    patch_mm: tuple[float, ...]
    heat: Array | None = None
    organ: Array | None = None


def draw_search(
    query: View, target: View, path: str | os.PathLike[str], captions: Sequence[str]
) -> None:
    """Write a PNG with the axial, coronal and sagittal plane through both places.

    The patient's right is on the left of the picture, anterior or superior up; all planes have
    one scale in mm.

    Args:
        query: what was looked for.
        target: where it was found.
        path: file to write.
        captions: a line above each of them.

    Raises:
        UserError: the file cannot be written.
    """
    rows = [_planes(view) for view in (query, target)]
    tall = (HEIGHT - FOOTER) / 2
    scale = min(_scale(planes, tall - HEADER) for planes, *_ in rows)
    width = max(_width(planes, scale) for planes, *_ in rows)
    figure = Figure(figsize=(width / 100, HEIGHT / 100), dpi=100, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    for number, (view, caption) in enumerate(zip((query, target), captions, strict=True)):
        top = number * tall
        _write(figure, top + 32, view.name, TEXT, 14)
        _write(figure, top + 56, caption, FAINT, 11)
        _draw_row(figure, view, rows[number], (top + HEADER, tall - HEADER, scale))
    labelled = "; green: the organ as labelled" * any(v.organ is not None for v in (query, target))
    _write(figure, HEIGHT - 38, NOTE + labelled, FAINT, 10)
    _write(figure, HEIGHT - 18, WARNING, FAINT, 10)
    if target.heat is not None:
        _draw_scale(figure, _steps(target.heat), width)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _planes(view: View) -> tuple[list[Plane], list[Plane] | None, list[Plane] | None]:
    """Planes through the place, of the scan, of the heat map and of the organ."""
    mark = np.zeros(view.image.shape, np.uint8)
    mark[view.voxel] = 1
    found = (
        None if other is None else extract_planes(other, mark, view.affine)
        for other in (view.heat, view.organ)
    )
    heat, organ = found
    return extract_planes(view.image, mark, view.affine), heat, organ


def _scale(planes: Sequence[Plane], height: float) -> float:
    """Pixels a millimetre with which three planes fit side by side."""
    wide = WIDEST - 2 * MARGIN - 2 * GAP
    return min(wide / sum(p.size_mm[1] for p in planes), height / max(p.size_mm[0] for p in planes))


def _width(planes: Sequence[Plane], scale: float) -> float:
    """Of the picture, in pixels; captions need some."""
    return max(NARROWEST, sum(p.size_mm[1] for p in planes) * scale + 2 * MARGIN + 2 * GAP)


def _draw_row(
    figure: Figure,
    view: View,
    planes: tuple[list[Plane], list[Plane] | None, list[Plane] | None],
    place: tuple[float, float, float],
) -> None:
    """Place is top and height in pixels, and pixels a millimetre."""
    top, height, scale = place
    width = figure.get_figwidth() * 100
    left: float = MARGIN
    superior, posterior, side = view.patch_mm
    boxes = (posterior, side), (superior, side), (superior, posterior)
    for number, plane in enumerate(planes[0]):
        tall, wide = (size * scale for size in plane.size_mm)
        above = top + (height - tall) / 2
        rectangle = left / width, 1 - (above + tall) / HEIGHT, wide / width, tall / HEIGHT
        axes = figure.add_axes(rectangle)
        _draw_plane(axes, plane, boxes[number])
        if planes[1] is not None and view.heat is not None:
            _draw_heat(axes, planes[1][number], _steps(view.heat))
        if planes[2] is not None:
            _draw_outline(axes, planes[2][number])
        left += wide + GAP


def _draw_plane(axes: Axes, plane: Plane, box: tuple[float, float]) -> None:
    height, width = plane.size_mm
    low, high = HU_WINDOW
    axes.imshow(
        plane.image, cmap="gray", vmin=low, vmax=high, extent=(0, width, height, 0), aspect="auto"
    )
    row, column = np.unravel_index(int(plane.label.argmax()), plane.label.shape)
    y, x = (int(row) + 0.5) * plane.pixel_mm[0], (int(column) + 0.5) * plane.pixel_mm[1]
    axes.plot(x, y, "+", color=CYAN, ms=16, mew=1.6)
    corner = x - box[1] / 2, y - box[0] / 2
    axes.add_patch(Rectangle(corner, box[1], box[0], fill=False, ec=CYAN, lw=1.1, clip_on=True))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    places = (0.03, 0.5), (0.97, 0.5), (0.5, 0.96), (0.5, 0.04)
    for mark, where in zip(plane.marks, places, strict=True):
        axes.text(
            *where, mark, color=TEXT, size=10, ha="center", va="center", transform=axes.transAxes
        )
    axes.set_axis_off()


def _steps(heat: Array) -> Array:
    """Similarity at each of `RANKS`, increasing."""
    inside = heat[heat != 0]
    if not inside.size:
        return COLORS
    sample = inside[:: max(1, inside.size // 500_000)]
    steps = np.quantile(sample, RANKS)
    steps[-1] = inside.max()
    tiny = 1e-6 * np.arange(len(RANKS))  # a map may be flat
    return np.asarray(np.maximum.accumulate(steps) + tiny)


def _draw_heat(axes: Axes, plane: Plane, steps: Array) -> None:
    height, width = plane.size_mm
    color = np.interp(plane.image, steps, COLORS)
    axes.imshow(
        color,
        cmap="inferno",
        vmin=0,
        vmax=1,
        alpha=np.sqrt(color) * ALPHA,
        extent=(0, width, height, 0),
        aspect="auto",
    )


def _draw_outline(axes: Axes, plane: Plane) -> None:
    if not plane.image.any():
        return
    rows, columns = plane.image.shape
    x = (np.arange(columns) + 0.5) * plane.pixel_mm[1]
    y = (np.arange(rows) + 0.5) * plane.pixel_mm[0]
    axes.contour(x, y, plane.image, levels=[0.5], colors=[GREEN], linewidths=1.2)


def _draw_scale(figure: Figure, steps: Array, width: float) -> None:
    wide, tall, top = 200, 12, HEIGHT - 46
    left = width - MARGIN - wide - 70
    axes = figure.add_axes((left / width, 1 - (top + tall) / HEIGHT, wide / width, tall / HEIGHT))
    axes.imshow(np.linspace(0, 1, 256)[None], cmap="inferno", aspect="auto")
    axes.set_axis_off()
    for x, text, side in (
        (left - 8, f"cosine {steps[0]:.4f}", "right"),
        (left + wide + 8, f"{steps[-1]:.4f}", "left"),
    ):
        figure.text(x / width, 1 - (top + tall) / HEIGHT, text, color=FAINT, size=10, ha=side)


def _write(figure: Figure, top: float, text: str, color: str, size: float) -> None:
    left = MARGIN / (figure.get_figwidth() * 100)
    figure.text(left, 1 - top / HEIGHT, text, color=color, size=size, parse_math=False)

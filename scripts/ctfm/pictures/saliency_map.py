"""A picture of a saliency map over a head CT: three planes through its maximum."""

from __future__ import annotations

import os

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ctfm.base.files import atomic_path
from ctfm.base.types import Array
from ctfm.pictures.planes import Plane, extract_planes

__all__ = ["BRAIN_WINDOW", "draw_saliency"]

#: Brain and fresh blood, the usual window of 80 HU around 40 HU.
BRAIN_WINDOW = (0.0, 80.0)
BACKGROUND, TEXT, FAINT = "#0f1115", "#e8eaed", "#8b929c"
#: Below this share of the maximum nothing is coloured.
SHOWN = 0.15
ALPHA = 0.6
NOTE = "colour: where the score hangs on the image, not what is ill; for research, not a device"


def draw_saliency(
    image: Array,
    heat: Array,
    affine: Array,
    path: str | os.PathLike[str],
    *,
    title: str,
    text: str,
) -> None:
    """Write a PNG: CT in the brain window, the map in colour, the patient's right on the left.

    Args:
        image: HU (X, Y, Z), axes in any order.
        heat: map on the same grid, up to 1.
        affine: (4, 4), voxel index to RAS+ in mm.
        path: file to write.
        title: first line.
        text: second line.

    Raises:
        UserError: the file cannot be written.
    """
    mark = np.zeros(heat.shape, np.uint8)
    mark[np.unravel_index(int(heat.argmax()), heat.shape)] = 1
    planes = extract_planes(image, mark, affine)
    hot = extract_planes(heat, mark, affine)
    figure = Figure(figsize=(16, 7.2), dpi=100, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    figure.text(0.02, 0.95, title, color=TEXT, size=15, weight="bold", parse_math=False)
    figure.text(0.02, 0.91, text, color=TEXT, size=12, parse_math=False)
    figure.text(0.02, 0.03, NOTE, color=FAINT, size=10)
    widths = [plane.size_mm[1] for plane in planes]
    tallest = max(plane.size_mm[0] for plane in planes)
    left, scale = 0.02, min(0.92 / sum(widths), 0.76 * 7.2 / 16 / tallest)
    for plane, warm, width in zip(planes, hot, widths, strict=True):
        tall = plane.size_mm[0] * scale * 16 / 7.2
        box = left, 0.47 - tall / 2, width * scale, tall
        _draw(figure.add_axes(box), plane, warm)
        left += width * scale + 0.02
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _draw(axes: Axes, plane: Plane, warm: Plane) -> None:
    height, width = plane.size_mm
    extent = (0.0, width, height, 0.0)
    low, high = BRAIN_WINDOW
    axes.imshow(plane.image, cmap="gray", vmin=low, vmax=high, extent=extent, aspect="auto")
    alpha = np.clip((warm.image - SHOWN) / (1 - SHOWN), 0, 1) ** 0.5 * ALPHA
    axes.imshow(
        warm.image, cmap="inferno", vmin=0, vmax=1, alpha=alpha, extent=extent, aspect="auto"
    )
    row, column = np.unravel_index(int(warm.image.argmax()), warm.image.shape)
    y, x = (float(n) + 0.5 for n in (row, column))
    axes.plot(x * plane.pixel_mm[1], y * plane.pixel_mm[0], "+", color="#4dd0e1", ms=14)
    for mark, place in zip(
        plane.marks, ((0.03, 0.5), (0.97, 0.5), (0.5, 0.96), (0.5, 0.04)), strict=True
    ):
        axes.text(
            *place,
            mark,
            color=TEXT,
            size=12,
            weight="bold",
            ha="center",
            va="center",
            transform=axes.transAxes,
        )
    axes.set_title(f"{plane.name}  {plane.index + 1} of {plane.count}", color=FAINT, size=10)
    axes.set_axis_off()

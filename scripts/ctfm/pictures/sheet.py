"""A contact sheet: three planes of each scan, through a place or through its middle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ctfm.base.files import atomic_path
from ctfm.base.types import Array
from ctfm.imaging.grids import mm_to_voxels
from ctfm.imaging.scans import read_scan
from ctfm.pictures.planes import Plane, extract_planes

__all__ = ["Tile", "draw_sheet"]

HU_WINDOW = (-400.0, 500.0)
BACKGROUND, TEXT, FAINT, CYAN = "#0f1115", "#e8eaed", "#8b929c", "#4dd0e1"
# pixels
ROW, NARROWEST, WIDEST, CAPTION, MARGIN, FOOTER = 260, 560, 1400, 34, 24, 36
NOTE = "most alike first; cosine of embeddings; for research, not a medical device"


@dataclass(frozen=True)
class Tile:
    """A row of the sheet.

    Attributes:
        caption: above it.
        path: the scan.
        point_mm: the planes go through it, RAS+; None: through the middle of the scan.
    """

    caption: str
    path: str
    point_mm: Array | None


def draw_sheet(tiles: Sequence[Tile], path: Path) -> None:
    """Write the PNG; the patient's right is on the left, anterior or superior up.

    Raises:
        UserError: a scan cannot be read, or the file cannot be written.
    """
    rows = [_planes(tile) for tile in tiles]
    scales = [_scale(planes) for planes in rows]
    wide = [sum(p.size_mm[1] for p in planes) for planes in rows]
    inner = max(mm * scale for mm, scale in zip(wide, scales, strict=True)) + 4 * MARGIN
    width, height = max(NARROWEST, inner), len(tiles) * (ROW + CAPTION) + MARGIN + FOOTER
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    for number, (tile, planes) in enumerate(zip(tiles, rows, strict=True)):
        top = MARGIN + number * (ROW + CAPTION)
        _write(figure, top + 16, tile.caption, TEXT, 11)
        left: float = MARGIN
        for plane in planes:
            tall, across = (mm * scales[number] for mm in plane.size_mm)
            below = 1 - (top + CAPTION - 8 + tall) / height
            axes = figure.add_axes((left / width, below, across / width, tall / height))
            _draw_plane(axes, plane, tile.point_mm is not None)
            left += across + MARGIN
    _write(figure, height - 14, NOTE, FAINT, 9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _scale(planes: Sequence[Plane]) -> float:
    """Pixels a millimetre with which three planes fit side by side."""
    tall, wide = max(p.size_mm[0] for p in planes), sum(p.size_mm[1] for p in planes)
    return min((ROW - 10) / tall, (WIDEST - 4 * MARGIN) / wide)


def _draw_plane(axes: Axes, plane: Plane, marked: bool) -> None:
    low, high = HU_WINDOW
    axes.imshow(plane.image, cmap="gray", vmin=low, vmax=high, aspect="auto")
    if marked:
        row, column = np.unravel_index(int(plane.label.argmax()), plane.label.shape)
        axes.plot(column, row, "+", color=CYAN, ms=14, mew=1.5)
    places = (0.04, 0.5), (0.96, 0.5), (0.5, 0.95), (0.5, 0.05)
    for mark, where in zip(plane.marks, places, strict=True):
        axes.text(
            *where, mark, color=FAINT, size=8, ha="center", va="center", transform=axes.transAxes
        )
    axes.set_axis_off()


def _write(figure: Figure, top: float, text: str, color: str, size: float) -> None:
    width, height = (100 * inches for inches in figure.get_size_inches())
    figure.text(MARGIN / width, 1 - top / height, text, color=color, size=size, parse_math=False)


def _planes(tile: Tile) -> list[Plane]:
    scan = read_scan(tile.path)
    affine = np.asarray(scan.affine, dtype=float)
    image = scan[0].numpy()
    middle = (np.asarray(image.shape) - 1) / 2
    place = middle if tile.point_mm is None else mm_to_voxels(affine, tile.point_mm[None])[0]
    voxel = np.rint(place).astype(int).clip(0, np.asarray(image.shape) - 1)
    mark = np.zeros(image.shape, np.uint8)
    mark[tuple(voxel)] = 1
    return extract_planes(image, mark, affine)

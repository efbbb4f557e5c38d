"""A picture of a label map over its CT: three planes, what was found, how much of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from contourpy import FillType, contour_generator
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.path import Path as Outline
from matplotlib.patheffects import withStroke
from scipy import ndimage

from ctfm.base.errors import UserError
from ctfm.base.files import atomic_path
from ctfm.base.types import Array
from ctfm.imaging.grids import spacing_of
from ctfm.imaging.label_maps import Volume, as_numpy, count_voxels, label_map, present_ids
from ctfm.pictures.planes import Plane, extract_planes

__all__ = ["class_color", "preview"]

Color = tuple[float, float, float]

#: Abdominal soft tissue, the usual window of 400 HU around 40 HU.
HU_WINDOW = (-160.0, 240.0)
ALPHA = 0.45
DPI = 100
# lengths in pixels
WIDTH, MARGIN, GAP, HEADER, CAPTION = 1600, 28, 18, 84, 26
MAX_PANEL_HEIGHT = 1400
ROW, COLUMN_GAP, SWATCH = 23, 44, 14
LEGEND_COLUMNS, LEGEND_ROWS = 5, 6
BACKGROUND, TEXT, FAINT = "#0f1115", "#e8eaed", "#8b929c"
#: Where a plane's four marks stand: share of its width and height, offset in points, alignment.
MARK_PLACES = (
    ((0.0, 0.5), (6, 0), "left", "center"),
    ((1.0, 0.5), (-6, 0), "right", "center"),
    ((0.5, 1.0), (0, -5), "center", "top"),
    ((0.5, 0.0), (0, 5), "center", "bottom"),
)


def preview(
    image: Volume,
    label: Volume,
    affine: Volume,
    names: Mapping[int, str],
    path: str | os.PathLike[str],
    title: str | None = None,
    hu_window: tuple[float, float] = HU_WINDOW,
    voxels: Array | None = None,
) -> None:
    """Write a PNG, 1600 pixels wide, of a label map over its CT.

    Axial, coronal and sagittal planes at one scale in mm, in the radiological convention (the
    patient's right on the left of the picture, anterior or superior up), and a legend with the
    volume of the largest structures. A class has the same colour in every picture.

    Args:
        image: CT in HU `(D, H, W)`, axes in any order.
        label: class ids of the same shape, 0 is background.
        affine: voxel index to mm, right-anterior-superior, `(4, 4)`. An oblique volume is shown
            along its own axes, named after the nearest of the patient's.
        names: id -> name; an id without one is shown as its number.
        path: file to write.
        title: first line of the picture; None: the file's name.
        hu_window: HU shown as black and as white.
        voxels: of each id, where they are counted already; None: they are counted here.

    Raises:
        UserError: the shapes differ, the affine is not one, the label map is not one,
            or the file cannot be written.
    """
    volume, matrix = as_numpy(image), as_numpy(affine)
    labels = label_map(label, "label map")
    _check(volume, labels, matrix)
    counts = count_voxels(labels) if voxels is None else voxels
    planes = extract_planes(volume, labels, matrix)
    millilitres = counts * abs(float(np.linalg.det(matrix[:3, :3]))) / 1000
    found = {i: float(millilitres[i]) for i in present_ids(counts)}
    subtitle = _subtitle(volume.shape, spacing_of(matrix).tolist(), len(found), hu_window)
    with atomic_path(path) as temporary:
        figure = _draw(planes, found, names, (title or Path(path).name, subtitle), hu_window)
        figure.savefig(temporary, format="png", dpi=DPI)


def class_color(class_id: int) -> Color:
    """Red, green and blue, 0 to 1; neighbouring ids differ, and an id never changes its colour."""
    hue = (class_id * 0.6180339887) % 1  # golden ratio: successive hues fill the circle evenly
    saturation, value = ((0.85, 1.0), (0.55, 1.0), (0.75, 0.82))[class_id % 3]
    red, green, blue = hsv_to_rgb((hue, saturation, value))
    return float(red), float(green), float(blue)


def _check(image: Array, label: Array, affine: Array) -> None:
    if image.shape != label.shape:
        raise UserError(
            f"image has shape {image.shape}, label map {label.shape}: expected two volumes "
            "(D, H, W) on the same grid"
        )
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.linalg.det(affine):
        raise UserError(f"affine is {affine.tolist()}: expected an invertible 4x4 matrix")


def _draw(
    planes: Sequence[Plane],
    found: Mapping[int, float],
    names: Mapping[int, str],
    heading: tuple[str, str],
    hu_window: tuple[float, float],
) -> Figure:
    """The figure; `found` is id -> volume in ml, `heading` the title and the line below it."""
    boxes = _layout(planes)
    legend = max(top + tall for _, top, _, tall in boxes) + MARGIN + GAP
    entries = min(len(found), LEGEND_COLUMNS * LEGEND_ROWS)
    rows = -(-entries // LEGEND_COLUMNS) + (len(found) > entries) + (not found)
    height = round(legend + (rows - 0.5) * ROW + MARGIN)
    figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    page = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0))
    page.set_axis_off()
    page.text(MARGIN, 38, heading[0], color=TEXT, size=15, weight="bold", parse_math=False)
    page.text(MARGIN, 61, heading[1], color=FAINT, size=10)
    for plane, (left, top, wide, tall) in zip(planes, boxes, strict=True):
        inside = left / WIDTH, 1 - (top + tall) / height, wide / WIDTH, tall / height
        _draw_plane(figure.add_axes(inside), plane, hu_window)
        caption = f"{plane.name}  {plane.index + 1} of {plane.count}"
        page.text(left, top - 8, caption, color=FAINT, size=10)
    _draw_legend(page, found, names, legend)
    return figure


def _subtitle(
    shape: Sequence[int], spacing: Sequence[float], found: int, hu_window: Sequence[float]
) -> str:
    structures = f"{found} structure{'s' if found > 1 else ''}   |   " if found else ""
    size = " x ".join(str(n) for n in shape)
    voxel = " x ".join(f"{s:.3g}" for s in spacing)
    window = f"grey from {hu_window[0]:g} to {hu_window[1]:g} HU"
    return f"{structures}{size} voxels of {voxel} mm   |   {window}"


def _layout(planes: Sequence[Plane]) -> list[tuple[float, float, float, float]]:
    """Left, top, width and height of the three planes in pixels, at one scale.

    Side by side; the coronal above the sagittal plane where both are as low as the axial one.
    """
    (a_tall, a_wide), (c_tall, c_wide), (s_tall, s_wide) = (plane.size_mm for plane in planes)
    stacked = c_tall + s_tall < a_tall
    gaps, wide = (1, a_wide + max(c_wide, s_wide)) if stacked else (2, a_wide + c_wide + s_wide)
    room = WIDTH - 2 * MARGIN - gaps * GAP
    scale = min(room / wide, MAX_PANEL_HEIGHT / max(a_tall, c_tall))
    left, top = (WIDTH - wide * scale - gaps * GAP) / 2, HEADER + CAPTION
    second = left + a_wide * scale + GAP
    third = (
        (second, top + c_tall * scale + GAP + CAPTION)
        if stacked
        else (second + c_wide * scale + GAP, top)
    )
    corners = [(left, top), (second, top), third]
    sizes = [(plane.size_mm[1] * scale, plane.size_mm[0] * scale) for plane in planes]
    return [(*corner, *size) for corner, size in zip(corners, sizes, strict=True)]


def _draw_plane(axes: Axes, plane: Plane, hu_window: tuple[float, float]) -> None:
    height, width = plane.size_mm
    low, high = hu_window
    axes.imshow(
        plane.image,
        cmap="gray",
        vmin=low,
        vmax=high,
        extent=(0, width, height, 0),
        aspect="auto",
        interpolation="bicubic",
    )
    outlines = _outlines(plane)
    colors = [class_color(class_id) for class_id in outlines]
    fill = PathCollection(
        list(outlines.values()), facecolors=[(*c, ALPHA) for c in colors], edgecolors="none"
    )
    lines = PathCollection(
        list(outlines.values()), facecolors="none", edgecolors=colors, linewidths=0.9
    )
    axes.add_collection(fill, autolim=False)
    axes.add_collection(lines, autolim=False)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    edge = [withStroke(linewidth=3, foreground="black")]
    for mark, (corner, offset, horizontal, vertical) in zip(plane.marks, MARK_PLACES, strict=True):
        axes.annotate(
            mark,
            corner,
            offset,
            "axes fraction",
            "offset points",
            ha=horizontal,
            va=vertical,
            color=TEXT,
            size=12,
            weight="bold",
            path_effects=edge,
        )


def _outlines(plane: Plane) -> dict[int, Outline]:
    """The outline of each class in a plane, in mm from the top left corner."""
    # a row and a column of zeros around, so that outlines close at the edge of the picture
    label = np.pad(plane.label, 1)
    outlines = {}
    for class_id in np.unique(label[label > 0]):
        mask = label == class_id
        (box,) = ndimage.find_objects(mask.view(np.uint8))
        rows, columns = (np.arange(s.start - 1, s.stop + 1) for s in box)
        # pixel 0 of the plane is 1 here, and its centre lies half a pixel from the corner
        y, x = (rows - 0.5) * plane.pixel_mm[0], (columns - 0.5) * plane.pixel_mm[1]
        cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(float)
        outlines[int(class_id)] = _outline(x, y, cut)
    return outlines


def _outline(x: Array, y: Array, mask: Array) -> Outline:
    """Outline of `mask` `(len(y), len(x))`, holes included, its voxel steps rounded off."""
    generator = contour_generator(x, y, mask, fill_type=FillType.OuterOffset)
    rings = [
        _rounded(_rounded(points[start : stop - 1]))
        for points, offsets in zip(*generator.filled(0.5, 2), strict=True)
        for start, stop in pairwise(offsets)
    ]
    closed = [Outline(np.concatenate([ring, ring[:1]]), closed=True) for ring in rings]
    return Outline.make_compound_path(*closed)


def _rounded(ring: Array) -> Array:
    """A closed ring `(N, 2)` with its corners cut (Chaikin): `(2 N, 2)`."""
    following = np.roll(ring, -1, axis=0)
    cut = np.stack([0.75 * ring + 0.25 * following, 0.25 * ring + 0.75 * following], axis=1)
    return cut.reshape(-1, 2)


def _draw_legend(
    page: Axes, found: Mapping[int, float], names: Mapping[int, str], top: float
) -> None:
    if not found:
        page.text(MARGIN, top, "nothing found", color=TEXT, size=11, va="center")
    column = (WIDTH - 2 * MARGIN + COLUMN_GAP) / LEGEND_COLUMNS
    largest = sorted(found, key=lambda i: (-found[i], i))[: LEGEND_COLUMNS * LEGEND_ROWS]
    rows = -(-len(largest) // LEGEND_COLUMNS)
    for place, class_id in enumerate(largest):
        x, y = MARGIN + place // rows * column, top + place % rows * ROW
        corner = x, y - SWATCH / 2
        page.add_patch(Rectangle(corner, SWATCH, SWATCH, color=class_color(class_id)))
        name = names.get(class_id, f"class {class_id}").replace("_", " ")
        page.text(x + 22, y, name, color=TEXT, size=9.5, va="center", parse_math=False)
        volume = _millilitres(found[class_id])
        right = x + column - COLUMN_GAP
        page.text(right, y, volume, color=FAINT, size=9.5, va="center", ha="right")
    if len(found) > len(largest):
        more = f"+ {len(found) - len(largest)} more"
        page.text(MARGIN, top + rows * ROW, more, color=FAINT, size=9.5, va="center")


def _millilitres(volume: float) -> str:
    return f"{volume:,.0f} ml" if volume >= 100 else f"{volume:.{1 if volume >= 1 else 3}f} ml"

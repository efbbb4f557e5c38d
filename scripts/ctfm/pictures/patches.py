"""A patch with maps over it: three planes through its middle, a row for each encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ctfm.base.files import atomic_path
from ctfm.base.types import Array
from ctfm.contract.tasks import HU_WINDOW

__all__ = ["draw_patch"]

#: HU that are black and white.
SHOWN_HU = (-400.0, 500.0)
#: Axis that a plane stands on, and whether it is turned over so that the head is above.
PLANES = {"axial": (0, False), "coronal": (1, True), "sagittal": (2, True)}
#: What lies at the left and at the top of a plane, by that axis.
EDGES = ("left R, top A", "left R, top S", "left A, top S")
SIZE, BACKGROUND, TEXT = 2.6, "#0f1115", "#e8eaed"
ALPHA = 0.55


def draw_patch(
    image: Array,
    organ: Array | None,
    maps: Mapping[str, Array],
    path: Path,
    title: str,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
) -> None:
    """Draw a patch with the outline of its organ, and each map in colours up to its own maximum.

    Args:
        image: (D, H, W), axes SPL, scaled to 0..1.
        organ: mask on the same grid; None: there is none.
        maps: encoder -> map on the same grid.
        path: PNG.
        title: what it shows.
        spacing: mm between voxels along each axis.

    Raises:
        UserError: the file cannot be written.
    """
    low, high = ((hu - HU_WINDOW[0]) / (HU_WINDOW[1] - HU_WINDOW[0]) for hu in SHOWN_HU)
    rows = {"": None, **maps}
    figure = Figure(
        figsize=(len(PLANES) * SIZE + 0.4, len(rows) * SIZE + 0.8),
        layout="constrained",
        facecolor=BACKGROUND,
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(rows), len(PLANES), squeeze=False)
    for line, (encoder, heat) in zip(panels, rows.items(), strict=True):
        for panel, (axis, turned) in zip(line, PLANES.values(), strict=True):
            tall, wide = (mm for place, mm in enumerate(spacing) if place != axis)
            shown: dict[str, Any] = {"aspect": tall / wide}
            panel.imshow(_plane(image, axis, turned), cmap="gray", vmin=low, vmax=high, **shown)
            if heat is not None and heat.max() > 0:
                warm = _plane(heat, axis, turned) / heat.max()
                panel.imshow(warm, cmap="inferno", vmin=0, vmax=1, alpha=ALPHA * warm**0.5, **shown)
            if organ is not None:
                _outline(panel, _plane(organ, axis, turned))
            panel.set_xticks([])
            panel.set_yticks([])
        line[0].set_ylabel(encoder, color=TEXT, fontsize=9, parse_math=False)
    for panel, (plane, (axis, _)) in zip(panels[0], PLANES.items(), strict=True):
        panel.set_title(f"{plane}: {EDGES[axis]}", color=TEXT, fontsize=9)
    figure.suptitle(f"{title}; for research", color=TEXT, fontsize=10, parse_math=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _outline(panel: Axes, mask: Array) -> None:
    if mask.any() and not mask.all():
        panel.contour(mask, levels=[0.5], colors="#4dd0e1", linewidths=1)


def _plane(values: Array, axis: int, turned: bool) -> Array:
    """The middle one; axes S, P, L: rows run to the back or to the head, columns to the left."""
    cut: Array = np.take(values, values.shape[axis] // 2, axis)
    return cut[::-1] if turned else cut

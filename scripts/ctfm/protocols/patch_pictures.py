"""A patch with maps over it: three planes through its middle, a row for each encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ctfm.contract import HU_WINDOW
from ctfm.files import atomic_path

__all__ = ["draw_patch"]

Array = npt.NDArray[Any]

#: HU that are black and white.
SHOWN_HU = (-400.0, 500.0)
#: Axis that a plane stands on, and whether it is turned over so that the head is above.
PLANES = {"axial": (0, False), "coronal": (1, True), "sagittal": (2, True)}
SIZE, BACKGROUND, TEXT = 2.6, "#0f1115", "#e8eaed"
ALPHA = 0.55


def draw_patch(
    image: Array, organ: Array, maps: Mapping[str, Array], path: Path, title: str
) -> None:
    """Draw a patch with the outline of its organ, and each map in colours up to its own maximum.

    Args:
        image: (D, H, W), axes SPL, scaled to 0..1.
        organ: mask on the same grid.
        maps: encoder -> map on the same grid.
        path: PNG.
        title: what it shows.

    Raises:
        ctfm.errors.UserError: the file cannot be written.
    """
    low, high = ((hu - HU_WINDOW[0]) / (HU_WINDOW[1] - HU_WINDOW[0]) for hu in SHOWN_HU)
    rows = {"": None, **maps}
    figure = Figure(
        figsize=(len(PLANES) * SIZE + 0.4, len(rows) * SIZE + 0.8), layout="constrained",
        facecolor=BACKGROUND,
    )  # fmt: skip
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(rows), len(PLANES), squeeze=False)
    for line, (encoder, heat) in zip(panels, rows.items(), strict=True):
        for panel, (plane, (axis, turned)) in zip(line, PLANES.items(), strict=True):
            cut = [_plane(one, axis, turned) for one in (image, organ)]
            panel.imshow(cut[0], cmap="gray", vmin=low, vmax=high)
            if heat is not None and heat.max() > 0:
                warm = _plane(heat, axis, turned) / heat.max()
                panel.imshow(warm, cmap="inferno", vmin=0, vmax=1, alpha=ALPHA * warm**0.5)
            if cut[1].any() and not cut[1].all():
                panel.contour(cut[1], levels=[0.5], colors="#4dd0e1", linewidths=1)
            panel.set_xticks([])
            panel.set_yticks([])
            if panel is line[0]:
                panel.set_ylabel(encoder, color=TEXT, fontsize=9, parse_math=False)
            if line is panels[0]:
                panel.set_title(plane, color=TEXT, fontsize=9)
    figure.suptitle(f"{title}; for research", color=TEXT, fontsize=10, parse_math=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _plane(values: Array, axis: int, turned: bool) -> Array:
    """The middle one; axes S, P, L: rows run to the back or to the head, columns to the left."""
    cut: Array = np.take(values, values.shape[axis] // 2, axis)
    return cut[::-1] if turned else cut

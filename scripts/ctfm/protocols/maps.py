"""Embeddings in the plane, coloured by organ, one panel an encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ctfm.base.files import atomic_path
from ctfm.base.types import Array

__all__ = ["draw_maps"]

MARKERS = "os^vDP*Xp"
COLORS = 10
#: Organs that the legend has room for, in so many columns.
NAMED, COLUMNS = 120, 6
PANEL, LINE = 4.6, 0.19


def draw_maps(maps: Mapping[str, Array], organs: Array, path: Path) -> None:
    """Draw each patch where the map has it; colour and marker say the organ.

    Args:
        maps: encoder -> places (N, 2).
        organs: name of each patch's organ, (N,).
        path: PNG.

    Raises:
        UserError: the file cannot be written.
    """
    names = list(dict.fromkeys(organs.tolist()))
    named = names[:NAMED]
    lines = -(-len(named) // COLUMNS)
    wide = min(len(maps), 3)
    high = -(-len(maps) // wide)
    width = max(wide * PANEL, 9)
    figure = Figure(figsize=(width, high * PANEL + lines * LINE + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(high, wide, squeeze=False).ravel()
    colors = mpl.colormaps["tab10"]
    for panel, (encoder, places) in zip(panels, maps.items(), strict=False):
        for number, organ in enumerate(names):
            mine = np.flatnonzero(organs == organ)
            panel.scatter(
                *places[mine].T,
                s=18,
                color=colors(number % COLORS),
                linewidths=0,
                marker=MARKERS[number // COLORS % len(MARKERS)],
                alpha=0.8,
                label=organ if panel is panels[0] and organ in named else None,
            )
        panel.set_title(encoder, fontsize=9, parse_math=False)
        panel.set_xticks([])
        panel.set_yticks([])
    for panel in panels[len(maps) :]:
        panel.set_axis_off()
    figure.legend(loc="outside lower center", ncols=COLUMNS, fontsize=7, frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)

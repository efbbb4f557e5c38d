"""Distances of several kinds as boxes, one panel an encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ctfm.base.files import atomic_path

__all__ = ["draw_distributions"]

WIDTH, ROW, HEAD = 4.5, 0.32, 1.1


def draw_distributions(
    distances: Mapping[str, Mapping[str, Sequence[float]]], path: Path, label: str
) -> None:
    """Draw a box for each kind: quartiles, whiskers to the 5th and 95th percentile.

    Args:
        distances: encoder -> kind -> values; the kinds are the same for each.
        path: PNG.
        label: of the axis.

    Raises:
        UserError: the file cannot be written.
    """
    kinds = list(next(iter(distances.values())))[::-1]
    figure = Figure(
        figsize=(WIDTH * len(distances) + 1, HEAD + ROW * len(kinds)), layout="constrained"
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(distances), squeeze=False, sharey=True)[0]
    for panel, (encoder, found) in zip(panels, distances.items(), strict=True):
        panel.boxplot(
            [found[kind] for kind in kinds],
            whis=(5, 95),
            widths=0.6,
            vert=False,
            medianprops={"color": "C0"},
            flierprops={"markersize": 3, "alpha": 0.5},
        )
        panel.set_yticks(range(1, len(kinds) + 1), kinds)
        panel.set_xlim(left=0)
        panel.grid(axis="x", color="0.9")
        panel.set_xlabel(label)
        panel.set_title(encoder, fontsize=9, parse_math=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)

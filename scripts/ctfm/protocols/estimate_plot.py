"""Estimates as a figure: a row for each of them, encoders above each other in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ctfm.base.files import atomic_path
from ctfm.evaluation.intervals import Estimate

__all__ = ["draw_estimates"]

#: Inches of a row without and for each encoder, and share of a row that encoders take.
ROW, LINE, USED = 0.12, 0.11, 0.6


def draw_estimates(
    found: Mapping[str, Mapping[str, Estimate]], path: Path, label: str, sort: bool = True
) -> None:
    """Draw means as dots with their 95 % intervals.

    Args:
        found: encoder -> row -> estimate; the rows are those of the first encoder.
        path: PNG.
        label: of the axis, with its unit.
        sort: rows by the first encoder's mean; False: in their order, from the top.

    Raises:
        UserError: the file cannot be written.
    """
    first = next(iter(found.values()))
    rows = sorted(first, key=lambda row: -first[row].mean) if sort else [*first][::-1]
    figure = Figure(figsize=(8, 1.3 + len(rows) * (ROW + LINE * len(found))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (name, estimates) in enumerate(found.items()):
        shift = (number - (len(found) - 1) / 2) * USED / len(found)
        color = f"C{number % 10}"
        for place, row in enumerate(rows):
            one, height = estimates[row], place - shift
            if one.interval is not None:
                axes.plot(one.interval, [height, height], color=color, linewidth=1.2)
            axes.plot(
                one.mean, height, "o", color=color, markersize=4, label=name if place == 0 else None
            )
    axes.set_yticks(range(len(rows)), rows, parse_math=False)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(left=0)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.set_xlabel(f"{label}; line: 95 % interval")
    figure.legend(loc="outside upper left", ncols=2, frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)

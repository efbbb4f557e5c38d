"""A comparison as files, as a picture and on the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ctfm.base.files import atomic_path
from ctfm.base.tables import align, cell, number, write_json, write_table
from ctfm.evaluation.comparison.paired import Comparison, Row
from ctfm.evaluation.intervals import bootstrap_settings, interval_text

__all__ = ["format_comparison", "write_comparison"]

COLUMNS = ("case", "class_id", "class", "a", "b", "difference")
#: Classes in the picture: those that differ most.
SHOWN = 40
A_COLOR, B_COLOR, FAINT = "tab:blue", "tab:orange", "0.75"


def write_comparison(found: Comparison, folder: Path) -> None:
    """Write `compare.csv` (case by case), `compare.json` and `compare.png`, each of them whole.

    What does not exist is an empty cell in the table and null in the JSON.

    Args:
        found: the comparison.
        folder: made where it does not exist.

    Raises:
        UserError: the folder cannot be written to.
    """
    write_table(folder / "compare.csv", COLUMNS, _case_rows(found))
    write_json(folder / "compare.json", _document(found))
    with atomic_path(folder / "compare.png") as path:
        _figure(found).savefig(path, format="png", dpi=120)


def _case_rows(found: Comparison) -> Iterator[list[Any]]:
    for row in (found.overall, *found.classes):
        name = ["" if row.class_id is None else row.class_id, row.name]
        for pair in row.pairs:
            yield [pair.case, *name, *map(cell, (pair.a, pair.b, pair.difference))]


def _document(found: Comparison) -> dict[str, Any]:
    return {
        "a": found.a.source.as_posix(),
        "b": found.b.source.as_posix(),
        "metric": found.a.metric,
        "higher_is_better": found.metric.higher_is_better,
        "cases": len(found.a.cases),
        "verdict": found.verdict(),
        "overall": _figures(found.overall),
        "classes": [_figures(row) for row in found.classes],
        "test": "Wilcoxon signed-rank, two-sided; cases without a difference left out",
        "bootstrap": bootstrap_settings(found.seed, found.resamples),
    }


def _figures(row: Row) -> dict[str, Any]:
    return {
        "class_id": row.class_id,
        "class": row.name,
        "cases": row.difference.cases,
        "a": row.a,
        "b": row.b,
        "difference": row.difference.mean,
        "interval": row.difference.interval,
        "p": row.p,
        "p_holm": row.p_holm,
        "a_better": row.better_a,
        "b_better": row.better_b,
        "only_a": row.only_a,
        "only_b": row.only_b,
    }


def format_comparison(found: Comparison) -> str:
    """The comparison for a terminal: all classes together, each class, the result in words.

    Classes that no case has in both runs are only counted.
    """
    digits = found.metric.digits
    shown = [row for row in found.classes if row.difference.cases]
    titles = ("", "cases", "A", "B", "A - B", "95 % CI", "A better", "B better", "p", "p (Holm)")
    lines = [titles, *(_line(row, digits) for row in (found.overall, *shown))]
    text = [f"A: {found.a.source}", f"B: {found.b.source}", "", *align(lines)]
    if left_out := len(found.classes) - len(shown):
        text.append(f"and {left_out} classes that no case has in both runs")
    alone = found.overall.only_a, found.overall.only_b
    if any(alone):
        text.append(
            f"left out, since one run alone has a value of {found.a.metric} (the other missed the "
            f"class): {alone[0]} of A, {alone[1]} of B; --metric dice counts these as 0"
        )
    return "\n".join([*text, found.verdict()])


def _line(row: Row, digits: int) -> tuple[str, ...]:
    name = row.name if row.class_id is None else f"{row.class_id:>3} {row.name}"
    interval = interval_text(row.difference.interval, digits)
    means = (number(value, digits) for value in (row.a, row.b, row.difference.mean))
    p_values = (f"{p:.2g}" for p in (row.p, row.p_holm))
    better = str(row.better_a), str(row.better_b)
    return name, str(row.difference.cases), *means, interval, *better, *p_values


def _figure(found: Comparison) -> Figure:
    """Left each case, A beside B; right the mean difference of each class with its interval."""
    rows = [row for row in found.classes if row.difference.cases]
    rows = sorted(rows, key=lambda row: -abs(row.difference.mean))[:SHOWN]
    rows.sort(key=lambda row: row.class_id or 0)
    figure = Figure(figsize=(9, max(4.0, 2 + 0.22 * len(rows))), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    _draw_cases(left, found)
    _draw_differences(right, [found.overall, *rows], found)
    figure.suptitle(found.verdict(), fontsize=9, wrap=True, parse_math=False)
    return figure


def _draw_cases(axes: Axes, found: Comparison) -> None:
    for pair in found.overall.pairs:
        if not math.isnan(pair.difference):
            axes.plot([0, 1], [pair.a, pair.b], color=FAINT, linewidth=0.8, zorder=1)
            axes.scatter([0], [pair.a], color=A_COLOR, s=16, zorder=2)
            axes.scatter([1], [pair.b], color=B_COLOR, s=16, zorder=2)
    axes.set_xlim(-0.3, 1.3)
    axes.set_xticks([0, 1], ["A", "B"])
    axes.set_ylabel(f"{found.metric.title}, mean over classes, a line a case")


def _draw_differences(axes: Axes, rows: list[Row], found: Comparison) -> None:
    for place, row in enumerate(rows):
        low, high = row.difference.interval or (row.difference.mean,) * 2
        better_a = (row.difference.mean > 0) == found.metric.higher_is_better
        color = A_COLOR if better_a else B_COLOR
        axes.plot([low, high], [place, place], color=color, linewidth=3 if place == 0 else 1.2)
        axes.scatter([row.difference.mean], [place], color=color, s=36 if place == 0 else 16)
    axes.axvline(0, color="0.3", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=7, parse_math=False)
    axes.invert_yaxis()
    side = "right" if found.metric.higher_is_better else "left"
    axes.set_xlabel(f"A - B in {found.metric.title}, 95 % interval ({side}: A is better)")

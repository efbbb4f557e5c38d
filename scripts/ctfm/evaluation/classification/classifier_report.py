"""An evaluation of a classifier as files and on the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ctfm.base.tables import align, cell, number, write_json, write_table
from ctfm.evaluation.classification.evaluation import Difference, Evaluation, Figure
from ctfm.evaluation.classification.figures import TITLES
from ctfm.evaluation.classification.pictures import draw_pictures
from ctfm.evaluation.intervals import CONFIDENCE, interval_text

__all__ = ["format_evaluation", "write_evaluation"]

COLUMNS = (
    "score",
    "figure",
    "operating_point",
    "threshold",
    "value",
    "ci_low",
    "ci_high",
    "interval",
)
COMPARED = ("figure", "operating_point", "a", "b", "difference", "ci_low", "ci_high", "p", "test")
SIGNIFICANT = 0.05


def write_evaluation(found: Evaluation, folder: Path, settings: Mapping[str, Any]) -> None:
    """Write `classification.csv`, `classification.json` and three pictures, each of them whole.

    With two scores `classification_compare.csv`, too. What does not exist is an empty cell, and
    null in the JSON.

    Args:
        found: the evaluation.
        folder: made where it does not exist.
        settings: what else belongs to the numbers, copied into the JSON.

    Raises:
        UserError: the folder cannot be written to.
    """
    rows = [_row(one) for one in found.figures]
    write_table(folder / "classification.csv", COLUMNS, rows)
    if found.differences:
        compared = [_compared(one) for one in found.differences]
        write_table(folder / "classification_compare.csv", COMPARED, compared)
    write_json(folder / "classification.json", _document(found, settings))
    draw_pictures(found, folder)


def _row(one: Figure) -> list[Any]:
    threshold = "" if one.threshold is None else cell(one.threshold)
    ends = map(cell, one.interval or ("", ""))
    return [one.score, one.figure, one.point, threshold, cell(one.value), *ends, one.method]


def _compared(one: Difference) -> list[Any]:
    numbers = map(cell, (one.a, one.b, one.difference, *(one.interval or ("", "")), one.p))
    return [one.figure, one.point, *numbers, one.test]


def _document(found: Evaluation, settings: Mapping[str, Any]) -> dict[str, Any]:
    predictions = found.predictions
    subjects = predictions.subjects
    return {
        "cases": predictions.cases,
        "positives": predictions.positives,
        "prevalence": predictions.positives / predictions.cases,
        "subjects": None if subjects is None else int(subjects.max()) + 1,
        "scores": [score.name for score in predictions.scores],
        "operating_points": {
            name: [asdict(point) for point in some] for name, some in found.points.items()
        },
        "figures": [asdict(one) for one in found.figures],
        "differences": [asdict(one) for one in found.differences],
        "confidence": CONFIDENCE,
        "calibration_error": {"bins": found.bins, "width": "equal"},
        "bootstrap": {
            "over": "cases" if subjects is None else "subjects",
            "method": "percentile",
            "resamples": found.resamples,
            "seed": found.seed,
        },
        "settings": dict(settings),
    }


def format_evaluation(found: Evaluation) -> str:
    """The evaluation for a terminal: a table a score, then the differences, in words at last."""
    predictions = found.predictions
    text = [f"{predictions.cases} cases, {predictions.positives} positive"]
    if predictions.subjects is not None:
        text[0] += f", of {int(predictions.subjects.max()) + 1} subjects"
    for score in predictions.scores:
        text += ["", *_score_lines(found, score.name)]
    if found.differences:
        text += ["", *_difference_lines(found), verdict(found)]
    return "\n".join(text)


def _score_lines(found: Evaluation, score: str) -> list[str]:
    titles = (score, "threshold", "value", "95 % CI", "by")
    lines = [titles]
    for one in found.figures:
        if one.score == score:
            name = f"{TITLES[one.figure]}, {one.point}" if one.point else TITLES[one.figure]
            threshold = "" if one.threshold is None else f"{one.threshold:.3f}"
            interval = interval_text(one.interval)
            lines.append((name, threshold, number(one.value, 3), interval, one.method))
    points = [f"{point.name}: {point.how}" for point in found.points[score]]
    return [*align(lines), "operating points: " + "; ".join(points)]


def _difference_lines(found: Evaluation) -> list[str]:
    a, b = found.predictions.scores[:2]
    lines: list[tuple[str, ...]] = [
        (f"A = {a.name}, B = {b.name}", "A", "B", "A - B", "95 % CI", "p", "test")
    ]
    for one in found.differences:
        name = f"{TITLES[one.figure]}, {one.point}" if one.point else TITLES[one.figure]
        values = (number(value, 3) for value in (one.a, one.b, one.difference))
        lines.append((name, *values, interval_text(one.interval), f"{one.p:.2g}", one.test))
    return align(lines)


def verdict(found: Evaluation) -> str:
    """Which score ranks the cases better, by AUROC, in words."""
    one = next(one for one in found.differences if one.figure == "auroc")
    p = "p < 0.001" if one.p < 0.001 else f"p = {one.p:.2g}"
    p = "no p-value" if math.isnan(one.p) else p
    if one.p < SIGNIFICANT:
        names = [score.name for score in found.predictions.scores[:2]]
        sign = 1 if one.difference > 0 else -1
        low, high = sorted(sign * end for end in one.interval or ())
        better = names[0] if sign > 0 else names[1]
        by = f"{abs(one.difference):.3f} AUROC (95 % interval {interval_text((low, high))}, {p})"
        return f"{better} is better by {by}"
    interval = f"95 % interval {interval_text(one.interval)}, {p}"
    return f"no difference can be shown (A - B = {one.difference:.3f} AUROC, {interval})"

"""Evaluation of a segmentation over cases: means, bootstrap intervals, tables.

`segmentation_scores` scores one case; `summarise` takes the scores of all cases together;
`write_report` and `format_table` put the result in files and on the terminal.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ctfm.base.errors import UserError
from ctfm.base.tables import align, cell, number, write_json, write_table
from ctfm.evaluation.class_scores import NSD_TOLERANCE_MM, ClassScore, segmentation_scores
from ctfm.evaluation.intervals import (
    Estimate,
    bootstrap_settings,
    estimate_mean,
    interval_text,
    mean,
)

__all__ = [
    "ClassScore",
    "Estimate",
    "Row",
    "Summary",
    "format_table",
    "segmentation_scores",
    "summarise",
    "write_report",
]

METRICS = ("dice", "asd_mm", "hd95_mm", "nsd")
VOLUMES = ("reference_ml", "prediction_ml")
CASE_COLUMNS = ("case", "class_id", "class", *METRICS, *VOLUMES)
SUMMARY_COLUMNS = (
    "class_id",
    "class",
    "cases",
    "missed",
    "spurious",
    *(f"{metric}{end}" for metric in METRICS for end in ("", "_ci_low", "_ci_high")),
)
NAN = float("nan")


@dataclass(frozen=True)
class Row:
    """One class, or all of them, over the cases.

    Attributes:
        class_id: None for all classes together.
        cases: cases whose reference has the class (for all classes together: any class).
        missed: how often the reference has the class and the prediction does not.
        spurious: how often the prediction has the class and the reference does not.
        estimates: one each for "dice", "asd_mm", "hd95_mm" and "nsd".
    """

    class_id: int | None
    name: str
    cases: int
    missed: int
    spurious: int
    estimates: dict[str, Estimate]


@dataclass(frozen=True)
class Summary:
    """What `summarise` found, and with which settings."""

    cases: int
    overall: Row
    classes: list[Row]
    nsd_tolerance_mm: float
    seed: int
    resamples: int


def summarise(
    cases: Mapping[str, Sequence[ClassScore]],
    seed: int = 0,
    resamples: int = 1000,
    nsd_tolerance_mm: float = NSD_TOLERANCE_MM,
) -> Summary:
    """Means and bootstrap intervals over cases.

    A class's mean runs over the cases that have a value. The overall mean is the published one
    (MONAI's reduction "mean"): first over the classes of a case, then over cases.

    Args:
        cases: case name -> its scores.
        seed: of the resampling; the intervals are the same on every run.
        resamples: bootstrap resamples for each interval (percentile method, over cases).
        nsd_tolerance_mm: what the scores were computed with; recorded, not used.

    Raises:
        UserError: there are no cases.
    """
    if not cases:
        raise UserError("there are no cases to summarise: give at least one")
    scores = [score for case in cases.values() for score in case]
    names = {score.class_id: score.name for score in scores}
    rows = []
    for class_id in sorted(names):
        mine = [score for score in scores if score.class_id == class_id]
        values = {metric: [getattr(s, metric) for s in mine] for metric in METRICS}
        count = sum(s.reference_ml > 0 for s in mine)
        rows.append(_row(class_id, names[class_id], count, mine, values, seed, resamples))
    values = {m: [mean(getattr(s, m) for s in case) for case in cases.values()] for m in METRICS}
    count = sum(any(s.reference_ml > 0 for s in case) for case in cases.values())
    overall = _row(None, "all classes", count, scores, values, seed, resamples)
    return Summary(len(cases), overall, rows, nsd_tolerance_mm, seed, resamples)


def _row(
    class_id: int | None,
    name: str,
    cases: int,
    scores: Sequence[ClassScore],
    values: Mapping[str, Sequence[float]],
    seed: int,
    resamples: int,
) -> Row:
    missed, spurious = sum(s.missed for s in scores), sum(s.spurious for s in scores)
    estimates = {metric: estimate_mean(values[metric], seed, resamples) for metric in METRICS}
    return Row(class_id, name, cases, missed, spurious, estimates)


def write_report(
    cases: Mapping[str, Sequence[ClassScore]],
    output_dir: str | os.PathLike[str],
    summary: Summary | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Summary:
    """Write `metrics_cases.csv`, `metrics_summary.csv` and `metrics.json`, each of them whole.

    A score that does not exist is an empty cell in the tables and null in the JSON.

    Args:
        cases: case name -> its scores.
        output_dir: made where it does not exist.
        summary: of these cases; None: `summarise(cases)`.
        settings: what else belongs to the numbers (model, data set, ...), copied into the JSON;
            what JSON does not know (a path) is written as text.

    Returns:
        The summary that was written.

    Raises:
        UserError: there are no cases, or the folder cannot be written to.
    """
    summary = summary or summarise(cases)
    folder = Path(output_dir)
    write_table(folder / "metrics_cases.csv", CASE_COLUMNS, _case_rows(cases))
    write_table(folder / "metrics_summary.csv", SUMMARY_COLUMNS, _summary_rows(summary))
    write_json(folder / "metrics.json", _document(summary, settings or {}))
    return summary


def _case_rows(cases: Mapping[str, Sequence[ClassScore]]) -> Iterator[list[Any]]:
    for case, scores in cases.items():
        for score in scores:
            numbers = (cell(getattr(score, name)) for name in (*METRICS, *VOLUMES))
            yield [case, score.class_id, score.name, *numbers]


def _summary_rows(summary: Summary) -> Iterator[list[Any]]:
    for row in (summary.overall, *summary.classes):
        estimates = (row.estimates[metric] for metric in METRICS)
        numbers = [cell(n) for e in estimates for n in (e.mean, *(e.interval or (NAN, NAN)))]
        yield [row.class_id, row.name, row.cases, row.missed, row.spurious, *numbers]


def _document(summary: Summary, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "cases": summary.cases,
        "nsd_tolerance_mm": summary.nsd_tolerance_mm,
        "bootstrap": bootstrap_settings(summary.seed, summary.resamples),
        "settings": dict(settings),
        "overall": asdict(summary.overall),
        "classes": [asdict(row) for row in summary.classes],
    }


def format_table(summary: Summary, limit: int | None = None) -> str:
    """The summary for a terminal: all classes together first, then each class by its id.

    Classes that no reference and no prediction has are only counted.

    Args:
        summary: what to show.
        limit: show at most so many classes; None: all.
    """
    present = [row for row in summary.classes if row.cases or row.spurious]
    shown = present[:limit]
    titles = ("class", "cases", "missed", "spurious", "Dice", "95 % CI", "ASD mm", "HD95 mm")
    lines = [
        (*titles, f"NSD {summary.nsd_tolerance_mm:g} mm"),
        *(_table_line(row) for row in (summary.overall, *shown)),
    ]
    text = align(lines)
    for count, what in (
        (len(present) - len(shown), "more classes"),
        (len(summary.classes) - len(present), "classes in no reference and no prediction"),
    ):
        text += [f"and {count} {what}"] if count else []
    return "\n".join(text)


def _table_line(row: Row) -> tuple[str, ...]:
    dice, asd, hd95, nsd = (row.estimates[metric] for metric in METRICS)
    name = row.name if row.class_id is None else f"{row.class_id:>3} {row.name}"
    counts = str(row.cases), str(row.missed), str(row.spurious)
    overlap = number(dice.mean, 3), interval_text(dice.interval)
    distances = number(asd.mean, 2), number(hd95.mean, 2)
    return name, *counts, *overlap, *distances, number(nsd.mean, 3)

"""Detection of lesions as files and on the terminal."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ctfm.base.tables import align, cell, number, write_json, write_table
from ctfm.evaluation.intervals import bootstrap_settings, interval_text
from ctfm.evaluation.lesions.detection import (
    LesionRow,
    LesionScore,
    LesionSummary,
    summarise_lesions,
)

__all__ = ["format_lesions", "write_lesions"]

LESION_COLUMNS = ("case", "mask", "volume_ml", "diameter_mm", "overlap", "found")
CASE_COLUMNS = (
    "case",
    "lesions",
    "detected",
    "sensitivity",
    "predicted",
    "false_positives",
    "missed_ml",
    "false_positive_ml",
)


def write_lesions(
    cases: Mapping[str, LesionScore],
    output_dir: str | os.PathLike[str],
    summary: LesionSummary | None = None,
    settings: Mapping[str, Any] | None = None,
) -> LesionSummary:
    """Write `lesions.csv`, `lesions_cases.csv` and `lesions.json`, each of them whole.

    The first has a row for each lesion of both masks; `found` is 1 for a reference lesion that
    was detected, and for a predicted one that is a lesion. What does not exist is an empty cell.

    Args:
        cases: case name -> its lesions.
        output_dir: made where it does not exist.
        summary: of these cases; None: `summarise_lesions(cases)`.
        settings: what else belongs to the numbers, copied into the JSON.

    Returns:
        The summary that was written.

    Raises:
        UserError: there are no cases, or the folder cannot be written to.
    """
    summary = summary or summarise_lesions(cases)
    folder = Path(output_dir)
    write_table(folder / "lesions.csv", LESION_COLUMNS, _lesion_rows(cases))
    write_table(folder / "lesions_cases.csv", CASE_COLUMNS, _case_rows(cases))
    bootstrap = bootstrap_settings(summary.seed, summary.resamples)
    figures = {key: value for key, value in asdict(summary).items() if key not in bootstrap}
    document = {**figures, "bootstrap": bootstrap, "settings": dict(settings or {})}
    write_json(folder / "lesions.json", document)
    return summary


def _lesion_rows(cases: Mapping[str, LesionScore]) -> Iterator[list[Any]]:
    for case, score in cases.items():
        for mask, lesions in (("reference", score.reference), ("prediction", score.predicted)):
            for one in lesions:
                figures = (one.volume_ml, one.diameter_mm, one.overlap)
                yield [case, mask, *map(cell, figures), int(one.found)]


def _case_rows(cases: Mapping[str, LesionScore]) -> Iterator[list[Any]]:
    for case, score in cases.items():
        found = len(score.reference), score.detected, score.sensitivity
        wrong = len(score.predicted), score.false_positives
        yield [case, *map(cell, (*found, *wrong, score.missed_ml, score.false_positive_ml))]


def format_lesions(summary: LesionSummary) -> str:
    """The summary for a terminal: all lesions, then by size; the last line counts the scans."""
    titles = ("", "lesions", "found", "sensitivity", "95 % CI")
    more = ("predicted", "false", "false/scan", "95 % CI", "precision")
    lines = [(*titles, *more), *(_line(row) for row in (summary.overall, *summary.sizes))]
    scans = "1 scan" if summary.cases == 1 else f"{summary.cases} scans"
    missed, false = summary.missed_ml.mean, summary.false_positive_ml.mean
    last = (
        f"{scans}, {summary.cases_with_lesions} with a lesion; volume a scan: missed "
        f"{missed:.2f} ml, false {false:.2f} ml"
    )
    return "\n".join([*align(lines), last])


def _line(row: LesionRow) -> tuple[str, ...]:
    found = row.sensitivity, row.false_positives_per_scan
    sensitivity, false = ((number(one.mean, 3), interval_text(one.interval)) for one in found)
    counts = str(row.lesions), str(row.detected)
    predicted = str(row.predicted), str(row.false_positives)
    return row.name, *counts, *sensitivity, *predicted, *false, number(row.precision.mean, 3)

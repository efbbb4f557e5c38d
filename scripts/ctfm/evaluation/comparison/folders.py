"""Compare two folders of results: read both, compare, write and format."""

from __future__ import annotations

import os
from pathlib import Path

from ctfm.base.errors import UserError
from ctfm.evaluation.comparison.comparison_report import format_comparison, write_comparison
from ctfm.evaluation.comparison.paired import compare_runs
from ctfm.evaluation.comparison.runs import METRICS, read_run

__all__ = ["compare_folders"]


def compare_folders(
    run_a: str | os.PathLike[str],
    run_b: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    metric: str = "dice",
    seed: int = 0,
    resamples: int = 1000,
) -> str:
    """Compare two runs case by case, such as a pretrained network and one from scratch.

    Args:
        run_a: `metrics_cases.csv` of an evaluation, or a folder that holds one; for a metric of
            lesions `lesions_cases.csv`.
        run_b: the same, of the other run on the same cases.
        out: folder for `compare.csv`, `compare.json` and `compare.png`; None: no files.
        metric: "dice", "nsd", "asd_mm" or "hd95_mm"; of lesions "sensitivity" or
            "false_positives".
        seed: of the bootstrap.
        resamples: of the bootstrap, for each interval.

    Returns:
        The table for the terminal; its last line says the result in words.

    Raises:
        UserError: a file is missing or has another form, the cases, classes or references differ,
            or no case has a value in both runs.
    """
    if metric not in METRICS:
        raise UserError(f"metric is {metric!r}: choose from {', '.join(METRICS)}")
    runs = read_run(Path(run_a), metric), read_run(Path(run_b), metric)
    found = compare_runs(*runs, seed=seed, resamples=resamples)
    if out is not None:
        write_comparison(found, Path(out))
    return format_comparison(found)

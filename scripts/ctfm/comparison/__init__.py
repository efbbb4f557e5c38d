"""Two runs on the same cases: is one better, and by how much?"""

from __future__ import annotations

import os
from pathlib import Path

from ctfm.comparison.paired import Comparison, compare_runs
from ctfm.comparison.report import format_comparison, write_comparison
from ctfm.comparison.runs import METRICS, read_run
from ctfm.errors import UserError

__all__ = ["Comparison", "compare", "compare_runs", "format_comparison", "read_run"]


def compare(
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

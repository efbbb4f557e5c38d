"""What every protocol leaves behind: tables as CSV, all of it as JSON, a summary for the terminal.

A row of ``metrics.csv`` is a metric of an encoder: its mean over queries (or scans, pairs), the
95 % bootstrap interval, and over how many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctfm import __version__
from ctfm.base.tables import align, write_json, write_records
from ctfm.evaluation.intervals import Estimate, value_text
from ctfm.protocols.probing.encoders import Candidate

__all__ = ["estimate_rows", "spell", "summary", "write_csv", "write_report"]

Rows = Sequence[Mapping[str, Any]]


def estimate_rows(estimates: Mapping[str, Any], *columns: str) -> list[dict[str, Any]]:
    """Estimates as rows of a table.

    Args:
        estimates: of a tree of mappings, such as encoder -> metric -> estimate.
        columns: what the keys of each level are, such as encoder and metric.
    """
    rows = []
    for name, below in estimates.items():
        if isinstance(below, Estimate):
            low, high = below.interval or (float("nan"), float("nan"))
            figures = {"mean": below.mean, "low": low, "high": high, "count": below.cases}
            rows.append({columns[0]: name, **figures})
        else:
            rows += [{columns[0]: name, **row} for row in estimate_rows(below, *columns[1:])]
    return rows


def spell(estimate: Estimate, digits: int = 3) -> str:
    """An estimate as ``0.932 (0.901 to 0.955)``."""
    return value_text(estimate.mean, estimate.interval, digits)


def summary(
    rows: Mapping[str, Mapping[str, Estimate]], shown: Sequence[str], first: str = "encoder"
) -> list[str]:
    """Lines of a table for the terminal.

    Args:
        rows: name of each row -> metric -> estimate.
        shown: metrics that become columns.
        first: heads the names.
    """
    cells = [[name, *(spell(found[m]) for m in shown)] for name, found in rows.items()]
    return align([[first, *shown], *cells])


def write_csv(path: Path, rows: Rows) -> None:
    """Write rows that have the same columns; a value that is not there is left empty.

    Raises:
        UserError: the folder cannot be written to.
    """
    write_records(path, rows)


def write_report(
    folder: Path,
    protocol: str,
    remark: str,
    settings: Mapping[str, Any],
    candidates: Sequence[Candidate],
    rows: Rows,
    **more: Any,
) -> None:
    """Write ``metrics.csv``, and ``metrics.json`` with all that the figures depend on.

    Args:
        folder: made where it does not exist.
        protocol: what was done, in a line.
        remark: what the figures are not, such as those of an article.
        settings: what was asked for.
        candidates: the encoders.
        rows: of ``metrics.csv``.
        more: further entries of the JSON.

    Raises:
        UserError: the folder cannot be written to.
    """
    write_csv(folder / "metrics.csv", rows)
    document = {
        "protocol": protocol,
        "remark": remark,
        "settings": dict(settings),
        "encoders": {c.name: {"source": c.source, "sha256": c.encoder_sha256} for c in candidates},
        "metrics": list(rows),
        **more,
        "ctfm_version": __version__,
    }
    write_json(folder / "metrics.json", document)

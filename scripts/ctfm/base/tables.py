"""Numbers as files and terminals show them: CSV, JSON without nan, aligned columns."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from ctfm.base.files import atomic_path

__all__ = ["align", "as_json", "cell", "number", "write_json", "write_records", "write_table"]


def cell(value: Any) -> Any:
    """A value for a CSV file: six digits, and nothing where there is no number."""
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else ""
    return value


def write_table(
    path: str | os.PathLike[str],
    columns: Sequence[str],
    rows: Iterable[Iterable[object]],
    line_end: str = "\n",
) -> Path:
    """Write a CSV file; the same rows give the same bytes, whatever file names they hold.

    Args:
        path: of the file.
        columns: their names, the first line.
        rows: their cells, written as they are.
        line_end: of each line.

    Raises:
        UserError: it cannot be written.
    """
    text = StringIO()
    writer = csv.writer(text, lineterminator=line_end)
    writer.writerow(columns)
    writer.writerows(rows)
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.getvalue().encode("utf-8", "backslashreplace"))
    return Path(path)


def write_records(
    path: str | os.PathLike[str],
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str] | None = None,
) -> Path:
    """Write rows by the names of their values as CSV, with the line ends that RFC 4180 asks for.

    Numbers have six digits; a value that is not there is an empty cell.

    Args:
        path: of the file.
        rows: name -> value.
        columns: the names; None: all that a row has.

    Raises:
        UserError: it cannot be written.
    """
    names = columns or list(dict.fromkeys(name for row in rows for name in row))
    return write_table(path, names, ([cell(row.get(n)) for n in names] for row in rows), "\r\n")


def write_json(path: str | os.PathLike[str], document: Mapping[str, Any]) -> Path:
    """Write a document as `as_json` spells it.

    Raises:
        UserError: it cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(as_json(document), encoding="utf-8")
    return Path(path)


def as_json(document: Mapping[str, Any]) -> str:
    """A document as JSON, with null where JSON has no number.

    What JSON does not know (a path) is written as text.
    """
    return json.dumps(_finite(document), indent=4, allow_nan=False, default=str) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def number(value: float, digits: int) -> str:
    """A number for a terminal; "-" where there is none."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def align(lines: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Lines of cells as columns of one width, the first line set off as their titles.

    Args:
        lines: cells, as many in each line.
        left: columns that are flush left; the others are flush right.
    """
    columns = [
        [cell.ljust(width) if place in left else cell.rjust(width) for cell in column]
        for place, column in enumerate(zip(*lines, strict=True))
        for width in [max(map(len, column))]
    ]
    text = ["  ".join(line) for line in zip(*columns, strict=True)]
    text.insert(1, "-" * len(text[0]))
    return text

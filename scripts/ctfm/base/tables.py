"""Numbers as files and terminals show them: CSV cells, JSON without nan, aligned columns."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["align", "as_json", "cell", "number"]


def cell(value: Any) -> Any:
    """A value for a CSV file: six digits, and nothing where there is no number."""
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else ""
    return value


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


def align(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells as columns of one width, the first line set off as their titles.

    Args:
        lines: cells, as many in each line; the first column is flush left, the others right.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    ]
    text.insert(1, "-" * len(text[0]))
    return text

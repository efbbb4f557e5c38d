"""What every benchmark does with its figures: a table on the terminal, a JSON beside it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ctfm.networks import fast_dtype

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        ours, theirs: medians over runs; None where that side was not run.
        target: a condition on `ours` (or on `ratio`, if it starts with "ratio"), e.g. ">= 0.9".
        larger_is_better: None: as the target says; without a target smaller is better.
    """

    figure: str
    peer: str | None
    ours: float
    theirs: float | None
    unit: str
    target: str | None
    larger_is_better: bool | None = None

    @property
    def ratio(self) -> float | None:
        """Above 1 where ours is better."""
        if self.theirs is None or not self.ours or not self.theirs:
            return None
        larger = self.larger_is_better
        if larger is None:
            larger = self.target is not None and " >= " in f" {self.target}"
        return self.ours / self.theirs if larger else self.theirs / self.ours

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target or a value."""
        if self.target is None:
            return None
        *what, operator, bound = self.target.split()
        value = self.ratio if what == ["ratio"] else self.ours
        if value is None:
            return None
        return value >= float(bound) if operator == ">=" else value <= float(bound)


def machine() -> dict[str, Any]:
    """What the figures were measured on; those of two kinds are never set side by side.

    ``number_format`` is what networks compute in unless a benchmark's settings say otherwise.
    """
    return {
        "processor": _processor(),
        "flags": _flags(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "number_format": str(fast_dtype("cuda" if torch.cuda.is_available() else "cpu")),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor()


def _flags() -> list[str]:
    """Those of the processor's instruction sets that decide how fast it multiplies."""
    flags = _cpuinfo("flags").split()
    return [flag for flag in flags if flag.startswith(("avx", "amx", "fma", "f16c"))]


def _cpuinfo(field: str) -> str:
    """A field of Linux' description of the first core; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    values = (line.partition(":")[2].strip() for line in lines if line.startswith(field))
    return next(values, "")


def report(name: str, rows: Sequence[Row], **settings: Any) -> None:
    """Print the rows and write ``results/NAME.json``."""
    header = ("figure", "peer", "ours", "theirs", "unit", "ratio", "target", "met")
    table = [header, *(tuple(_spell(v) for v in _values(row).values()) for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(header))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    content = {
        "machine": machine(),
        "settings": settings,
        "rows": [_values(row) for row in rows],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def _values(row: Row) -> dict[str, Any]:
    values = asdict(row)
    order = ("figure", "peer", "ours", "theirs", "unit")
    return {
        **{k: values[k] for k in order},
        "ratio": row.ratio,
        "target": row.target,
        "met": row.met,
    }


def _spell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.3f}" if isinstance(value, float) else str(value)

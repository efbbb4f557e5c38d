"""What Auto3DSeg's data analysis found, case by case."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ctfm.base.errors import UserError

__all__ = ["Case", "Statistics"]


@dataclass(frozen=True)
class Case:
    """One training case; axes SPL.

    Attributes:
        image: path of the image, or of its first channel.
        channels: of the image.
        spacing: mm.
        shape: voxels.
        labels: values that its label holds, background included.
        lowest: value of the image.
        foreground: 0.5th and 99.5th percentile of the image where the label is not background;
            None: there is no such voxel.
    """

    image: str
    channels: int
    spacing: tuple[float, ...]
    shape: tuple[int, ...]
    labels: frozenset[int]
    lowest: float
    foreground: tuple[float, float] | None = None


@dataclass(frozen=True)
class Statistics:
    """All training cases of all folds."""

    cases: tuple[Case, ...]

    @classmethod
    def read(cls, path: str | Path) -> Statistics:
        """Read ``datastats_by_case.yaml``, which the analysis writes beside ``datastats.yaml``.

        Args:
            path: of ``datastats.yaml``.

        Raises:
            UserError: it is not there, or holds no case.
        """
        file = Path(path).with_name(f"{Path(path).stem}_by_case{Path(path).suffix}")
        if not file.is_file():
            raise UserError(f"{file}: no such file: run the data analysis again (analyze=True)")
        # one file of a thousand cases takes minutes without libyaml
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=loader)
        cases = tuple(_case(entry) for entry in content["stats_by_cases"])
        if not cases:
            raise UserError(f"{file}: no case could be analysed: see the analysis' messages")
        return cls(cases)


def _case(entry: dict[str, Any]) -> Case:
    """The analysis works in RAS: its axes, reversed, are those of SPL up to direction."""
    image = entry["image_stats"]
    path = entry["image_filepath"]
    return Case(
        image=str(path[0] if isinstance(path, list) else path),
        channels=int(image["channels"]),
        spacing=tuple(float(s) for s in reversed(image["spacing"])),
        shape=tuple(int(n) for n in reversed(image["shape"][0])),
        labels=frozenset(int(v) for v in entry["label_stats"]["labels"]),
        lowest=min(float(channel["min"]) for channel in image["intensity"]),
        foreground=_foreground(entry),
    )


def _foreground(entry: dict[str, Any]) -> tuple[float, float] | None:
    (first, *_) = entry["image_foreground_stats"]["intensity"]
    low, high = (float(first[f"percentile_{name}"]) for name in ("00_5", "99_5"))
    return (low, high) if math.isfinite(low) and math.isfinite(high) and low < high else None

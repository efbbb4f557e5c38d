"""Operating points: the thresholds at which a probability becomes a decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import roc_curve

from ctfm.base.errors import UserError
from ctfm.base.types import Array

__all__ = ["OperatingPoint", "check_share", "fixed_point", "sensitivity_point", "youden_point"]


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, and what it gave where it was chosen.

    Attributes:
        name: "fixed", "youden" or "sensitive".
        threshold: cases whose probability is at least this are called positive.
        how: how it was chosen, in words.
        sensitivity: of the cases it was chosen on.
        specificity: of these.
    """

    name: str
    threshold: float
    how: str
    sensitivity: float
    specificity: float


def fixed_point(labels: Array, probabilities: Array, threshold: float = 0.5) -> OperatingPoint:
    """A threshold that was chosen beforehand.

    Raises:
        UserError: it lies outside 0..1.
    """
    check_share("threshold", threshold)
    return _point("fixed", float(threshold), f"{threshold:g}, fixed", labels, probabilities)


def youden_point(labels: Array, probabilities: Array) -> OperatingPoint:
    """The threshold with the largest sensitivity + specificity - 1; of several the lowest.

    Youden (Cancer 1950). The lowest, because it misses the fewest.
    """
    false, true, thresholds = _curve(labels, probabilities)
    index = true - false
    best = int(np.flatnonzero(index >= index.max() - 1e-12)[-1])
    how = "largest sensitivity + specificity - 1 (Youden)"
    return _point("youden", _between(thresholds, best), how, labels, probabilities)


def sensitivity_point(
    labels: Array, probabilities: Array, sensitivity: float = 0.95
) -> OperatingPoint:
    """The highest threshold that still finds a share of the positive cases.

    Raises:
        UserError: the share is not above 0 and up to 1.
    """
    check_share("sensitivity", sensitivity, above=0.0)
    _, true, thresholds = _curve(labels, probabilities)
    first = int(np.argmax(true >= sensitivity - 1e-12))
    how = f"highest threshold with a sensitivity of at least {sensitivity:g}"
    return _point("sensitive", _between(thresholds, first), how, labels, probabilities)


def check_share(name: str, value: Any, above: float | None = None) -> None:
    """Refuse what is no number within 0..1.

    Args:
        name: of the option.
        value: of the option.
        above: it has to be larger than this; None: 0 is allowed.

    Raises:
        UserError: the value is out of range.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1 or (above is not None and value <= above):
        least = "0" if above is None else f"above {above:g}"
        raise UserError(f"{name} is {value!r}: give a number from {least} to 1")


def _curve(labels: Array, probabilities: Array) -> tuple[Array, Array, Array]:
    false, true, thresholds = roc_curve(labels, probabilities, drop_intermediate=False)
    return false, true, thresholds


def _between(thresholds: Array, index: int) -> float:
    """Half way to the next lower score: rounding on another device then moves no case across."""
    here = min(float(thresholds[index]), 1.0)  # scikit-learn starts at infinity
    lower = float(thresholds[index + 1]) if index + 1 < len(thresholds) else 0.0
    middle = (here + lower) / 2
    return middle if middle > lower else here


def _point(
    name: str, threshold: float, how: str, labels: Array, probabilities: Array
) -> OperatingPoint:
    called = probabilities >= threshold
    found, passed = float(called[labels == 1].mean()), float(1 - called[labels == 0].mean())
    return OperatingPoint(name, threshold, how, found, passed)

"""Operating points: the thresholds at which a probability becomes a decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import roc_curve

from ctfm.base.options import number_within
from ctfm.base.types import Array

__all__ = ["OperatingPoint", "fixed_point", "sensitivity_point", "youden_point"]


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
    number_within("threshold", threshold, most=1)
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
    number_within("sensitivity", sensitivity, most=1, above=True)
    _, true, thresholds = _curve(labels, probabilities)
    first = int(np.argmax(true >= sensitivity - 1e-12))
    how = f"highest threshold with a sensitivity of at least {sensitivity:g}"
    return _point("sensitive", _between(thresholds, first), how, labels, probabilities)


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

"""Test-retest reliability: the intraclass correlation of each number of a descriptor."""

from __future__ import annotations

import numpy as np

from ctfm.base.types import Array

__all__ = ["intraclass_correlation"]


def intraclass_correlation(first: Array, second: Array, weights: Array | None = None) -> Array:
    """ICC(2,1) of Shrout and Fleiss (1979): two-way random effects, absolute agreement, one scan.

    Args:
        first: features of each subject's first scan, (N, F).
        second: of its second scan, (N, F).
        weights: how often each subject counts, (R, N); None: once.

    Returns:
        (R, F), or (F,) without weights: 1 where both scans always agree, around 0 where they tell
        nothing of the subject; nan where nothing varies.
    """
    counts = np.ones((1, len(first))) if weights is None else weights
    n = counts.sum(axis=1, keepdims=True)
    averages = (first + second) / 2
    grand = counts @ averages / n
    rows = 2 * (counts @ averages**2 - n * grand**2)
    columns = n * (((counts @ first) / n - grand) ** 2 + ((counts @ second) / n - grand) ** 2)
    whole = counts @ (first**2 + second**2) - 2 * n * grand**2
    error = np.maximum(whole - rows - columns, 0)
    between, judges, residual = rows / (n - 1), columns, error / (n - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Array = (between - residual) / (between + residual + 2 * (judges - residual) / n)
    return found[0] if weights is None else found

"""AUROC with DeLong's variance: intervals, and the paired test of two scores on the same cases.

DeLong, DeLong and Clarke-Pearson (Biometrics 1988), computed by midranks as in Sun and Xu (IEEE
Signal Processing Letters 2014), O(n log n) in place of all pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ctfm.base.types import Array
from ctfm.evaluation.intervals import CONFIDENCE

__all__ = ["PairedAuroc", "auroc_interval", "compare_auroc", "delong"]

Z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))


@dataclass(frozen=True)
class PairedAuroc:
    """AUROC of A minus that of B on the same cases.

    Attributes:
        difference: A - B.
        interval: 95 %, difference +- 1.96 standard errors.
        p: two-sided; 1 where both order the cases alike.
    """

    difference: float
    interval: tuple[float, float]
    p: float


def delong(labels: Array, scores: Array) -> tuple[Array, Array]:
    """AUROC of several scores on the same cases, and the covariance of these AUROCs.

    Args:
        labels: (N,), 0 or 1, at least two of each.
        scores: (K, N), higher for 1; ties count one half.

    Returns:
        (K,) and (K, K).
    """
    positives, negatives = scores[:, labels == 1], scores[:, labels == 0]
    above, below = positives.shape[1], negatives.shape[1]
    together = stats.rankdata(np.concatenate([positives, negatives], axis=1), axis=1)
    # each positive's share of negatives below it, each negative's of positives above it
    over = (together[:, :above] - stats.rankdata(positives, axis=1)) / below
    under = 1 - (together[:, above:] - stats.rankdata(negatives, axis=1)) / above
    covariance = np.cov(over) / above + np.cov(under) / below
    return over.mean(axis=1), np.atleast_2d(covariance)


def auroc_interval(area: float, variance: float) -> tuple[float, float] | None:
    """95 % interval of an AUROC, symmetric on the logit scale, so that it stays within 0..1.

    The plain one covers too little near 1 (Qin and Hotilovac, Statistical Methods in Medical
    Research 2008).

    Returns:
        None where the variance vanishes, as with an AUROC of 0 or 1: DeLong's method then says
        nothing about the precision.
    """
    if not 0 < area < 1 or variance <= 0:
        return None
    center = math.log(area / (1 - area))
    half = Z * math.sqrt(variance) / (area * (1 - area))
    return 1 / (1 + math.exp(half - center)), 1 / (1 + math.exp(-half - center))


def compare_auroc(labels: Array, a: Array, b: Array) -> PairedAuroc:
    """DeLong's test of two scores on the same cases.

    Args:
        labels: (N,), 0 or 1, at least two of each.
        a: (N,), one score.
        b: (N,), the other.
    """
    areas, covariance = delong(labels, np.stack([a, b]))
    difference = float(areas[0] - areas[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    error = math.sqrt(variance) if variance > 1e-16 else 0.0
    if error:
        p = float(2 * stats.norm.sf(abs(difference) / error))
    else:  # every case stands alike in both, or the areas are 0 and 1
        p = 1.0 if abs(difference) < 1e-12 else math.nan
    return PairedAuroc(difference, (difference - Z * error, difference + Z * error), p)

"""Means and ratios over cases, with 95 % bootstrap intervals; nan means that there is no value."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

__all__ = [
    "CONFIDENCE",
    "Estimate",
    "estimate_mean",
    "estimate_ratio",
    "estimate_weighted",
    "mean",
]

CONFIDENCE = 0.95
#: An interval over one or two cases would only look like one.
MIN_CASES_FOR_INTERVAL = 3
#: Resamples whose figures are computed at once.
BLOCK = 100
NAN = float("nan")


@dataclass(frozen=True)
class Estimate:
    """A mean, or a ratio of sums, over cases.

    Attributes:
        mean: nan where no case has a value.
        cases: how many cases have a value.
        interval: 95 % bootstrap interval over cases; None below three cases.
    """

    mean: float
    cases: int
    interval: tuple[float, float] | None


def mean(values: Iterable[float]) -> float:
    """Mean of the values that are not nan; nan where there are none."""
    present = [v for v in values if not math.isnan(v)]
    return math.fsum(present) / len(present) if present else NAN


def estimate_mean(values: Sequence[float], seed: int, resamples: int) -> Estimate:
    """Mean over cases.

    Args:
        values: one a case; nan: the case has none.
        seed: of the resampling.
        resamples: bootstrap resamples (percentile method).
    """
    present = [v for v in values if not math.isnan(v)]
    return Estimate(mean(present), len(present), _interval((present,), np.mean, seed, resamples))


def estimate_ratio(
    parts: Sequence[float], wholes: Sequence[float], seed: int, resamples: int
) -> Estimate:
    """Sum of the parts by the sum of the wholes, such as lesions found by lesions there.

    What is counted within one case hangs together, so whole cases are resampled.

    Args:
        parts: one a case, such as the lesions that were found.
        wholes: one a case, such as the lesions there are; cases with 0 say nothing.
        seed: of the resampling.
        resamples: bootstrap resamples (percentile method).
    """
    pairs = [(part, whole) for part, whole in zip(parts, wholes, strict=True) if whole > 0]
    if not pairs:
        return Estimate(NAN, 0, None)
    above, below = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
    found = _interval((above, below), _ratio, seed, resamples)
    return Estimate(float(above.sum() / below.sum()), len(pairs), found)


def estimate_weighted(
    statistic: Callable[[Any], Any], cases: int, seed: int, resamples: int
) -> Estimate:
    """Any figure that can be had of weighted cases, such as one of pairs of them.

    A resample is how often each case was drawn. The same seed and number of cases draw the same, so
    that figures of one run go together.

    Args:
        statistic: weights (R, cases), float, to figures (R,); nan: there is none.
        cases: how many there are.
        seed: of the resampling.
        resamples: bootstrap resamples (percentile method); those without a figure are left out.
    """
    value = float(np.asarray(statistic(np.ones((1, cases))))[0])
    if cases < MIN_CASES_FOR_INTERVAL or math.isnan(value):
        return Estimate(value, cases, None)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(cases, np.full(cases, 1 / cases), resamples).astype(float)
    blocks = [drawn[i : i + BLOCK] for i in range(0, resamples, BLOCK)]
    found = np.concatenate([np.asarray(statistic(block)) for block in blocks])
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.nanpercentile(found, [tail, 100 - tail])
    return Estimate(value, cases, (float(low), float(high)))


def _ratio(parts: Any, wholes: Any, axis: int = -1) -> Any:
    return parts.sum(axis=axis) / wholes.sum(axis=axis)


def _interval(
    samples: tuple[Any, ...], statistic: Callable[..., Any], seed: int, resamples: int
) -> tuple[float, float] | None:
    if len(samples[0]) < MIN_CASES_FOR_INTERVAL:
        return None
    found = stats.bootstrap(
        samples,
        statistic,
        paired=len(samples) > 1,
        n_resamples=resamples,
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(seed),  # SciPy below 1.15 does not know `rng`
    ).confidence_interval
    return float(found.low), float(found.high)

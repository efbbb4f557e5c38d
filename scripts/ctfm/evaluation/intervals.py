"""Means and ratios over cases, with 95 % bootstrap intervals; nan means that there is no value."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ctfm.base.tables import number
from ctfm.base.types import Array

__all__ = [
    "CONFIDENCE",
    "Estimate",
    "Interval",
    "bootstrap_settings",
    "estimate_mean",
    "estimate_ratio",
    "estimate_weighted",
    "interval_text",
    "mean",
    "percentile_interval",
    "resampled_weights",
    "value_text",
]

#: Lower and upper end; None where there is none.
Interval = tuple[float, float] | None

CONFIDENCE = 0.95
PERCENTILES = (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE))
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
    interval: Interval


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
    present = np.array([v for v in values if not math.isnan(v)], dtype=float)
    found = _interval((present,), lambda drawn: drawn.mean(axis=-1), seed, resamples)
    return Estimate(mean(present), len(present), found)


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
    found = _interval((above, below), lambda a, b: a.sum(-1) / b.sum(-1), seed, resamples)
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
    drawn = resampled_weights(cases, resamples, seed)
    figures = np.concatenate([np.asarray(statistic(weights)) for weights in drawn])
    return Estimate(value, cases, percentile_interval(figures))


def resampled_weights(
    drawn_from: int,
    resamples: int,
    seed: int,
    block: int = BLOCK,
    usable: Callable[[Array], Array] | None = None,
) -> Iterator[Array]:
    """How often each of what is drawn with replacement is in a resample, block by block.

    Args:
        drawn_from: how many cases (or subjects) there are; a resample draws as many.
        resamples: how many there are in all.
        seed: the same seed gives the same resamples, whatever the block.
        block: resamples that are drawn at once, at most.
        usable: draws (R, drawn_from) to the weights of those that count, (some, N); what it leaves
            out is drawn again.

    Yields:
        (some, drawn_from), or what `usable` makes of it, float.
    """
    rng, left = np.random.default_rng(seed), resamples
    while left:
        shares = np.full(drawn_from, 1 / drawn_from)
        weights = rng.multinomial(drawn_from, shares, min(left, block)).astype(float)
        if usable is not None:
            weights = usable(weights)
        left -= len(weights)
        if len(weights):
            yield weights


def percentile_interval(figures: Array) -> Interval:
    """95 % interval of the figures of resamples (R,); those that are nan are left out."""
    present = figures[~np.isnan(figures)]
    if not present.size:
        return None
    low, high = np.percentile(present, PERCENTILES)
    return float(low), float(high)


def _interval(
    columns: tuple[Array, ...], statistic: Callable[..., Array], seed: int, resamples: int
) -> Interval:
    """Interval of a statistic of columns (N,), of which the same cases are drawn."""
    cases = len(columns[0])
    if cases < MIN_CASES_FOR_INTERVAL:
        return None
    drawn = np.random.default_rng(seed).integers(0, cases, (resamples, cases))
    return percentile_interval(statistic(*(column[drawn] for column in columns)))


def bootstrap_settings(seed: int, resamples: int) -> dict[str, Any]:
    """How the intervals of a report came about, for its JSON."""
    return {
        "over": "cases",
        "method": "percentile",
        "confidence": CONFIDENCE,
        "resamples": resamples,
        "seed": seed,
    }


def interval_text(ends: Interval, digits: int = 3) -> str:
    """An interval as ``0.901 to 0.955``; "-" where there is none."""
    return "-" if ends is None else " to ".join(number(end, digits) for end in ends)


def value_text(value: float, ends: Interval, digits: int = 3) -> str:
    """A value as ``0.932 (0.901 to 0.955)``; the value alone where there is no interval."""
    text = number(value, digits)
    return text if ends is None else f"{text} ({interval_text(ends, digits)})"

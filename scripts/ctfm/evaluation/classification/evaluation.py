"""A classifier's figures with intervals, and the differences between two of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ctfm.base.errors import UserError
from ctfm.base.types import Array
from ctfm.evaluation.classification.delong import auroc_interval, compare_auroc, delong
from ctfm.evaluation.classification.figures import PROPORTIONS, Key, counts, distributions, figures
from ctfm.evaluation.classification.points import OperatingPoint
from ctfm.evaluation.classification.predictions import Predictions, Scores
from ctfm.evaluation.intervals import CONFIDENCE, percentile_interval

__all__ = ["BINS", "Difference", "Evaluation", "Figure", "evaluate"]

BINS = 10
DELONG, BOOTSTRAP, WILSON = "DeLong", "bootstrap", "Wilson"
MCNEMAR = "McNemar, exact"


@dataclass(frozen=True)
class Figure:
    """One figure of one score.

    Attributes:
        score: the column.
        figure: key of `ctfm.evaluation.classification.figures.TITLES`.
        point: operating point; "" for a figure that needs none.
        threshold: of the operating point; None without one.
        value: nan where the figure does not exist.
        interval: 95 %; None where there is none.
        method: of the interval.
    """

    score: str
    figure: str
    point: str
    threshold: float | None
    value: float
    interval: tuple[float, float] | None
    method: str


@dataclass(frozen=True)
class Difference:
    """A figure of the first score minus that of the second, on the same cases.

    Attributes:
        figure: key of `ctfm.evaluation.classification.figures.TITLES`.
        point: operating point; "" for a figure that needs none.
        a: of the first score.
        b: of the second.
        difference: a - b.
        interval: 95 % of the difference; None where there is none.
        p: two-sided; nan where there is none.
        test: of which p is.
    """

    figure: str
    point: str
    a: float
    b: float
    difference: float
    interval: tuple[float, float] | None
    p: float
    test: str


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found, and with which settings.

    Attributes:
        predictions: the cases.
        points: score -> its operating points.
        figures: of all scores.
        differences: of the first score and the second, where there are two.
        seed: of the bootstrap.
        resamples: of the bootstrap.
        bins: of the calibration error.
    """

    predictions: Predictions
    points: Mapping[str, Sequence[OperatingPoint]]
    figures: tuple[Figure, ...]
    differences: tuple[Difference, ...]
    seed: int
    resamples: int
    bins: int


def evaluate(
    predictions: Predictions,
    points: Mapping[str, Sequence[OperatingPoint]],
    *,
    seed: int = 0,
    resamples: int = 1000,
    bins: int = BINS,
) -> Evaluation:
    """Figures with 95 % intervals, and paired differences where there are two scores.

    AUROC has DeLong's interval and shares of cases (sensitivity, …) have Wilson's; the others have
    percentiles of a bootstrap over cases. With subjects, all are of a bootstrap over subjects, and
    so are all tests. Thresholds stay as they are in every resample. Where a bin holds few cases,
    the calibration error is too large, and its interval even more so.

    Args:
        predictions: cases.
        points: score -> operating points.
        seed: of the bootstrap; the same seed gives the same intervals.
        resamples: of the bootstrap.
        bins: of the calibration error.

    Raises:
        UserError: an option is out of range.
    """
    for name, value, least in (("resamples", resamples, 100), ("bins", bins, 2)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(f"{name} is {value!r}: give a whole number from {least}")
    thresholds = {name: {one.name: one.threshold for one in some} for name, some in points.items()}
    drawn = distributions(predictions, thresholds, resamples, seed, bins)
    ones = np.ones((1, predictions.cases))
    values = {
        score.name: {
            key: float(some[0])
            for key, some in figures(
                predictions.labels, score, thresholds[score.name], ones, bins
            ).items()
        }
        for score in predictions.scores
    }
    found = [
        _figure(predictions, score, key, thresholds[score.name].get(key[1]), value, drawn)
        for score in predictions.scores
        for key, value in values[score.name].items()
    ]
    differences = _differences(predictions, thresholds, values, drawn)
    return Evaluation(predictions, points, tuple(found), differences, seed, resamples, bins)


def _figure(
    predictions: Predictions,
    score: Scores,
    key: Key,
    threshold: float | None,
    value: float,
    drawn: Mapping[str, Mapping[Key, Array]],
) -> Figure:
    interval, method = percentile_interval(drawn[score.name][key]), BOOTSTRAP
    if predictions.subjects is None and key[0] == "auroc":
        areas, covariance = delong(predictions.labels, score.ranks[None])
        interval, method = auroc_interval(float(areas[0]), float(covariance[0, 0])), DELONG
    elif predictions.subjects is None and key[0] in PROPORTIONS:
        interval, method = _wilson(predictions, score, key[0], float(threshold or 0)), WILSON
    return Figure(score.name, *key, threshold, value, interval, method)


def _wilson(
    predictions: Predictions, score: Scores, figure: str, threshold: float
) -> tuple[float, float] | None:
    """Wilson (JASA 1927): sound for few cases and shares of 0 and 1, unlike the bootstrap."""
    called = score.probabilities >= threshold
    table = counts(predictions.labels, called, np.ones((1, predictions.cases)))[0]
    above, below = (int(table[list(index)].sum()) for index in PROPORTIONS[figure])
    if not below:
        return None
    found = stats.binomtest(above, below).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def _differences(
    predictions: Predictions,
    thresholds: Mapping[str, Mapping[str, float]],
    values: Mapping[str, Mapping[Key, float]],
    drawn: Mapping[str, Mapping[Key, Array]],
) -> tuple[Difference, ...]:
    if len(predictions.scores) < 2:
        return ()
    a, b = predictions.scores[:2]
    found = []
    for key in values[a.name]:
        one, other = values[a.name][key], values[b.name][key]
        resampled = drawn[a.name][key] - drawn[b.name][key]
        interval, p, test = percentile_interval(resampled), _bootstrap_p(resampled), BOOTSTRAP
        if predictions.subjects is None and key[0] == "auroc":
            paired = compare_auroc(predictions.labels, a.ranks, b.ranks)
            interval, p, test = paired.interval, paired.p, DELONG
        elif predictions.subjects is None and key[0] in ("sensitivity", "specificity", "accuracy"):
            p, test = _mcnemar(predictions, key, (a, b), thresholds), MCNEMAR
        found.append(Difference(*key, one, other, one - other, interval, p, test))
    return tuple(found)


def _bootstrap_p(differences: Array) -> float:
    """Two-sided: twice the smaller share of resamples on one side of 0, each counted with 0."""
    present = differences[~np.isnan(differences)]
    if not present.size:
        return math.nan
    fewer = min((present <= 1e-12).sum(), (present >= -1e-12).sum())
    return float(min(1.0, 2 * (fewer + 1) / (present.size + 1)))


def _mcnemar(
    predictions: Predictions,
    key: Key,
    scores: tuple[Scores, Scores],
    thresholds: Mapping[str, Mapping[str, float]],
) -> float:
    """McNemar's test (Psychometrika 1947), exact: of the cases that only one score has right."""
    labels = predictions.labels
    a, b = (
        (score.probabilities >= thresholds[score.name][key[1]]) == (labels == 1) for score in scores
    )
    asked = {"sensitivity": labels == 1, "specificity": labels == 0}.get(key[0], labels >= 0)
    only_a, only_b = int((a & ~b & asked).sum()), int((b & ~a & asked).sum())
    if not only_a + only_b:
        return 1.0
    return float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)

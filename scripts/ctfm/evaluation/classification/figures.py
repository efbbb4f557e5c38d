"""Figures of a classifier, of the cases as they are and of many resamples of them at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from ctfm.base.types import Array
from ctfm.evaluation.classification.predictions import Predictions, Scores
from ctfm.evaluation.intervals import resampled_weights

__all__ = [
    "FREE",
    "PROPORTIONS",
    "THRESHOLDED",
    "TITLES",
    "Key",
    "counts",
    "distributions",
    "figures",
    "resampled",
]

#: (figure, operating point); "": the figure needs no threshold.
Key = tuple[str, str]

FREE = ("auroc", "average_precision", "brier", "ece")
THRESHOLDED = (
    "f1",
    "macro_f1",
    "sensitivity",
    "specificity",
    "balanced_accuracy",
    "accuracy",
    "ppv",
    "npv",
)
#: Shares of cases that are counted one by one, with their (numerator, denominator) as indices into
#: `counts`: tp, fp, fn, tn.
PROPORTIONS = {
    "sensitivity": ((0,), (0, 2)),
    "specificity": ((3,), (1, 3)),
    "accuracy": ((0, 3), (0, 1, 2, 3)),
    "ppv": ((0,), (0, 1)),
    "npv": ((3,), (2, 3)),
}
TITLES = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "brier": "Brier score",
    "ece": "calibration error",
    "f1": "F1",
    "macro_f1": "macro-F1",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "ppv": "PPV",
    "npv": "NPV",
}
#: Resamples that are worked on together: at most so many, and so many cases in all of them.
LOT, LOT_CASES = 128, 1 << 21


def figures(
    labels: Array, score: Scores, thresholds: Mapping[str, float], weights: Array, bins: int
) -> dict[Key, Array]:
    """All figures of one score, for several weightings of the cases.

    Args:
        labels: (N,), 0 or 1.
        score: of the same cases.
        thresholds: operating point -> threshold.
        weights: (B, N), how often each case counts; ones: the cases as they are.
        bins: of the calibration error: of equal width over 0..1 (Naeini and others, AAAI 2015),
            the mean distance of the mean probability from the share of positives.

    Returns:
        (B,) each; nan where a figure does not exist, as the PPV without a positive call.
    """
    area, precision = _ranking(labels, score.ranks, weights)
    total = weights.sum(axis=1)
    shares = score.probabilities
    member = _bins(shares, bins)[:, None] == np.arange(bins)
    gaps = weights @ (member * (shares - labels)[:, None])
    found: dict[Key, Array] = {
        ("auroc", ""): area,
        ("average_precision", ""): precision,
        ("brier", ""): weights @ np.square(shares - labels) / total,
        ("ece", ""): np.abs(gaps).sum(axis=1) / total,
    }
    for point, threshold in thresholds.items():
        table = counts(labels, shares >= threshold, weights)
        found |= {(name, point): values for name, values in _thresholded(table).items()}
    return found


def _bins(shares: Array, bins: int) -> Array:
    """The bin of each probability; 1 is in the last."""
    return np.asarray(np.minimum((shares * bins).astype(int), bins - 1))


def _ranking(labels: Array, ranks: Array, weights: Array) -> tuple[Array, Array]:
    """AUROC and average precision (B,), as scikit-learn defines them, for weights (B, N).

    scikit-learn computes one weighting a call, some fifty times as slow for a bootstrap.
    """
    if len(weights) == 1 and (weights == 1).all():
        area, precision = roc_auc_score(labels, ranks), average_precision_score(labels, ranks)
        return np.array([area]), np.array([precision])
    order = np.argsort(-ranks, kind="stable")
    last = np.append(np.flatnonzero(np.diff(ranks[order])), len(ranks) - 1)  # of equal ranks
    sorted_weights, truth = weights[:, order], labels[order]
    true, false = (np.cumsum(sorted_weights * side, axis=1)[:, last] for side in (truth, 1 - truth))
    steps, across = (np.diff(one, axis=1, prepend=0) for one in (true, false))
    positives, negatives = true[:, -1], false[:, -1]
    area = (across * (true - steps / 2)).sum(axis=1) / (positives * negatives)
    precision = true / np.maximum(true + false, 1e-12)  # nothing is above the first case drawn
    return area, (steps * precision).sum(axis=1) / positives


def counts(labels: Array, called: Array, weights: Array) -> Array:
    """True and false positives, false and true negatives (B, 4), for weights (B, N)."""
    truth, call = labels.astype(bool), called.astype(bool)
    cells = np.stack([truth & call, ~truth & call, truth & ~call, ~truth & ~call], axis=1)
    return np.asarray(weights @ cells.astype(float))


def _thresholded(table: Array) -> dict[str, Array]:
    tp, fp, fn, tn = table.T
    with np.errstate(invalid="ignore", divide="ignore"):
        f1, f1_of_negatives = (2 * one / (2 * one + fp + fn) for one in (tp, tn))
        shares = {
            name: table[:, above].sum(axis=1) / table[:, below].sum(axis=1)
            for name, (above, below) in PROPORTIONS.items()
        }
    both = (shares["sensitivity"] + shares["specificity"]) / 2
    return {"f1": f1, "macro_f1": (f1 + f1_of_negatives) / 2, "balanced_accuracy": both, **shares}


def distributions(
    predictions: Predictions,
    thresholds: Mapping[str, Mapping[str, float]],
    resamples: int,
    seed: int,
    bins: int,
) -> dict[str, dict[Key, Array]]:
    """The figures of every score in the same bootstrap resamples, so that they can be subtracted.

    Args:
        predictions: cases; subjects are resampled where they are known.
        thresholds: score -> operating point -> threshold, which stay as they are.
        resamples: how many.
        seed: the same seed gives the same resamples.
        bins: of the calibration error.

    Returns:
        Score -> figure -> (resamples,).
    """
    lots: dict[str, list[dict[Key, Array]]] = {score.name: [] for score in predictions.scores}
    for weights in resampled(predictions, resamples, seed):
        for score in predictions.scores:
            some = figures(predictions.labels, score, thresholds[score.name], weights, bins)
            lots[score.name].append(some)
    return {
        name: {key: np.concatenate([lot[key] for lot in some]) for key in some[0]}
        for name, some in lots.items()
    }


def resampled(predictions: Predictions, resamples: int, seed: int) -> Iterator[Array]:
    """How often each case is drawn, (some, N) at a time.

    Cases are drawn with replacement; with subjects, whole subjects are. A resample without one of
    the classes has no AUROC and is drawn again.
    """
    lot = max(1, min(LOT, LOT_CASES // predictions.cases))
    subjects = predictions.subjects
    count = predictions.cases if subjects is None else int(subjects.max()) + 1
    truth = predictions.labels.astype(bool)

    def of_both_classes(drawn: Array) -> Array:
        weights = drawn if subjects is None else drawn[:, subjects]
        return weights[weights[:, truth].any(axis=1) & weights[:, ~truth].any(axis=1)]

    return resampled_weights(count, resamples, seed, lot, of_both_classes)

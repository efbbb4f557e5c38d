"""Figures and intervals of a classifier: against scikit-learn, by hand, and in simulations."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn import metrics

from ctfm.base.errors import UserError
from ctfm.evaluation.classification.evaluation import Evaluation, evaluate
from ctfm.evaluation.classification.figures import THRESHOLDED, figures, resampled
from ctfm.evaluation.classification.points import fixed_point, youden_point
from ctfm.evaluation.classification.predictions import Predictions, predictions_of


def simulated(
    count: int = 120, seed: int = 0, columns: int = 1, ties: bool = False
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % 3 == 0).astype(int)
    shared = 1.5 * labels + rng.normal(size=count)
    scores = {f"s{i}": expit(shared - 1 + rng.normal(size=count)) for i in range(columns)}
    return labels, {k: v.round(1) if ties else v for k, v in scores.items()}


def evaluated(predictions: Predictions, threshold: float = 0.5, **options: Any) -> Evaluation:
    points = {
        one.name: [fixed_point(predictions.labels, one.probabilities, threshold)]
        for one in predictions.scores
    }
    return evaluate(predictions, points, **{"resamples": 200, **options})


def values(found: Evaluation, score: str = "s0") -> dict[str, float]:
    return {one.figure: one.value for one in found.figures if one.score == score}


@pytest.mark.parametrize("ties", [False, True])
def test_figures_are_scikit_learns(ties: bool) -> None:
    labels, scores = simulated(ties=ties)
    shares, called = scores["s0"], scores["s0"] >= 0.4
    found = values(evaluated(predictions_of(labels, scores), 0.4))
    assert found == pytest.approx(
        {
            "auroc": metrics.roc_auc_score(labels, shares),
            "average_precision": metrics.average_precision_score(labels, shares),
            "brier": metrics.brier_score_loss(labels, shares),
            "ece": slow_error(labels, shares),
            "f1": metrics.f1_score(labels, called),
            "macro_f1": metrics.f1_score(labels, called, average="macro"),
            "balanced_accuracy": metrics.balanced_accuracy_score(labels, called),
            "sensitivity": metrics.recall_score(labels, called),
            "specificity": metrics.recall_score(labels, called, pos_label=0),
            "accuracy": metrics.accuracy_score(labels, called),
            "ppv": metrics.precision_score(labels, called),
            "npv": metrics.precision_score(labels, called, pos_label=0),
        }
    )
    assert set(THRESHOLDED) < set(found)


@pytest.mark.parametrize("ties", [False, True])
def test_figures_of_resamples_are_scikit_learns(ties: bool) -> None:
    labels, scores = simulated(50, ties=ties)
    predictions = predictions_of(labels, scores)
    weights = np.concatenate(list(resampled(predictions, 20, 0)))
    found = figures(labels, predictions.scores[0], {"fixed": 0.4}, weights, 10)
    shares, called = scores["s0"], scores["s0"] >= 0.4
    for figure, of, what in (
        ("auroc", metrics.roc_auc_score, shares),
        ("average_precision", metrics.average_precision_score, shares),
        ("brier", metrics.brier_score_loss, shares),
        ("f1", metrics.f1_score, called),
        ("balanced_accuracy", metrics.balanced_accuracy_score, called),
    ):
        point = "fixed" if of in (metrics.f1_score, metrics.balanced_accuracy_score) else ""
        slow = [of(labels, what, sample_weight=some) for some in weights]
        assert found[figure, point] == pytest.approx(slow)


def slow_error(labels: np.ndarray, shares: np.ndarray, bins: int = 10) -> float:
    """The expected calibration error, bin by bin."""
    error = 0.0
    for low, high in pairwise(np.linspace(0, 1, bins + 1)):
        last = math.isclose(high, 1)
        here = (shares >= low - 1e-12) & ((shares < high - 1e-12) | last)
        if here.any():
            error += here.mean() * abs(labels[here].mean() - shares[here].mean())
    return error


def test_calibration_error_by_hand() -> None:
    """Probability 0.9 for all of ten cases, of which half are positive: 0.4; bins do not matter."""
    labels = [0, 1] * 5
    for bins in (2, 10, 15):
        found = evaluated(predictions_of(labels, {"s0": [0.9] * 10}), bins=bins)
        assert values(found)["ece"] == pytest.approx(0.4)
    perfect = evaluated(predictions_of(labels, {"s0": [float(one) for one in labels]}))
    assert values(perfect)["ece"] == values(perfect)["brier"] == 0


def test_monotone_changes_leave_what_orders_alone() -> None:
    labels, scores = simulated()
    one = evaluated(predictions_of(labels, scores))
    other = evaluated(predictions_of(labels, {"s0": scores["s0"] ** 3}))
    for figure in ("auroc", "average_precision"):
        assert values(one)[figure] == pytest.approx(values(other)[figure])
    assert values(one)["brier"] != pytest.approx(values(other)["brier"])


def test_logits_are_probabilities_and_large_ones_keep_their_order() -> None:
    labels, scores = simulated()
    raw = {"s0": logit(scores["s0"])}
    one = values(evaluated(predictions_of(labels, scores)))
    assert values(evaluated(predictions_of(labels, raw, logits=True))) == pytest.approx(one)
    large = {"s0": 1000 + 100 * raw["s0"]}
    found = values(evaluated(predictions_of(labels, large, logits=True)))
    assert found["auroc"] == pytest.approx(one["auroc"])
    cool = predictions_of(labels, raw, logits=True, temperature=2.0)
    assert cool.scores[0].probabilities == pytest.approx(expit(raw["s0"] / 2))


def test_methods_and_intervals() -> None:
    labels, scores = simulated()
    found = evaluated(predictions_of(labels, scores))
    methods = {one.figure: one.method for one in found.figures}
    assert methods["auroc"] == "DeLong"
    assert methods["sensitivity"] == methods["npv"] == "Wilson"
    assert methods["f1"] == methods["ece"] == methods["average_precision"] == "bootstrap"
    for one in found.figures:
        low, high = one.interval or (1, 0)
        assert low < high
        if one.figure != "ece":
            assert low <= one.value <= high


def test_wilson_by_hand() -> None:
    """10 of 10: from 1 / (1 + z^2 / n) on, unlike the bootstrap's 1 to 1."""
    labels = np.repeat([1, 0], 10)
    found = evaluated(predictions_of(labels, {"s0": labels * 0.8 + 0.1}))
    interval = next(one.interval for one in found.figures if one.figure == "sensitivity")
    assert interval == pytest.approx((1 / (1 + 1.959964**2 / 10), 1), abs=1e-6)
    assert next(one.interval for one in found.figures if one.figure == "auroc") is None


def test_bootstrap_is_that_of_drawn_cases() -> None:
    labels, scores = simulated(60)
    shares = scores["s0"]
    found = evaluated(predictions_of(labels, scores), resamples=2000)
    interval = next(one.interval for one in found.figures if one.figure == "average_precision")
    rng = np.random.default_rng(9)
    drawn = []
    for _ in range(2000):
        some = rng.integers(0, 60, 60)
        drawn.append(metrics.average_precision_score(labels[some], shares[some]))
    assert interval == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.03)


def test_bootstrap_covers_the_truth() -> None:
    """Brier score of calibrated probabilities, uniform on 0..1: E p (1 - p) = 1/6."""
    rng = np.random.default_rng(0)
    inside, runs = 0, 150
    for run in range(runs):
        shares = rng.random(60)
        labels = (rng.random(60) < shares).astype(int)
        found = evaluated(predictions_of(labels, {"s0": shares}), seed=run)
        low, high = next(one.interval for one in found.figures if one.figure == "brier") or (1, 0)
        inside += low <= 1 / 6 <= high
    assert 0.89 <= inside / runs <= 0.99


def test_subjects_are_drawn_as_a_whole() -> None:
    labels, scores = simulated(40)
    subjects = [f"p{i // 4}" for i in range(40)]
    predictions = predictions_of(labels, scores, subjects)
    for weights in resampled(predictions, 50, 0):
        grouped = weights.reshape(len(weights), 10, 4)
        assert (grouped == grouped[..., :1]).all()
        assert (weights.sum(axis=1) == 40).all()


def test_copied_cases_do_not_narrow_intervals_over_subjects() -> None:
    labels, scores = simulated(60)
    names = [str(i) for i in range(60)]
    one = evaluated(predictions_of(labels, scores, names))
    four = evaluated(
        predictions_of(np.tile(labels, 4), {"s0": np.tile(scores["s0"], 4)}, names * 4)
    )
    narrow = evaluated(predictions_of(np.tile(labels, 4), {"s0": np.tile(scores["s0"], 4)}))
    for a, b, c in zip(one.figures, four.figures, narrow.figures, strict=True):
        assert a.method == b.method == "bootstrap"
        assert a.interval == pytest.approx(b.interval)
        assert a.interval is not None
        assert c.interval is not None
        assert c.interval[1] - c.interval[0] < 0.75 * (a.interval[1] - a.interval[0])


def test_resamples_hold_both_classes() -> None:
    labels = [1, 1, *[0] * 10]
    predictions = predictions_of(labels, {"s0": np.linspace(0, 1, 12)})
    drawn = np.concatenate(list(resampled(predictions, 300, 0)))
    assert len(drawn) == 300
    assert (drawn[:, :2].sum(axis=1) > 0).all()


def test_same_figures_on_every_run() -> None:
    predictions = predictions_of(*simulated(columns=2))
    one, other = (evaluated(predictions) for _ in range(2))
    assert (one.figures, one.differences) == (other.figures, other.differences)
    assert evaluated(predictions, seed=1).figures != one.figures


# --- two scores -----------------------------------------------------------------------------


def differences(found: Evaluation) -> dict[str, Any]:
    return {one.figure: one for one in found.differences}


def test_mcnemar_by_hand() -> None:
    """Of 20 positives A alone has 6 right and B alone 1: p = 2 (C(7,0) + C(7,1)) / 2^7 = 1/8."""
    labels = np.repeat([1, 0], 20)
    a, b = np.full(40, 0.9), np.full(40, 0.9)
    a[20:] = b[20:] = 0.1
    a[:1], b[1:7] = 0.1, 0.1
    found = differences(evaluated(predictions_of(labels, {"a": a, "b": b})))
    assert found["sensitivity"].p == pytest.approx(0.125)
    assert found["sensitivity"].difference == pytest.approx(0.25)
    assert found["sensitivity"].test == "McNemar, exact"
    assert found["accuracy"].p == pytest.approx(0.125)
    assert found["specificity"].p == 1
    assert found["auroc"].test == "DeLong"


def test_exchanged_scores_give_the_opposite() -> None:
    labels, scores = simulated(columns=2)
    swapped = {name: scores[name] for name in ("s1", "s0")}
    one = differences(evaluated(predictions_of(labels, scores)))
    other = differences(evaluated(predictions_of(labels, swapped)))
    for name, found in one.items():
        assert found.difference == pytest.approx(-other[name].difference)
        assert found.p == pytest.approx(other[name].p)
        low, high = other[name].interval
        assert found.interval == pytest.approx((-high, -low))


def test_equal_scores_do_not_differ() -> None:
    labels, scores = simulated()
    found = evaluated(predictions_of(labels, {"a": scores["s0"], "b": scores["s0"].copy()}))
    assert all(one.p == 1 and one.difference == 0 for one in found.differences)


def test_a_better_score_is_found_better_by_every_test() -> None:
    labels, scores = simulated(300)
    worse = np.random.default_rng(1).permutation(scores["s0"])
    for subjects in (None, [str(i) for i in range(300)]):
        found = evaluated(predictions_of(labels, {"a": scores["s0"], "b": worse}, subjects))
        for name in ("auroc", "average_precision", "f1", "balanced_accuracy", "accuracy"):
            one = differences(found)[name]
            assert one.p < 0.02
            assert one.interval is not None
            assert one.interval[0] > 0
        assert (differences(found)["auroc"].test == "bootstrap") is (subjects is not None)


def test_bootstrap_test_rejects_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    p_values = []
    for run in range(150):
        labels = np.repeat([1, 0], 40)
        shared = labels + rng.normal(size=80)
        scores = {name: expit(shared + rng.normal(size=80)) for name in "ab"}
        found = differences(evaluated(predictions_of(labels, scores), seed=run))
        p_values.append(found["brier"].p)
    assert np.mean(np.array(p_values) < 0.05) <= 0.1


# --- what does not exist, and what is refused -----------------------------------------------


def test_no_positive_call_has_no_ppv() -> None:
    labels, _ = simulated()
    found = evaluated(predictions_of(labels, {"s0": np.full(120, 0.2)}))
    one = next(one for one in found.figures if one.figure == "ppv")
    assert math.isnan(one.value)
    assert one.interval is None
    assert values(found)["f1"] == 0
    assert values(found)["auroc"] == 0.5


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1] * 4, [0.5] * 8, "8 cases, and 10 are the least"),
        ([1] * 12, [0.5] * 12, "12 of 12 cases are positive, and at least 2 of each class"),
        ([1, *[0] * 11], [0.5] * 12, "1 of 12 cases are positive"),
        ([0, 1] * 6, [0.5] * 11, r"lengths differ \(12 labels, 11 s0\)"),
        ([0, 1] * 6, [0.5] * 11 + [1.5], r"1 of 12 lie outside 0..1 .* pass --logits"),
        ([0, 1] * 6, [0.5] * 11 + [math.nan], r"1 of 12 are missing .*first: case 12"),
        ([0, 2] * 6, [0.5] * 12, "not all 0 or 1"),
    ],
)
def test_cases_that_are_refused(labels: list[int], scores: list[float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        predictions_of(labels, {"s0": scores})


def test_options_that_are_refused() -> None:
    predictions = predictions_of(*simulated())
    for options, message in (
        ({"resamples": 10}, "resamples is 10: give a whole number from 100"),
        ({"bins": 1}, "bins is 1"),
        ({"bins": 2.5}, r"bins is 2\.5"),
    ):
        with pytest.raises(UserError, match=message):
            evaluated(predictions, **options)
    with pytest.raises(UserError, match="lengths differ"):
        predictions_of(*simulated(), subjects=["a"])


def test_operating_points_of_each_score() -> None:
    predictions = predictions_of(*simulated(columns=2))
    points = {
        one.name: [youden_point(predictions.labels, one.probabilities)]
        for one in predictions.scores
    }
    found = evaluate(predictions, points, resamples=100)
    thresholds = {one.score: one.threshold for one in found.figures if one.point == "youden"}
    assert thresholds == {name: some[0].threshold for name, some in points.items()}
    assert {one.point for one in found.differences} == {"", "youden"}

"""AUROC and its variance, against all pairs and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ctfm.evaluation.classification.delong import auroc_interval, compare_auroc, delong


def pairwise(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DeLong's equations 3 to 5 as they stand: every positive against every negative."""

    def psi(x: float, y: float) -> float:
        return 1.0 if x > y else 0.5 if x == y else 0.0

    positives, negatives = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    m, n, k = len(positives), len(negatives), len(scores)
    table = np.array(
        [[[psi(row[i], row[j]) for j in negatives] for i in positives] for row in scores]
    )
    areas = table.mean(axis=(1, 2))
    covariance = np.zeros((k, k))
    for r in range(k):
        for s in range(k):
            v10 = [table[[r, s], i].mean(axis=1) - areas[[r, s]] for i in range(m)]
            v01 = [table[[r, s], :, j].mean(axis=1) - areas[[r, s]] for j in range(n)]
            s10 = sum(a * b for a, b in v10) / (m - 1)
            s01 = sum(a * b for a, b in v01) / (n - 1)
            covariance[r, s] = s10 / m + s01 / n
    return areas, covariance


def simulated(seed: int, count: int, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % 3 == 0).astype(int)
    shared = rng.normal(size=count)
    scores = np.stack([labels * d + shared + rng.normal(size=count) for d in (1.0, 0.6, 0.0)])
    return labels, scores.round(0) if ties else scores


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("count", [6, 31])
def test_is_that_of_all_pairs(count: int, ties: bool) -> None:
    labels, scores = simulated(count, count, ties)
    areas, covariance = delong(labels, scores)
    slow_areas, slow_covariance = pairwise(labels, scores)
    assert areas == pytest.approx(slow_areas)
    assert covariance == pytest.approx(slow_covariance)
    assert areas == pytest.approx([roc_auc_score(labels, row) for row in scores])


def test_by_hand() -> None:
    """Positives 3, 1; negatives 2, 0: three of four pairs; components 1, 1/2 and 1/2, 1."""
    areas, covariance = delong(np.array([1, 1, 0, 0]), np.array([[3.0, 1, 2, 0]]))
    assert areas == pytest.approx([0.75])
    assert covariance == pytest.approx(np.array([[0.125 / 2 + 0.125 / 2]]))


def test_changed_scales_and_orders_change_nothing() -> None:
    labels, scores = simulated(1, 40)
    areas, covariance = delong(labels, scores)
    order = np.random.default_rng(0).permutation(40)
    for some, row in ((labels, np.exp(scores)), (labels, 5 * scores - 3)):
        same_areas, same_covariance = delong(some, row)
        assert same_areas == pytest.approx(areas)
        assert same_covariance == pytest.approx(covariance)
    assert delong(labels[order], scores[:, order])[1] == pytest.approx(covariance)
    turned, covariance_turned = delong(1 - labels, -scores)
    assert turned == pytest.approx(areas)
    assert covariance_turned == pytest.approx(covariance)


def test_interval_covers_the_truth() -> None:
    """Two normal distributions one standard deviation apart: AUROC is Phi(1 / sqrt 2) = 0.760."""
    rng = np.random.default_rng(0)
    truth = 0.5 * math.erfc(-0.5)
    labels = np.repeat([1, 0], [30, 50])
    inside = 0
    for _ in range(600):
        areas, covariance = delong(labels, (rng.normal(size=80) + labels)[None])
        low, high = auroc_interval(areas[0], covariance[0, 0]) or (0, 0)
        inside += low <= truth <= high
    assert 0.93 <= inside / 600 <= 0.975


def test_interval_near_one_stays_below_one() -> None:
    labels = np.repeat([1, 0], 10)
    scores = np.arange(20.0)[::-1].copy()
    scores[[9, 10]] = scores[[10, 9]]
    areas, covariance = delong(labels, scores[None])
    low, high = auroc_interval(areas[0], covariance[0, 0]) or (0, 2)
    assert areas[0] == pytest.approx(0.99)
    assert low < 0.99 < high < 1
    assert auroc_interval(1.0, 0.0) is None
    assert auroc_interval(0.5, 0.0) is None


def test_paired_test_rejects_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat([1, 0], [40, 40])
    p_values = []
    for _ in range(500):
        shared = labels + rng.normal(size=80)
        a, b = (shared + rng.normal(size=80) for _ in range(2))
        p_values.append(compare_auroc(labels, a, b).p)
    assert 0.025 <= np.mean(np.array(p_values) < 0.05) <= 0.075


def test_paired_test_of_exchanged_and_of_equal_scores() -> None:
    labels, scores = simulated(4, 60)
    one, other = compare_auroc(labels, *scores[:2]), compare_auroc(labels, *scores[1::-1])
    assert one.difference == pytest.approx(-other.difference)
    assert one.p == pytest.approx(other.p)
    assert one.interval == pytest.approx((-other.interval[1], -other.interval[0]))
    same = compare_auroc(labels, scores[0], 2 * scores[0])
    assert (same.difference, same.p) == (0, 1)
    _, covariance = pairwise(labels, scores[:2])
    error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert one.p == pytest.approx(math.erfc(abs(one.difference) / error / math.sqrt(2)))


def test_opposite_and_perfect_scores_have_no_p() -> None:
    labels = np.repeat([1, 0], 5)
    found = compare_auroc(labels, labels.astype(float), -labels.astype(float))
    assert found.difference == 1
    assert math.isnan(found.p)

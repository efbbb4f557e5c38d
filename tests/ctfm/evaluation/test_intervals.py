"""Means and ratios over cases, their intervals and how these are spelled."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ctfm.base.types import Array
from ctfm.evaluation.intervals import (
    bootstrap_settings,
    estimate_mean,
    estimate_ratio,
    estimate_weighted,
    interval_text,
    mean,
    percentile_interval,
    resampled_weights,
    value_text,
)
from ctfm.imaging.grids import farthest_corner_mm

NAN = float("nan")


def test_mean_is_over_what_is_there() -> None:
    assert mean([1.0, NAN, 2.0]) == 1.5
    assert math.isnan(mean([NAN]))
    assert estimate_mean([1.0, NAN, 2.0], 0, 100).cases == 2


def test_ratio_is_of_sums_and_cases_without_a_whole_say_nothing() -> None:
    found = estimate_ratio([1, 0, 3, 0], [2, 0, 10, 1], seed=0, resamples=500)
    assert found.mean == pytest.approx(4 / 13)
    assert found.cases == 3
    assert found == estimate_ratio([1, 3, 0], [2, 10, 1], seed=0, resamples=500)


def test_ratio_of_equal_cases_has_an_interval_of_no_width() -> None:
    assert estimate_ratio([1] * 5, [4] * 5, 0, 100).interval == (0.25, 0.25)
    assert estimate_ratio([1, 1], [4, 4], 0, 100).interval is None
    assert math.isnan(estimate_ratio([], [], 0, 100).mean)


def test_with_equal_wholes_a_ratio_is_a_mean() -> None:
    parts = np.random.default_rng(0).random(12)
    ratio, plain = estimate_ratio(parts, [1] * 12, 3, 500), estimate_mean(parts, 3, 500)
    assert ratio.mean == pytest.approx(plain.mean)
    assert ratio.interval == pytest.approx(plain.interval, abs=0.05)


def test_mean_and_ratio_are_those_of_scipys_bootstrap() -> None:
    parts, wholes = np.random.default_rng(1).random((2, 20)) + 0.1

    def ratio(a: Array, b: Array, axis: int = -1) -> Array:
        return np.asarray(a.sum(axis=axis) / b.sum(axis=axis))

    for found, samples, statistic in (
        (estimate_mean(parts, 5, 999), (parts,), np.mean),
        (estimate_ratio(parts, wholes, 5, 999), (parts, wholes), ratio),
    ):
        expected = stats.bootstrap(
            samples,
            statistic,
            paired=len(samples) > 1,
            n_resamples=999,
            method="percentile",
            random_state=np.random.default_rng(5),
        ).confidence_interval
        assert found.interval == pytest.approx(tuple(expected), rel=1e-13)


def test_weights_are_the_same_in_blocks_of_any_size() -> None:
    whole, one_by_one = (
        np.concatenate(list(resampled_weights(7, 50, 3, block))) for block in (50, 1)
    )
    assert np.array_equal(whole, one_by_one)
    assert np.array_equal(whole.sum(axis=1), np.full(50, 7.0))


def test_resamples_that_are_not_usable_are_drawn_again() -> None:
    def with_the_first(weights: Array) -> Array:
        return weights[weights[:, 0] > 0]

    drawn = np.concatenate(list(resampled_weights(3, 40, 0, 8, with_the_first)))
    assert drawn.shape == (40, 3)
    assert (drawn[:, 0] > 0).all()


def test_resamples_without_a_figure_are_left_out_of_the_interval() -> None:
    figures = np.array([NAN, *range(101)], dtype=float)
    assert percentile_interval(figures) == pytest.approx((2.5, 97.5))
    assert percentile_interval(np.array([NAN])) is None
    equal = estimate_weighted(lambda weights: weights.sum(axis=1), 4, 0, 100)
    assert (equal.mean, equal.cases, equal.interval) == (4.0, 4, (4.0, 4.0))


def test_texts_of_intervals() -> None:
    assert interval_text((0.88, 0.9444)) == "0.880 to 0.944"
    assert interval_text((0.88, 0.9444), 1) == "0.9 to 0.9"
    assert interval_text(None) == "-"
    assert value_text(0.91, (0.88, 0.94), 2) == "0.91 (0.88 to 0.94)"
    assert value_text(NAN, None) == "-"
    assert bootstrap_settings(7, 500) == {
        "over": "cases",
        "method": "percentile",
        "confidence": 0.95,
        "resamples": 500,
        "seed": 7,
    }


def test_farthest_corner_is_the_farthest_of_all_voxels() -> None:
    rng = np.random.default_rng(0)
    one, other = np.eye(4), np.eye(4)
    one[:3], other[:3] = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    places = np.indices((4, 5, 6)).reshape(3, -1)
    apart = [m[:3, :3] @ places + m[:3, 3:] for m in (one, other)]
    expected = np.linalg.norm(apart[0] - apart[1], axis=0).max()
    assert farthest_corner_mm((4, 5, 6), one, other) == pytest.approx(expected)

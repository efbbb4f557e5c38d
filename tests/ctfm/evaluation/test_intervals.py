"""Ratios over cases; means over cases are tested where `ctfm.evaluation.metrics` uses them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from ctfm.base.tables import align, as_json, cell, number
from ctfm.evaluation.intervals import estimate_mean, estimate_ratio, mean
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


def test_numbers_in_files_and_on_terminals() -> None:
    assert [cell(v) for v in (0.12345678, NAN, math.inf, 3, "a")] == ["0.123457", "", "", 3, "a"]
    assert json.loads(as_json({"a": [NAN, (1.5, math.inf)], 2: None})) == {
        "a": [None, [1.5, None]],
        "2": None,
    }
    assert (number(0.25, 1), number(NAN, 1)) == ("0.2", "-")
    assert align([("a", "bb"), ("ccc", "d")]) == ["a    bb", "-------", "ccc   d"]


def test_farthest_corner_is_the_farthest_of_all_voxels() -> None:
    rng = np.random.default_rng(0)
    one, other = np.eye(4), np.eye(4)
    one[:3], other[:3] = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    places = np.indices((4, 5, 6)).reshape(3, -1)
    apart = [m[:3, :3] @ places + m[:3, 3:] for m in (one, other)]
    expected = np.linalg.norm(apart[0] - apart[1], axis=0).max()
    assert farthest_corner_mm((4, 5, 6), one, other) == pytest.approx(expected)

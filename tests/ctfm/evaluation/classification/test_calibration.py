"""Temperature and operating points: against grids and by hand, and as a file."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from ctfm.base.errors import UserError
from ctfm.evaluation.classification.calibration import (
    TEMPERATURES,
    Calibration,
    calibrate,
    fit_temperature,
    log_loss,
    read_calibration,
    write_calibration,
)
from ctfm.evaluation.classification.points import fixed_point, sensitivity_point, youden_point


def overconfident(count: int = 400, factor: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `factor` times those of the probabilities that the labels come from."""
    rng = np.random.default_rng(0)
    true = rng.normal(0, 2, count)
    return factor * true, (rng.random(count) < expit(true)).astype(int)


# --- temperature ----------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0])
def test_temperature_is_that_of_a_grid(factor: float) -> None:
    logits, labels = overconfident(factor=factor)
    grid = np.geomspace(0.1, 10, 4001)
    best = grid[np.argmin([log_loss(logits, labels, t) for t in grid])]
    assert fit_temperature(logits, labels) == pytest.approx(best, rel=2e-3)


def test_temperature_undoes_a_factor() -> None:
    logits, labels = overconfident(20_000)
    assert fit_temperature(logits, labels) == pytest.approx(3, rel=0.05)
    assert fit_temperature(logits * 2, labels) == pytest.approx(2 * fit_temperature(logits, labels))


def test_temperature_by_hand() -> None:
    """Of four logits of 2, three are of positives: sigmoid(2 / T) = 3 / 4, T = 2 / ln 3."""
    logits, labels = [2, 2, 2, 2, -2, -2, -2, -2], [1, 1, 1, 0, 0, 0, 0, 1]
    assert fit_temperature(logits, labels) == pytest.approx(2 / np.log(3))


def test_log_loss_by_hand() -> None:
    assert log_loss([0, 0], [0, 1]) == pytest.approx(np.log(2))
    assert log_loss([1000, -1000], [1, 0]) == 0
    assert log_loss([1000, -1000], [0, 1]) == 1000


@pytest.mark.parametrize(("sign", "bound"), [(1, TEMPERATURES[0]), (-1, TEMPERATURES[1])])
def test_logits_without_a_best_temperature(
    sign: int, bound: float, caplog: pytest.LogCaptureFixture
) -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])
    with caplog.at_level(logging.WARNING):
        assert fit_temperature(sign * (labels * 2.0 - 1), labels) == bound
    assert "no temperature fits best" in caplog.text
    assert ("separate" in caplog.text) is (sign > 0)


def test_a_good_fit_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    fit_temperature(*overconfident())
    assert caplog.text == ""


# --- operating points -----------------------------------------------------------------------

LABELS = np.array([0, 0, 1, 0, 1, 0, 1, 1])
SHARES = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9])


def test_points_by_hand() -> None:
    """Of thresholds with J = 1/2 (0.8, 0.6, 0.3) Youden takes the lowest, half way to 0.2."""
    fixed, youden = fixed_point(LABELS, SHARES), youden_point(LABELS, SHARES)
    assert (fixed.threshold, fixed.sensitivity, fixed.specificity) == (0.5, 0.75, 0.75)
    assert (youden.threshold, youden.sensitivity, youden.specificity) == (
        pytest.approx(0.25),
        1.0,
        0.5,
    )
    found = sensitivity_point(LABELS, SHARES, 0.75)
    assert (found.threshold, found.sensitivity, found.specificity) == (
        pytest.approx(0.5),
        0.75,
        0.75,
    )
    assert sensitivity_point(LABELS, SHARES, 0.95).threshold == pytest.approx(0.25)
    assert "0.95" in sensitivity_point(LABELS, SHARES, 0.95).how


@pytest.mark.parametrize("seed", range(5))
def test_points_are_the_best_of_all_thresholds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.permutation([0, 1] * 30)
    shares = (rng.random(60) + labels * 0.4).round(1) / 1.4
    pairs = []
    for threshold in np.unique(shares):
        called = shares >= threshold
        pairs.append((called[labels == 1].mean(), 1 - called[labels == 0].mean()))
    youden, sensitive = youden_point(labels, shares), sensitivity_point(labels, shares, 0.9)
    assert youden.sensitivity + youden.specificity == pytest.approx(max(map(sum, pairs)))
    assert sensitive.sensitivity >= 0.9
    best = max(spec for sens, spec in pairs if sens >= 0.9)
    assert sensitive.specificity == pytest.approx(best)


def test_points_of_useless_and_of_perfect_scores() -> None:
    labels = np.array([0, 1] * 5)
    useless = youden_point(labels, np.full(10, 0.5))
    assert useless.sensitivity + useless.specificity == 1
    assert 0 <= useless.threshold <= 1
    perfect = youden_point(labels, labels.astype(float))
    assert (perfect.threshold, perfect.sensitivity, perfect.specificity) == (0.5, 1, 1)
    assert sensitivity_point(labels, 1 - labels.astype(float), 1.0).sensitivity == 1


def test_neighbouring_floats_leave_no_room_between_them() -> None:
    one = 0.5
    below = np.nextafter(one, 0)
    labels, shares = np.array([0, 1] * 5), np.array([below, one] * 5)
    assert youden_point(labels, shares).specificity == 1


# --- all of it ------------------------------------------------------------------------------


@pytest.fixture
def calibration() -> Calibration:
    return calibrate(*overconfident(), data="datalist.json, validation")


def test_calibration(calibration: Calibration) -> None:
    logits, labels = overconfident()
    before, after = calibration.log_loss
    assert after < before
    assert calibration.cases == 400
    assert calibration.prevalence == labels.mean()
    assert [point.name for point in calibration.points] == ["fixed", "youden", "sensitive"]
    assert calibration.points[2].sensitivity >= 0.95
    shares = calibration.probabilities(logits)
    assert shares == pytest.approx(expit(logits / calibration.temperature))
    for point in calibration.points:
        called = np.array([one.positive[point.name] for one in calibration.apply(logits)])
        assert called[labels == 1].mean() == pytest.approx(point.sensitivity)
        assert 1 - called[labels == 0].mean() == pytest.approx(point.specificity)


def test_file_and_back(calibration: Calibration, tmp_path: Path) -> None:
    file = write_calibration(calibration, tmp_path / "models" / "calibration.json")
    assert read_calibration(file) == calibration
    content = json.loads(file.read_text())
    assert content["prevalence"] == calibration.prevalence
    assert content["data"] == "datalist.json, validation"
    assert content["points"][1]["how"].startswith("largest sensitivity")


def test_decisions_at_float32_are_the_same(calibration: Calibration) -> None:
    """A threshold lies between two cases, so that rounding moves none across."""
    logits, _ = overconfident()
    rounded = logits.astype(np.float32)
    same = [one.positive for one in calibration.apply(logits)]
    assert [one.positive for one in calibration.apply(rounded)] == same


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a calibration"),
        ("[]", "not a calibration"),
        ("{}", "not a calibration"),
        ('{"points": [], "log_loss": [1, 1], "temperature": 1}', "not a calibration"),
    ],
)
def test_other_files(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_calibration(tmp_path / "c.json")


def test_files_with_values_out_of_range(calibration: Calibration, tmp_path: Path) -> None:
    file = write_calibration(calibration, tmp_path / "c.json")
    text = file.read_text()
    for key, value in (("temperature", -1), ("points", [])):
        file.write_text(json.dumps({**json.loads(text), key: value}))
        with pytest.raises(UserError, match="out of range"):
            read_calibration(file)
    with pytest.raises(UserError, match="no such calibration"):
        read_calibration(tmp_path / "none.json")


def test_what_is_refused(calibration: Calibration) -> None:
    for logits, labels, message in (
        ([1, 2, 3, 4], [1, 1, 1, 1], "4 of 4 cases are positive"),
        ([1, 2, 3], [1, 1, 0, 0], "3 logits and 4 labels"),
        ([1, np.nan, 3, 4], [1, 1, 0, 0], "no finite number"),
        ([1, 2, 3, 4], [1, 2, 0, 0], "not all 0 or 1"),
    ):
        with pytest.raises(UserError, match=message):
            calibrate(logits, labels, data="x")
    good = overconfident()
    with pytest.raises(UserError, match="sensitivity is 0: give a number from above 0 to 1"):
        calibrate(*good, data="x", sensitivity=0)
    with pytest.raises(UserError, match=r"threshold is 1\.5"):
        calibrate(*good, data="x", threshold=1.5)
    with pytest.raises(UserError, match="no finite number"):
        calibration.apply([np.inf])

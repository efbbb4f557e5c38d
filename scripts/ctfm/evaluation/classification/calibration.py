"""From logits to probabilities and decisions: temperature and thresholds, chosen on validation."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from ctfm.base.errors import UserError
from ctfm.base.tables import write_json
from ctfm.base.types import Array
from ctfm.evaluation.classification.points import (
    OperatingPoint,
    fixed_point,
    sensitivity_point,
    youden_point,
)
from ctfm.evaluation.classification.predictions import check_labels

__all__ = [
    "CALIBRATION",
    "Calibration",
    "Decision",
    "calibrate",
    "fit_temperature",
    "log_loss",
    "read_calibration",
    "write_calibration",
]

logger = logging.getLogger(__name__)

#: The file's name beside a checkpoint.
CALIBRATION = "calibration.json"
#: Temperatures beyond these are taken for these: logits that separate the classes, or order them
#: the wrong way round, have no best one.
TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True)
class Decision:
    """What is said about a scan.

    Attributes:
        logit: of the network.
        probability: calibrated, of the positive class.
        positive: operating point -> whether the scan is called positive there.
    """

    logit: float
    probability: float
    positive: Mapping[str, bool]


@dataclass(frozen=True)
class Calibration:
    """How logits become probabilities and decisions.

    Attributes:
        temperature: logits are divided by it.
        points: operating points, on calibrated probabilities.
        cases: how many it was chosen on.
        positives: how many of them are positive.
        data: which cases these are, in words.
        log_loss: mean negative log likelihood of these cases, before and after.
    """

    temperature: float
    points: tuple[OperatingPoint, ...]
    cases: int
    positives: int
    data: str
    log_loss: tuple[float, float]

    @property
    def prevalence(self) -> float:
        """Share of positive cases among those it was chosen on."""
        return self.positives / self.cases

    def probabilities(self, logits: Any) -> Array:
        """Calibrated probabilities (N,) of logits (N,)."""
        scaled = np.asarray(logits, dtype=float).ravel() / self.temperature
        return np.asarray(expit(scaled))

    def apply(self, logits: Any) -> list[Decision]:
        """Probability, and the decision at each operating point, of logits (N,).

        Raises:
            UserError: a logit is no finite number.
        """
        raw = np.asarray(logits, dtype=float).ravel()
        if not np.isfinite(raw).all():
            raise UserError("the network gives a logit that is no finite number: check its weights")
        return [
            Decision(
                float(logit),
                float(share),
                {point.name: bool(share >= point.threshold) for point in self.points},
            )
            for logit, share in zip(raw, self.probabilities(raw), strict=True)
        ]


def fit_temperature(logits: Any, labels: Any) -> float:
    """The temperature T for which sigmoid(logit / T) is most likely to give the labels.

    Guo and others (ICML 2017), for two classes. The negative log likelihood is convex in 1 / T, so
    its slope has one zero at most, which is looked for between the bounds `TEMPERATURES`. Logits
    that separate the classes would have T = 0, those that order them no better than chance an
    infinite one: both are given the bound, and a warning is logged.

    Args:
        logits: (N,), of cases that were not trained on.
        labels: (N,), 0 or 1.

    Raises:
        UserError: a logit is no finite number, the lengths differ, or a class is missing.
    """
    scores, truth = _checked(logits, labels)

    def slope(inverse: float) -> float:
        return float(np.mean((expit(scores * inverse) - truth) * scores))

    lowest, highest = TEMPERATURES
    if slope(1 / lowest) <= 0:
        logger.warning(
            "the logits separate the %d cases: no temperature fits best, %g is taken; "
            "calibrate on more cases",
            len(truth),
            lowest,
        )
        return lowest
    if slope(1 / highest) >= 0:
        logger.warning(
            "the logits order the %d cases no better than chance: no temperature fits best, %g is "
            "taken; check the network and the labels",
            len(truth),
            highest,
        )
        return highest
    return float(1 / brentq(slope, 1 / highest, 1 / lowest, xtol=1e-12))


def log_loss(logits: Any, labels: Any, temperature: float = 1.0) -> float:
    """Mean negative log likelihood of labels (N,) under sigmoid(logits / temperature)."""
    scaled, truth = np.asarray(logits, dtype=float).ravel() / temperature, np.asarray(labels)
    return float(np.mean(np.logaddexp(0, np.where(truth.ravel() == 1, -scaled, scaled))))


def calibrate(
    logits: Any, labels: Any, *, data: str, sensitivity: float = 0.95, threshold: float = 0.5
) -> Calibration:
    """Fit the temperature, then choose the operating points on calibrated probabilities.

    Args:
        logits: (N,), of cases that were neither trained on nor are tested on.
        labels: (N,), 0 or 1.
        data: which cases these are, such as the datalist and its list.
        sensitivity: that the point "sensitive" reaches at least.
        threshold: of the point "fixed".

    Raises:
        UserError: a logit is no finite number, the lengths differ, a class is missing, or an
            option is out of range.
    """
    scores, truth = _checked(logits, labels)
    temperature = fit_temperature(scores, truth)
    shares = expit(scores / temperature)
    return Calibration(
        temperature=temperature,
        points=(
            fixed_point(truth, shares, threshold),
            youden_point(truth, shares),
            sensitivity_point(truth, shares, sensitivity),
        ),
        cases=len(truth),
        positives=int(truth.sum()),
        data=data,
        log_loss=(log_loss(scores, truth), log_loss(scores, truth, temperature)),
    )


def _checked(logits: Any, labels: Any) -> tuple[Array, Array]:
    truth = check_labels(labels, "calibration", least=0)
    scores = np.asarray(logits, dtype=float).ravel()
    if len(scores) != len(truth):
        raise UserError(f"calibration: {len(scores)} logits and {len(truth)} labels: give as many")
    if not np.isfinite(scores).all():
        raise UserError("calibration: a logit is no finite number: check the network's weights")
    return scores, truth


def write_calibration(calibration: Calibration, path: str | os.PathLike[str]) -> Path:
    """Write a calibration as JSON, such as `CALIBRATION` beside a checkpoint.

    Raises:
        UserError: the file cannot be written.
    """
    document = {**asdict(calibration), "prevalence": calibration.prevalence}
    return write_json(path, document)


def read_calibration(path: str | os.PathLike[str]) -> Calibration:
    """Read what `write_calibration` wrote.

    Raises:
        UserError: the file is missing, or holds something else.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{path}: no such calibration: evaluate the validation list to write one")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        points = tuple(OperatingPoint(**point) for point in content.pop("points"))
        before, after = map(float, content.pop("log_loss"))
        known = {one.name for one in fields(Calibration)}
        rest = {key: value for key, value in content.items() if key in known}
        found = Calibration(points=points, log_loss=(before, after), **rest)
        sound = found.temperature > 0 and all(0 <= one.threshold <= 1 for one in points)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a calibration ({error}): write it again") from error
    if not sound or not points:
        raise UserError(f"{path}: not a calibration (values out of range): write it again")
    return found

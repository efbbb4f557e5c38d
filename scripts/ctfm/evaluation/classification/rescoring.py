"""A table of predictions, of whatever model, scored: what `ctfm evaluate classification` runs."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from ctfm.base.errors import UserError
from ctfm.evaluation.classification.calibration import Calibration, read_calibration
from ctfm.evaluation.classification.classifier_report import format_evaluation, write_evaluation
from ctfm.evaluation.classification.evaluation import BINS, evaluate
from ctfm.evaluation.classification.points import (
    OperatingPoint,
    fixed_point,
    sensitivity_point,
    youden_point,
)
from ctfm.evaluation.classification.predictions import Predictions, Scores, read_predictions

__all__ = ["score_predictions"]

logger = logging.getLogger(__name__)

#: What `--sensitivity` without a number asks for.
SENSITIVITY = 0.95
OPTIMISTIC = "chosen on these very cases, so that its figures are optimistic"


def score_predictions(
    predictions: str | os.PathLike[str],
    label: Any,
    score: Any,
    out: str | os.PathLike[str],
    *,
    threshold: float = 0.5,
    youden: bool = False,
    sensitivity: float | bool | None = None,
    compare: Any = None,
    positive: Any = None,
    subject: Any = None,
    id: Any = None,
    logits: bool = False,
    calibration: str | os.PathLike[str] | None = None,
    bins: int = BINS,
    seed: int = 0,
    resamples: int = 1000,
) -> str:
    """Score a table of predictions: figures with intervals, pictures, and a paired comparison.

    Args:
        predictions: CSV, CSV.gz or Parquet with a row for each case.
        label: column of the labels: 0 and 1, true and false, SinoCT's "1,0" (0) and "0,1" (1), or
            any two values with `positive`.
        score: column of the probabilities of the positive class, or of logits.
        out: folder for tables, JSON and pictures.
        threshold: of the operating point "fixed".
        youden: add the point with the largest sensitivity + specificity on these cases.
        sensitivity: add the point that reaches this sensitivity on these cases; True: 0.95.
        compare: column of a second score of the same cases.
        positive: the label that counts as 1.
        subject: column of the subjects, where one has several cases: intervals and tests are then
            of a bootstrap over subjects.
        id: column of the cases' names, none of which may come twice.
        logits: the scores are logits.
        calibration: file that `write_calibration` wrote; its operating points are used in place
            of those above, and logits are divided by its temperature. Probabilities are taken for
            calibrated ones.
        bins: of the calibration error.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        The tables for the terminal.

    Raises:
        UserError: a file, a column, a label, a score or an option is not what it should be.
    """
    chosen = None if calibration is None else read_calibration(str(calibration))
    scores = [_text(score)] if compare is None else [_text(score), _text(compare)]
    if len(set(scores)) < len(scores):
        raise UserError(f"--score and --compare both name {scores[0]}: name two columns")
    cases = read_predictions(
        Path(predictions),
        _text(label),
        scores,
        positive=None if positive is None else _text(positive),
        subject=None if subject is None else _text(subject),
        id=None if id is None else _text(id),
        logits=logits,
        temperature=1.0 if chosen is None else chosen.temperature,
    )
    wanted = SENSITIVITY if sensitivity is True else sensitivity or None
    if logits and all(((one.ranks >= 0) & (one.ranks <= 1)).all() for one in cases.scores):
        logger.warning("all scores lie within 0..1, as probabilities do: is --logits right?")
    points = {
        one.name: _points(cases, one, chosen, threshold, youden, wanted) for one in cases.scores
    }
    found = evaluate(cases, points, seed=seed, resamples=resamples, bins=bins)
    settings = {
        "predictions": str(predictions),
        "label": _text(label),
        "positive": positive,
        "subject": subject,
        "logits": logits,
        "calibration": None if calibration is None else str(calibration),
        "temperature": None if chosen is None else chosen.temperature,
    }
    write_evaluation(found, Path(out), settings)
    return format_evaluation(found)


def _text(name: Any) -> str:
    """A name as it was typed: the command line makes a tuple of "1,0" and a number of "1"."""
    return ",".join(map(str, name)) if isinstance(name, tuple | list) else str(name)


def _points(
    cases: Predictions,
    score: Scores,
    chosen: Calibration | None,
    threshold: float,
    youden: bool,
    sensitivity: float | None,
) -> list[OperatingPoint]:
    """The operating points of one score; chosen on other cases where a calibration is given."""
    if chosen is not None:
        return list(chosen.points)
    known = cases.labels, score.probabilities
    points = [fixed_point(*known, threshold)]
    points += [_noted(youden_point(*known))] if youden else []
    points += [] if sensitivity is None else [_noted(sensitivity_point(*known, sensitivity))]
    return points


def _noted(point: OperatingPoint) -> OperatingPoint:
    how = f"{point.how}, {OPTIMISTIC}"
    return OperatingPoint(point.name, point.threshold, how, point.sensitivity, point.specificity)

"""Scores of two classes: figures with intervals, calibration and operating points."""

from __future__ import annotations

from ctfm.classification.calibration import (
    CALIBRATION,
    Calibration,
    Decision,
    calibrate,
    fit_temperature,
    log_loss,
    read_calibration,
    write_calibration,
)
from ctfm.classification.delong import compare_auroc, delong
from ctfm.classification.evaluation import BINS, Evaluation, evaluate
from ctfm.classification.points import (
    OperatingPoint,
    fixed_point,
    sensitivity_point,
    youden_point,
)
from ctfm.classification.predictions import Predictions, predictions_of, read_predictions
from ctfm.classification.report import format_evaluation, write_evaluation
from ctfm.classification.rescoring import classification

__all__ = [
    "BINS", "CALIBRATION", "Calibration", "Decision", "Evaluation", "OperatingPoint",
    "Predictions", "calibrate", "classification", "compare_auroc", "delong", "evaluate",
    "fit_temperature", "fixed_point", "format_evaluation", "log_loss", "predictions_of",
    "read_calibration", "read_predictions", "sensitivity_point", "write_calibration",
    "write_evaluation", "youden_point",
]  # fmt: skip

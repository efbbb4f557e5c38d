"""What validation leaves behind: the calibration of the best checkpoint, and reports of a list."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.utils import string_list_all_gather

from ctfm.base.errors import UserError
from ctfm.base.tables import write_table
from ctfm.evaluation.classification.calibration import (
    Calibration,
    Decision,
    calibrate,
    write_calibration,
)
from ctfm.evaluation.classification.rescoring import score_predictions
from ctfm.triage.head_scans import SOURCE
from ctfm.triage.results import TABLE, calibration_beside

__all__ = ["CalibrateBest", "EvaluationReport"]

logger = logging.getLogger(__name__)


class CalibrateBest:
    """Handler: calibrate on the validation list whenever the checkpoint ``model.pt`` is a new best.

    Put it among the validation's handlers. Where the list is too small, an older file is taken
    away, since it would be another network's.

    Args:
        path: of ``calibration.json``, beside ``model.pt``.
        data: which cases these are, in words.
        sensitivity: that the operating point "sensitive" reaches at least.
    """

    def __init__(self, path: str, data: str, sensitivity: float = 0.95) -> None:
        self.path = Path(path)
        self.data = data
        self.sensitivity = sensitivity
        self.scores = _Scores()

    def attach(self, engine: Engine) -> None:
        """Collect logits, and calibrate once the key metric is known."""
        self.scores.attach(engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Calibrate on what was validated."""
        rows = self.scores.gathered()
        is_best = engine.state.best_metric_epoch == engine.state.epoch
        if idist.get_rank() != 0 or not is_best:
            return
        logits, labels = [row["logit"] for row in rows], [row["label"] for row in rows]
        try:
            found = calibrate(logits, labels, data=self.data, sensitivity=self.sensitivity)
        except UserError as error:
            logger.warning("not calibrated: %s", error)
            self.path.unlink(missing_ok=True)
            return
        write_calibration(found, self.path)
        logger.info("temperature %.3g on %d cases -> %s", found.temperature, found.cases, self.path)


class EvaluationReport:
    """Handler: predictions of a list with labels, and their figures.

    Args:
        output_dir: folder of ``predictions.csv`` and of what `ctfm evaluate classification` writes.
        calibration: path of ``calibration.json``.
        seed: of the bootstrap.
    """

    def __init__(self, output_dir: str, calibration: str, seed: int = 0) -> None:
        self.folder = Path(output_dir)
        self.calibration = calibration
        self.seed = seed
        self.scores = _Scores()

    def attach(self, engine: Engine) -> None:
        """Collect, and report at the end."""
        self.scores.attach(engine)
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, _engine: Any) -> None:
        """Write table and report."""
        rows = self.scores.gathered()
        if idist.get_rank() != 0:
            return
        chosen = calibration_beside(self.calibration)
        decisions = chosen.apply([row["logit"] for row in rows])
        columns = ("name", "subject", "label", "logit", "probability", *_points(chosen))
        table = [
            [row["name"], row["subject"], row["label"], *_cells(one)]
            for row, one in zip(rows, decisions, strict=True)
        ]
        write_table(self.folder / TABLE, columns, table)
        logger.info("predictions: %s", (self.folder / TABLE).resolve())
        subjects = {row["subject"] for row in rows}
        try:
            text = score_predictions(
                self.folder / TABLE,
                "label",
                "logit",
                self.folder,
                logits=True,
                seed=self.seed,
                subject="subject" if len(subjects) < len(rows) else None,
                calibration=self.calibration if chosen.cases else None,
            )
        except UserError as error:
            logger.warning("no report: %s", error)
            return
        print(text)


class _Scores:
    """Names, labels and logits of an evaluation, in the order of the scans."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note)

    def _start(self, _engine: Any) -> None:
        self.rows = []

    def _note(self, engine: Any) -> None:
        for row, output in zip(engine.state.batch, engine.state.output, strict=True):
            path = str(row[SOURCE])
            self.rows.append(
                {
                    "name": path,
                    "subject": _name(row.get("subject", row.get("patient", path))),
                    "label": round(float(output["label"].reshape(()))),
                    "logit": float(output["logit"].reshape(())),
                }
            )

    def gathered(self) -> list[dict[str, Any]]:
        """Of all processes, each scan once."""
        if idist.get_world_size() == 1:
            return self.rows
        packed = [json.dumps(row) for row in self.rows]
        everywhere = [json.loads(text) for text in string_list_all_gather(packed)]
        return list({row["name"]: row for row in everywhere}.values())


def _name(subject: Any) -> str:
    """Numbers come out of a batch as tensors."""
    return str(subject.item() if isinstance(subject, torch.Tensor) else subject)


def _points(calibration: Calibration) -> list[str]:
    return [point.name for point in calibration.points]


def _cells(decision: Decision) -> list[Any]:
    # all digits: other thresholds are tried on these, and logits next to one may be equal else
    return [
        repr(decision.logit),
        repr(decision.probability),
        *(int(positive) for positive in decision.positive.values()),
    ]

"""From logits of scans to what a user opens: probabilities, decisions, tables."""

from __future__ import annotations

import json
import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.config import KeysCollection
from monai.transforms import MapTransform

from ctfm.base.files import sha256
from ctfm.base.tables import cell, write_json, write_table
from ctfm.evaluation.classification.calibration import Calibration, read_calibration
from ctfm.evaluation.classification.points import OperatingPoint
from ctfm.imaging.listing import result_name
from ctfm.imaging.provenance import MADE_BY, Provenance
from ctfm.triage.head_scans import SOURCE, WARNINGS, HeadWarnings

__all__ = [
    "RESULT_SUFFIX",
    "TABLE",
    "CalibrateLogitd",
    "LabelVectord",
    "SaveTriaged",
    "TriageTable",
    "calibration_beside",
    "calibration_sha256",
]

logger = logging.getLogger(__name__)

#: What a scan's result is called, after the name of the scan.
RESULT_SUFFIX = "_triage.json"
TABLE, DOCUMENT = "predictions.csv", "predictions.json"


class LabelVectord(MapTransform):
    """A label 0 or 1 as (1,), float32: one for the network's one logit."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the numbers of `keys`."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = torch.tensor([float(result[key])])
        return result


def calibration_beside(path: str) -> Calibration:
    """A checkpoint's calibration; where there is none, none is made up, and that is said.

    Args:
        path: of ``calibration.json``.

    Returns:
        Without the file: temperature 1 and the point "fixed" at 0.5, of 0 cases.

    Raises:
        UserError: the file holds something else.
    """
    if Path(path).is_file():
        return read_calibration(path)
    logger.warning(
        "%s is not there: probabilities are not calibrated, and 0.5 is the only operating point; "
        "calibrate.yaml writes it from the validation list",
        path,
    )
    nan = float("nan")
    fixed = OperatingPoint("fixed", 0.5, "0.5, fixed", nan, nan)
    return Calibration(1.0, (fixed,), 0, 0, "none", (nan, nan))


class CalibrateLogitd(MapTransform):
    """Add what a logit means: ``probability``, ``decisions`` and ``calibrated``.

    Args:
        keys: the logit (1,).
        calibration: path of ``calibration.json``.
    """

    def __init__(self, keys: KeysCollection, calibration: str) -> None:
        super().__init__(keys)
        self.calibration = calibration_beside(calibration)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the three items.

        Raises:
            UserError: the logit is no finite number.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            (found,) = self.calibration.apply([float(torch.as_tensor(result[key]).reshape(()))])
            result["probability"] = found.probability
            result["calibrated"] = self.calibration.cases > 0
            result["decisions"] = {
                point.name: {
                    "threshold": point.threshold,
                    "abnormal": found.positive[point.name],
                    "chosen": point.how,
                }
                for point in self.calibration.points
            }
        return result


def calibration_sha256(path: str) -> str | None:
    """Which calibration decides, for the provenance of results; None: there is none."""
    return sha256(path) if Path(path).is_file() else None


class SaveTriaged(MapTransform):
    """Write what is said about a scan as ``NAME_triage.json``, after `CalibrateLogitd`.

    Args:
        keys: the logit (1,).
        output_dir: made where it does not exist.
        image_key: the image, for its name.
        provenance: what makes the result, which records it.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str,
        image_key: str = "image",
        provenance: Provenance | None = None,
    ) -> None:
        super().__init__(keys)
        self.folder = Path(output_dir)
        self.image_key = image_key
        self.provenance = Provenance() if provenance is None else provenance

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the file; the data pass through unchanged."""
        for key in self.key_iterator(data):
            name, noted = result_name(data, self.image_key), data.get(WARNINGS, HeadWarnings())
            document = {
                "name": name,
                "source": str(data[SOURCE]),
                MADE_BY: self.provenance.of(str(data[SOURCE])),
                "probability": data["probability"],
                "logit": float(torch.as_tensor(data[key]).reshape(())),
                "calibrated": data["calibrated"],
                "decisions": data["decisions"],
                "warnings": list(noted.texts),
            }
            write_json(self.folder / f"{name}{RESULT_SUFFIX}", document)
            called = ", ".join(k for k, one in data["decisions"].items() if one["abnormal"])
            text = f"abnormal at: {called}" if called else "normal at every operating point"
            logger.info("%s: probability %.3f, %s", name, data["probability"], text)
        return dict(data)


class TriageTable:
    """Handler: all results of a folder as ``predictions.csv`` and ``predictions.json``.

    Results of an earlier run that was stopped are among them.

    Args:
        output_dir: folder of the results.
    """

    def __init__(self, output_dir: str) -> None:
        self.folder = Path(output_dir)

    def attach(self, engine: Engine) -> None:
        """Write when all scans are done, or have failed."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Collect the files of the single scans."""
        files = sorted(self.folder.rglob(f"*{RESULT_SUFFIX}"))
        results = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        failures = [
            {"source": one.path, "reason": one.reason} for one in getattr(engine, "failures", [])
        ]
        points = list(dict.fromkeys(point for one in results for point in one["decisions"]))
        columns = ("name", "probability", "logit", *points, "warnings", "source")
        table = [_line(one, points) for one in results]
        write_table(self.folder / TABLE, columns, table)
        write_json(self.folder / DOCUMENT, {"scans": results, "failed": failures})
        logger.info("%d scans: %s", len(results), (self.folder / TABLE).resolve())


def _line(one: Mapping[str, Any], points: Sequence[str]) -> list[Any]:
    decisions = one["decisions"]
    called = [int(decisions[p]["abnormal"]) if p in decisions else "" for p in points]
    said = "; ".join(one["warnings"])
    return [one["name"], cell(one["probability"]), cell(one["logit"]), *called, said, one["source"]]

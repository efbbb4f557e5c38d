"""Segmentations scored, case by case, while an evaluation runs."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from ctfm.base.errors import UserError
from ctfm.contract.classes import TOTALSEGMENTATOR_V2
from ctfm.evaluation.lesions.detection import LesionScore, lesion_score
from ctfm.evaluation.lesions.lesion_report import format_lesions, write_lesions
from ctfm.evaluation.metrics import (
    ClassScore,
    format_table,
    segmentation_scores,
    summarise,
    write_report,
)
from ctfm.imaging.grids import spacing_of
from ctfm.imaging.listing import result_name

__all__ = ["LesionReport", "SegmentationReport"]

logger = logging.getLogger(__name__)

NO_CASE = "no case could be evaluated: see the messages above"


class SegmentationReport:
    """Handler: score each case on its own grid, and write tables when all are done.

    Args:
        output_dir: folder of ``metrics_cases.csv``, ``metrics_summary.csv``, ``metrics.json``.
        class_ids: ids that are scored.
        label_key: reference label map (1, X, Y, Z) as it is stored.
        nsd_tolerance_mm: surfaces closer than this count as equal (TotalSegmentator's 3 mm).
        names: id -> name; None: the TotalSegmentator v2 classes.
    """

    def __init__(
        self,
        output_dir: str,
        class_ids: Sequence[int],
        label_key: str = "reference",
        nsd_tolerance_mm: float = 3.0,
        names: Mapping[int, str] | None = None,
    ) -> None:
        self.output_dir = output_dir
        known = TOTALSEGMENTATOR_V2 if names is None else names
        self.classes = {i: known.get(i, f"class {i}") for i in class_ids}
        self.label_key = label_key
        self.nsd_tolerance_mm = nsd_tolerance_mm
        self.cases: dict[str, list[ClassScore]] = {}

    def attach(self, engine: Engine) -> None:
        """Score after each case, report at the end."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.COMPLETED, self._report)

    def _score(self, engine: Any) -> None:
        for name, predicted, reference, spacing in _pairs(engine, self.label_key, self.cases):
            self.cases[name] = segmentation_scores(
                predicted, reference, spacing, self.classes, self.nsd_tolerance_mm
            )

    def _report(self, _engine: Any) -> None:
        if not self.cases:
            raise UserError(NO_CASE)
        summary = summarise(self.cases, nsd_tolerance_mm=self.nsd_tolerance_mm)
        write_report(self.cases, self.output_dir, summary)
        print(format_table(summary))
        logger.info("tables: %s", Path(self.output_dir).resolve())


class LesionReport:
    """Handler: find the tumours of each case on its own grid, and write tables when all are done.

    Args:
        output_dir: folder of ``lesions.csv``, ``lesions_cases.csv`` and ``lesions.json``.
        class_id: the id of tumour.
        label_key: reference label map (1, X, Y, Z) as it is stored.
        min_overlap: share of its voxels that the other mask must have, from 0 to 1, for a tumour to
            be found; 0: any voxel.
    """

    def __init__(
        self,
        output_dir: str,
        class_id: int,
        label_key: str = "reference",
        min_overlap: float = 0.0,
    ) -> None:
        self.output_dir = output_dir
        self.class_id = class_id
        self.label_key = label_key
        self.min_overlap = min_overlap
        self.cases: dict[str, LesionScore] = {}

    def attach(self, engine: Engine) -> None:
        """Count after each case, report at the end."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        engine.add_event_handler(Events.COMPLETED, self._report)

    def _count(self, engine: Any) -> None:
        for name, predicted, reference, spacing in _pairs(engine, self.label_key, self.cases):
            self.cases[name] = lesion_score(
                predicted, reference, spacing, self.class_id, self.min_overlap
            )

    def _report(self, _engine: Any) -> None:
        if not self.cases:
            raise UserError(NO_CASE)
        settings = {"class_id": self.class_id, "min_overlap": self.min_overlap}
        print(format_lesions(write_lesions(self.cases, self.output_dir, settings=settings)))


def _pairs(
    engine: Any, label_key: str, taken: Collection[str]
) -> Iterator[tuple[str, Any, Any, Any]]:
    """Name, prediction, reference (X, Y, Z) and voxel size in mm of the cases of an iteration."""
    for row, output in zip(engine.state.batch, engine.state.output, strict=True):
        reference = row[label_key]
        spacing = spacing_of(reference.affine)
        name = result_name(row, "image")
        if name in taken:
            name = f"{name} ({len(taken)})"
        yield name, output["pred"][0], reference[0], spacing

"""Scores of a whole work dir: each case by the fold that has not trained on it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from ctfm.auto3dseg.engines import device_of
from ctfm.auto3dseg.evaluation import segmentation_evaluator
from ctfm.auto3dseg.inference import checkpoint_of, loaded
from ctfm.auto3dseg.options import Options
from ctfm.auto3dseg.predicting import SaveClassesd, trained_folds
from ctfm.auto3dseg.recipe import Recipe
from ctfm.base.errors import UserError
from ctfm.evaluation.class_scores import ClassScore, segmentation_scores
from ctfm.evaluation.metrics import format_table, summarise, write_report
from ctfm.imaging.grids import spacing_of
from ctfm.imaging.listing import stem

__all__ = ["CaseScores", "evaluate"]

logger = logging.getLogger(__name__)

#: In the work dir.
FOLDER = "evaluation"


def evaluate(work_dir: str, out: str | None = None, preview: bool = False, amp: bool = True) -> str:
    """Score every case of the datalist by the fold that validated on it, on the case's own grid.

    Writes label maps to ``OUT/predictions`` and the tables that `ctfm compare` reads.

    Args:
        work_dir: of AutoRunner, or the folder of one fold.
        out: folder for the results; None: ``evaluation`` in the work dir.
        preview: write pictures.
        amp: compute in the fast number format of the device.

    Returns:
        The table for the terminal.

    Raises:
        UserError: no fold is trained, two folds validate on the same case, or a file cannot be
            read.
    """
    root = Path(work_dir).expanduser()
    target = root / FOLDER if out is None else Path(out).expanduser()
    cases: dict[str, list[ClassScore]] = {}
    folds = trained_folds(root)
    for folder in folds:
        found = _fold(folder, target, preview, amp)
        if twice := sorted(cases.keys() & found.keys()):
            raise UserError(
                f"{folder.name} validates on {twice[0]}, and another fold does too: give the "
                "folder of one fold"
            )
        cases |= found
    summary = summarise(cases)
    write_report(cases, target, summary, {"work_dir": str(root), "folds": [f.name for f in folds]})
    return f"{format_table(summary)}\n{len(cases)} cases of {len(folds)} folds -> {target}"


def _fold(folder: Path, target: Path, preview: bool, amp: bool) -> dict[str, list[ClassScore]]:
    device = device_of(0)
    network, recipe = loaded(checkpoint_of(folder), device)
    options = Options.read(str(folder / "configs" / "hyper_parameters.yaml"), {"amp": amp})
    _, rows = options.rows()
    named = _named(rows, os.path.normpath(folder / options["data_file_base_dir"]))
    carried = replace(options, recipe=recipe)
    saved = SaveClassesd(recipe, str(target / "predictions"), preview)
    evaluator = segmentation_evaluator(carried, network, named, device, finally_do=[saved])
    scores = CaseScores(recipe)
    scores.attach(evaluator)
    logger.info("%s: %d cases", folder.name, len(rows))
    evaluator.run()
    return scores.cases


def _named(rows: list[dict[str, Any]], base: str) -> list[dict[str, Any]]:
    """Cases are called as their files are, with the folder where files share a name."""
    plain = [stem(row["image"]) for row in rows]
    if len(set(plain)) == len(plain):
        return [{**row, "name": name} for row, name in zip(rows, plain, strict=True)]
    paths = [os.path.relpath(row["image"], base) for row in rows]
    return [
        {**row, "name": str(Path(path).parent / stem(path))}
        for row, path in zip(rows, paths, strict=True)
    ]


class CaseScores:
    """Handler: Dice and surface distances of each case; class ids are the values in label maps.

    Args:
        recipe: names and values of the classes.

    Attributes:
        cases: name of a case -> its scores.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.cases: dict[str, list[ClassScore]] = {}

    def attach(self, engine: Engine) -> None:
        """Score after each case."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Score the cases of an iteration."""
        for row, output in zip(engine.state.batch, engine.state.output, strict=True):
            spacing = spacing_of(row["label"].affine)
            self.cases[row["name"]] = self._scores(output, spacing.tolist())

    def _scores(self, output: Mapping[str, Any], spacing: list[float]) -> list[ClassScore]:
        classes = list(zip(self.recipe.values, self.recipe.class_names, strict=True))
        maps = output["pred"], output["label"]
        if not self.recipe.sigmoid:
            numbered = {n: name for n, (_, name) in enumerate(classes, start=1)}
            found = segmentation_scores(maps[0][0], maps[1][0], spacing, numbered)
        else:  # a pair of masks for each class
            found = [
                segmentation_scores(maps[0][n], maps[1][n], spacing, {1: name})[0]
                for n, (_, name) in enumerate(classes)
            ]
        return [replace(score, class_id=self._id(n)) for n, score in enumerate(found)]

    def _id(self, number: int) -> int:
        # where classes overlap, two may begin with the same value
        return number + 1 if self.recipe.sigmoid else self.recipe.values[number]

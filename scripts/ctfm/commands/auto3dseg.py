"""Commands on networks that the Auto3DSeg template trained."""

from __future__ import annotations

import logging
from typing import Literal

from ctfm.commands.calling import report

__all__ = ["check", "evaluate", "infer"]


def check(file: str) -> None:
    """Check a task's files before Auto3DSeg analyses them.

    Args:
        file: AutoRunner's input file (YAML or JSON)
    """
    report("ctfm.auto3dseg.checks:check_input", **locals())


def infer(
    work_dir: str,
    *inputs: str,
    out: str,
    overlap: float | None = None,
    input_check: Literal["error", "warn", "off"] | None = None,
    overwrite: bool = False,
    preview: bool = True,
    amp: bool = True,
) -> None:
    """Segment scans by the mean of all trained folds, each scan on its own grid.

    Args:
        work_dir: of AutoRunner, or the folder of one fold
        inputs: files, patterns in quotes, folders, DICOM series
        out: folder for label maps, names and pictures
        overlap: share of a window that neighbours have in common; default: the checkpoint's
        input_check: what to do about values that are not Hounsfield units; default: the
            checkpoint's
    """
    _quiet()
    report("ctfm.auto3dseg.predicting:infer", **locals())


def evaluate(
    work_dir: str, out: str | None = None, *, preview: bool = False, amp: bool = True
) -> None:
    """Score each case by the fold that was not trained on it; ctfm compare reads the tables.

    Args:
        work_dir: of AutoRunner, or the folder of one fold
        out: folder for tables and label maps; default: evaluation in the work dir
    """
    _quiet()
    report("ctfm.auto3dseg.scoring:evaluate", **locals())


def _quiet() -> None:
    logging.getLogger("ignite").setLevel(logging.WARNING)

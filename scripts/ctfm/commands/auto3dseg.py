"""Commands on what Auto3DSeg trained."""

from __future__ import annotations

import logging
from typing import Any

from ctfm.base.errors import UserError
from ctfm.commands.calling import call

__all__ = ["Auto3DSeg"]


class Auto3DSeg:
    """Networks that the Auto3DSeg template trained."""

    def check(self, input: str) -> None:
        """Look at a task's files before Auto3DSeg analyses them.

        Args:
            input: AutoRunner's input file.
        """
        from ctfm.auto3dseg.checks import check_input

        print(check_input(str(input)))

    def infer(self, work_dir: str, *inputs: str, out: str | None = None, **options: Any) -> None:
        """Segment scans by the mean of all trained folds, each scan on its own grid.

        Args:
            work_dir: of AutoRunner, or the folder of one fold.
            inputs: files, patterns in quotes, folders, DICOM series.
            out: folder for the label maps; -o is the same.
            options: overlap, input_check, overwrite, preview, amp.
        """
        from ctfm.auto3dseg.predicting import infer

        logging.getLogger("ignite").setLevel(logging.WARNING)
        folder = options.pop("o", out)  # fire leaves a single letter to **options
        if folder is None:
            raise UserError("no output folder is given: add -o FOLDER")
        print(call(infer, str(work_dir), [str(path) for path in inputs], str(folder), **options))

    def evaluate(self, work_dir: str, out: str | None = None, **options: Any) -> None:
        """Score each case by the fold that has not trained on it; `ctfm compare` reads the tables.

        Args:
            work_dir: of AutoRunner, or the folder of one fold.
            out: folder for tables and label maps; -o is the same; by default ``evaluation`` in
                the work dir.
            options: preview, amp.
        """
        from ctfm.auto3dseg.scoring import evaluate

        logging.getLogger("ignite").setLevel(logging.WARNING)
        folder = options.pop("o", out)
        target = None if folder is None else str(folder)
        print(call(evaluate, str(work_dir), target, **options))

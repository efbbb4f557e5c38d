"""Evaluators that MONAI lacks."""

from __future__ import annotations

import logging
from typing import Any

from monai.engines import SupervisedEvaluator

from ctfm.errors import UserError
from ctfm.scans import Failure, describe

__all__ = ["ScanEvaluator"]

logger = logging.getLogger(__name__)


class ScanEvaluator(SupervisedEvaluator):
    """MONAI's evaluator, except that one bad scan does not stop the others.

    Failures are listed at the end, and the run then ends with an error.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.failures: list[Failure] = []

    def _iteration(self, engine: Any, batchdata: Any) -> dict[str, Any]:
        if isinstance(batchdata, Failure):
            return self._fail(batchdata)
        try:
            result: dict[str, Any] = super()._iteration(engine, batchdata)
        except Exception as error:
            path = str(batchdata["image"].meta["filename_or_obj"][0])
            logger.debug("%s", path, exc_info=True)
            return self._fail(Failure(path, describe(error).removeprefix(f"{path}: ")))
        return result

    def _fail(self, failure: Failure) -> dict[str, Any]:
        logger.error("%s: %s", failure.path, failure.reason)
        self.failures.append(failure)
        return {}

    def run(self, global_epoch: int = 1) -> None:
        """Process every scan.

        Raises:
            UserError: some scans failed; the others are done.
        """
        self.failures = []
        super().run(global_epoch)
        total = self.state.epoch_length
        if self.failures:
            for failure in self.failures:
                print(f"failed: {failure.path}: {failure.reason}")
            raise UserError(
                f"{len(self.failures)} of {total} scans failed, as listed above; "
                f"{total - len(self.failures)} are done"
            )
        logger.info("%s", f"all {total} scans are done" if total else "nothing is left to do")

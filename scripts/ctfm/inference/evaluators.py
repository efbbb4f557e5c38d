"""Evaluators that MONAI lacks."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ignite.engine import Events
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents, engine_apply_transform

from ctfm.base.errors import UserError
from ctfm.imaging.scans import Failure, describe

__all__ = ["FinishedScan", "ScanEvaluator"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinishedScan:
    """A scan that is done.

    Attributes:
        row: its items, as they were loaded.
        output: what network, postprocessing and writing made of it.
        seconds: that reading, network and writing took, by name.
    """

    row: dict[str, Any]
    output: dict[str, Any]
    seconds: dict[str, float]


class ScanEvaluator(SupervisedEvaluator):
    """MONAI's evaluator, except that one bad scan does not stop the others, and writing overlaps.

    Failures are listed at the end, and the run then ends with an error.

    Args:
        args, kwargs: as for `SupervisedEvaluator`.
        on_failure: "warn" ends without an error: launchers that start a failed process again, or
            stop the others, would do so for scans that fail each time.
        writing: what is done to a scan after postprocessing, in a thread of its own while the
            network is busy with the next scan. One scan is written at a time.
    """

    def __init__(
        self,
        *args: Any,
        writing: Callable[[Any], Any] | None = None,
        on_failure: str = "error",
        **kwargs: Any,
    ) -> None:
        if on_failure not in ("error", "warn"):
            raise UserError(f"on_failure is {on_failure!r}: choose error or warn")
        self.on_failure = on_failure
        self.failures: list[Failure] = []
        self.writing = writing
        self._listeners: list[Callable[[FinishedScan | Failure], None]] = []
        self._lock = threading.Lock()
        self._writer: ThreadPoolExecutor | None = None
        self._written: Future[None] | None = None
        self._forwarded = 0.0
        super().__init__(*args, **kwargs)  # attaches handlers, which listen
        self.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._note_time)
        self.add_event_handler(Events.EPOCH_COMPLETED, self._collect)

    def tell_when_finished(self, listener: Callable[[FinishedScan | Failure], None]) -> None:
        """Have `listener` called for each scan that is written or has failed, one at a time.

        It may be called in the thread that writes: ignite's events are not made for that.
        """
        self._listeners.append(listener)

    def _iteration(self, engine: Any, batchdata: Any) -> dict[str, Any]:
        if isinstance(batchdata, Failure):
            self._finish(batchdata)
            return {}
        start = time.perf_counter()
        try:
            result: dict[str, Any] = super()._iteration(engine, batchdata)
        except Exception as error:
            self._finish(_failure(str(batchdata["image"].meta["filename_or_obj"][0]), error))
            return {}
        for row, output in zip(engine.state.batch, engine.state.output, strict=True):
            seconds = {
                "reading": float(row.get("seconds", 0.0)),
                "network": self._forwarded - start,
            }
            self._submit(row, output, seconds)
        return result

    def _note_time(self, _engine: Any) -> None:
        self._forwarded = time.perf_counter()

    def _submit(self, row: Any, output: Any, seconds: dict[str, float]) -> None:
        self._collect()
        if self._writer is None:
            self._write(row, output, seconds)
        else:
            self._written = self._writer.submit(self._write, row, output, seconds)

    def _write(self, row: Any, output: Any, seconds: dict[str, float]) -> None:
        start = time.perf_counter()
        if self.writing is not None:
            try:
                row, output = engine_apply_transform(row, output, self.writing)
            except Exception as error:
                self._finish(_failure(str(row["image"].meta["filename_or_obj"]), error))
                return
        self._finish(FinishedScan(row, output, {**seconds, "writing": time.perf_counter() - start}))

    def _collect(self, _engine: Any = None) -> None:
        """Wait for the scan that is being written."""
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def _finish(self, scan: FinishedScan | Failure) -> None:
        with self._lock:
            if isinstance(scan, Failure):
                logger.error("%s: %s", scan.path, scan.reason)
                self.failures.append(scan)
            for listener in self._listeners:
                listener(scan)

    def run(self, global_epoch: int = 1) -> None:
        """Process every scan.

        Raises:
            UserError: some scans failed, and `on_failure` is "error"; the others are done.
        """
        self.failures = []
        if self.state.epoch_length == 0:
            logger.info("nothing is left to do")
            return
        self._writer = None if self.writing is None else ThreadPoolExecutor(1, "writing")
        try:
            super().run(global_epoch)
        finally:
            self._collect()  # what is done is not lost by Ctrl-C
            if self._writer is not None:
                self._writer.shutdown()
                self._writer = None
        total = self.state.epoch_length
        if self.failures:
            for failure in self.failures:
                print(f"failed: {failure.path}: {failure.reason}")
            text = (
                f"{len(self.failures)} of {total} scans failed, as listed above; "
                f"{total - len(self.failures)} are done"
            )
            if self.on_failure == "error":
                raise UserError(text)
            logger.warning(text)
        else:
            logger.info("all %d scans are done", total)


def _failure(path: str, error: Exception) -> Failure:
    logger.debug("%s", path, exc_info=True)
    return Failure(path, describe(error).removeprefix(f"{path}: "))

"""Watch a pretraining learn: is it fast, does it wait for data, does it find its positives?"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from torch.utils.tensorboard import SummaryWriter

from ctfm.training.losses.scores import contrastive_scores

__all__ = ["ContrastiveMonitor", "ThroughputMonitor"]

logger = logging.getLogger(__name__)


class ThroughputMonitor:
    """Images per second, and the share of the time that the trainer waits for a batch.

    Both are this process's own. Give it to `TrainingProgress`, which attaches it and adds `summary`
    to its line.

    Args:
        log_dir: folder of the TensorBoard files.
        iterations: between two points of the curves.
    """

    unit = "images"

    def __init__(self, log_dir: str, iterations: int = 10) -> None:
        self.log_dir = log_dir
        self.iterations = iterations
        self.writer: SummaryWriter | None = None
        self.values: dict[str, list[float]] = defaultdict(list)

    def attach(self, engine: Engine) -> None:
        """Measure in every process, write in the first one."""
        if idist.get_rank() == 0:
            self.writer = SummaryWriter(self.log_dir)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._wait)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._got)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        every = Events.ITERATION_COMPLETED(every=self.iterations)
        engine.add_event_handler(every, self._point)

    def summary(self, engine: Any) -> str:
        """Means over the epoch so far, as words, and how many scans were skipped."""
        words = [self._spelled(name, float(np.mean(v))) for name, v in self.values.items()]
        if self.seconds:
            words.append(f"{self.images / self.seconds:.1f} {self.unit}/s")
            words.append(f"{self.waited / self.seconds:.0%} waiting for data")
        loader = engine.state.dataloader
        for holder in (getattr(loader, "samples", None), getattr(loader, "dataset", None)):
            if skipped := len(getattr(holder, "damaged", ())):
                words.append(f"{skipped} scans skipped")
                break
        return "  ".join(words)

    def _spelled(self, name: str, value: float) -> str:
        return f"{name} {value:.3f}"

    def _start(self, _engine: Any) -> None:
        self.values.clear()
        self.images = 0
        self.waited = self.seconds = 0.0
        self.began = self.asked = time.perf_counter()
        self.since = (0, 0.0, 0.0)

    def _wait(self, _engine: Any) -> None:
        self.asked = time.perf_counter()

    def _got(self, _engine: Any) -> None:
        self.waited += time.perf_counter() - self.asked

    def _count(self, engine: Any) -> None:
        self.images += self._images(engine.state.output["image"])
        self.seconds = time.perf_counter() - self.began

    def _images(self, batch: torch.Tensor) -> int:
        return len(batch)

    def _point(self, engine: Any) -> None:
        images, seconds, waited = self.since
        self.since = (self.images, self.seconds, self.waited)
        spent = max(self.seconds - seconds, 1e-9)
        self._write(engine, f"{self.unit}_per_second", (self.images - images) / spent)
        self._write(engine, "share_of_time_waiting_for_data", (self.waited - waited) / spent)

    def _write(self, engine: Any, name: str, value: float) -> None:
        if self.writer is not None:
            self.writer.add_scalar(name, value, engine.state.iteration)


class ContrastiveMonitor(ThroughputMonitor):
    """What contrastive learning is judged by, beside the loss; warns when embeddings collapse.

    `contrastive_scores`, of this process's batch: top-1 accuracy (chance is one of all
    candidates), alignment, uniformity, standard deviation.

    Args:
        log_dir: folder of the TensorBoard files.
        iterations: between two points of the curves.
        collapse: standard deviation (1 is isotropic, 0 a single point) below which embeddings
            count as collapsed.
    """

    unit = "views"

    def __init__(self, log_dir: str, iterations: int = 10, collapse: float = 0.05) -> None:
        super().__init__(log_dir, iterations)
        self.collapse = collapse

    def _images(self, batch: torch.Tensor) -> int:
        return int(np.prod(batch.shape[:3]))

    def _point(self, engine: Any) -> None:
        super()._point(engine)
        output = engine.state.output["pred"]
        projected = output[0] if isinstance(output, list) else output
        for name, value in contrastive_scores(projected).items():
            self.values[name].append(value)
            self._write(engine, name, value)
        if self.values["std"][-1] < self.collapse:
            logger.warning(
                "iteration %d: embeddings collapse (standard deviation %.4f of 1): lower "
                "learning_rate, or check that scans of the datalist differ",
                engine.state.iteration,
                self.values["std"][-1],
            )

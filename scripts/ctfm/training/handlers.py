"""Handlers for MONAI engines: seeds, progress, checkpoints that resume, frozen encoders."""

from __future__ import annotations

import logging
import random
from inspect import signature
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from monai.data.utils import set_rnd
from monai.handlers import TensorBoardStatsHandler
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from ctfm.base.errors import UserError
from ctfm.training.batchnorm import StatisticsHold

__all__ = [
    "EpochSeed",
    "FreezeEncoder",
    "TensorBoard",
    "TrainingProgress",
    "training_loss",
]

logger = logging.getLogger(__name__)


class EpochSeed:
    """Seed every source of randomness from (seed, epoch, rank) at the start of each epoch.

    The random states are then a function of the epoch: a run that was killed and resumed draws
    what it would have drawn. Put it first among the trainer's handlers.

    Args:
        seed: of the whole run.
        dataset: its random transforms are seeded; one of a store is told the epoch, as are the
            loader and its sampler. Those that know a place in the epoch are told where a resumed
            training goes on.
    """

    def __init__(self, seed: int, dataset: Any) -> None:
        self.seed = seed
        self.dataset = dataset

    def attach(self, engine: Engine) -> None:
        """Run before anything is drawn."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Any) -> None:
        """Seed torch, numpy, Python and the transforms; tell the epoch to what asks for it."""
        entropy = (self.seed, engine.state.epoch, idist.get_rank())
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        set_rnd(self.dataset, seed)
        loader, state = engine.state.dataloader, engine.state
        done = state.iteration - (state.epoch - 1) * (state.epoch_length or 0)
        parts: list[Any] = [self.dataset, loader, getattr(loader, "sampler", None)]
        for part in parts:
            if not hasattr(part, "set_epoch"):
                continue
            if "start" in signature(part.set_epoch).parameters:
                part.set_epoch(state.epoch, start=done)
            else:
                part.set_epoch(state.epoch)


class TrainingProgress:
    """A progress bar with loss and speed for each epoch, and one line that stays.

    Args:
        evaluator: its key metric is added to the line after an evaluation.
        monitor: attached as well; its `summary` of the epoch is added to the line.
    """

    def __init__(self, evaluator: Any = None, monitor: Any = None) -> None:
        self.evaluator = evaluator
        self.monitor = monitor
        self.losses: list[float] = []

    def attach(self, engine: Engine) -> None:
        """Draw on rank 0 alone; a log file gets the line, a terminal the bar too."""
        if self.monitor is not None:
            self.monitor.attach(engine)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note)
        if idist.get_rank() == 0:
            bar = ProgressBar(persist=False, desc="training", disable=None)
            bar.attach(engine, output_transform=training_loss)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._line)

    def _start(self, _engine: Any) -> None:
        self.losses = []

    def _note(self, engine: Any) -> None:
        loss = training_loss(engine.state.output)["loss"]
        if not np.isfinite(loss):
            raise UserError(
                f"the loss became {loss} in epoch {engine.state.epoch}, iteration "
                f"{engine.state.iteration}: lower learning_rate, or check the images for NaN"
            )
        self.losses.append(loss)

    def _line(self, engine: Any) -> None:
        state = engine.state
        seconds = state.times["EPOCH_COMPLETED"] or 0.0
        line = (
            f"epoch {state.epoch}/{state.max_epochs}  loss {np.mean(self.losses):.4f}  "
            f"{len(self.losses) / max(seconds, 1e-9):.2f} it/s"
        )
        if self.monitor is not None:
            line += f"  {self.monitor.summary(engine)}"
        evaluator = self.evaluator
        if (
            evaluator is not None
            and evaluator.state.epoch == state.epoch
            and evaluator.state.metrics
        ):
            name = evaluator.state.key_metric_name
            line += f"  {name} {evaluator.state.metrics[name]:.4f}"
            line += f" (best {evaluator.state.best_metric:.4f})"
        logger.info(line)


class TensorBoard:
    """Curves of loss and metrics for TensorBoard, from rank 0, on disk after each epoch.

    Args:
        log_dir: folder of the event files.
        iteration_log: also the loss of each iteration; False for evaluators.
    """

    def __init__(self, log_dir: str, iteration_log: bool = True) -> None:
        self.log_dir = log_dir
        self.iteration_log = iteration_log

    def attach(self, engine: Engine) -> None:
        """Attach MONAI's handler where this process is the one that writes."""
        if idist.get_rank() != 0:
            return
        writer = SummaryWriter(self.log_dir)
        TensorBoardStatsHandler(
            writer, iteration_log=self.iteration_log, output_transform=training_loss
        ).attach(engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, writer.flush)


class FreezeEncoder:
    """Train the decoder alone for the first epochs, then everything.

    Args:
        network: with an `encoder`, wrapped for distributed training or not.
        epochs: how many; 0 never freezes.
    """

    def __init__(self, network: nn.Module, epochs: int) -> None:
        self.network = network
        self.epochs = epochs
        self.frozen = False

    def attach(self, engine: Engine) -> None:
        """Look at the start of each epoch.

        Raises:
            UserError: the network has no `encoder`.
        """
        if self.epochs <= 0:
            return
        encoder = getattr(getattr(self.network, "module", self.network), "encoder", None)
        if encoder is None:
            name = type(self.network).__name__
            raise UserError(f"{name} has no encoder to freeze: set freeze_encoder_epochs to 0")
        self.encoder: nn.Module = encoder
        self.hold = StatisticsHold(encoder, active=False)
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Any) -> None:
        """Freeze or thaw; the frozen encoder's BatchNorm statistics stay as they are."""
        frozen = engine.state.epoch <= self.epochs
        if frozen != self.frozen:
            logger.info(
                "epoch %d: encoder %s", engine.state.epoch, "frozen" if frozen else "thawed"
            )
        self.frozen = self.hold.active = frozen
        for parameter in self.encoder.parameters():
            parameter.requires_grad_(not frozen)


def training_loss(output: Any) -> dict[str, float]:
    """``{"loss": value}`` from what a MONAI trainer keeps of an iteration, decollated or not."""
    first = output[0] if isinstance(output, list) else output
    return {"loss": float(torch.as_tensor(first["loss"]).detach())}

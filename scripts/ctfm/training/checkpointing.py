"""Checkpoints of a training: the best, the last, some on the way, and going on after kill -9."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn

from ctfm.base.errors import UserError
from ctfm.base.files import atomic_path

__all__ = ["Checkpoint"]

logger = logging.getLogger(__name__)

BEST = "model.pt"
LAST = "last.pt"
PREVIOUS = "model.previous.pt"
KEPT = "epoch_{:04d}.pt"


class Checkpoint:
    """Keep the best and the last state, and continue from the last one after a kill -9.

    ``model.pt`` is the state dict of the network at the best evaluation, as `monai.bundle` loads
    it. ``last.pt`` holds network, optimizer, schedule, iteration and best metric; with `EpochSeed`
    this is all that the next epoch depends on. All files appear whole or not at all. A ``model.pt``
    of an earlier training is kept once as ``model.previous.pt``.

    Put it last among the trainer's handlers.

    Args:
        ckpt_dir: folder of both files.
        network: network in training, wrapped for distributed training or not.
        optimizer: its state is kept.
        lr_scheduler: its state is kept.
        evaluator: its key metric decides what is best; None: there is no ``model.pt``.
        interval: epochs between two saves of ``last.pt``; the final epoch and those with a new
            best are always saved.
        iterations: also save ``last.pt`` within an epoch, each time after so many iterations; a
            training then resumes there. Loaders that know the place in an epoch (`StoreLoader`,
            `PassSampler`) go on with what is left of it. None: at the end of epochs alone.
        keep_interval: keep the network's weights each time after so many epochs, as
            ``epoch_0010.pt``; None: none.
        resume: continue from ``last.pt`` if there is one. False starts anew and refuses to
            overwrite an unfinished or finished training.
    """

    def __init__(
        self,
        ckpt_dir: str,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        lr_scheduler: Any,
        evaluator: Any = None,
        interval: int = 1,
        resume: bool = True,
        iterations: int | None = None,
        keep_interval: int | None = None,
    ) -> None:
        self.folder = Path(ckpt_dir)
        self.network = getattr(network, "module", network)
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.evaluator = evaluator
        self.interval = interval
        self.resume = resume
        self.iterations = iterations
        self.keep_interval = keep_interval
        self.saved_best = False

    def attach(self, engine: Engine) -> None:
        """Load when the run starts, save on the way and at each new best evaluation."""
        engine.add_event_handler(Events.STARTED, self._start)
        if self.iterations:
            event = Events.ITERATION_COMPLETED(every=self.iterations)
            engine.add_event_handler(event, self._save_within_epoch)
        if self.keep_interval:
            event = Events.EPOCH_COMPLETED(every=self.keep_interval)
            engine.add_event_handler(event, self._keep)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save_last)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.EPOCH_COMPLETED, self._save_best)

    def _start(self, engine: Any) -> None:
        last = self.folder / LAST
        if not last.exists():
            return
        if not self.resume:
            raise UserError(
                f"{last} exists and resume is False: choose another ckpt_dir, or delete that file"
            )
        state = self._read(last, engine.state.device)
        try:
            self._restore(state, engine)
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"{last} was written by another training ({str(error).splitlines()[0]}): "
                "choose another ckpt_dir, or the same network and optimizer settings"
            ) from error
        if state["epoch"] >= engine.state.max_epochs:
            logger.info("%s: all %d epochs are done; raise epochs to go on", last, state["epoch"])
            engine.terminate()
        elif within := engine.state.iteration % engine.state.epoch_length:
            text = "resuming in epoch %d, after %d of its %d iterations, from %s"
            logger.info(text, state["epoch"] + 1, within, engine.state.epoch_length, last)
        else:
            logger.info("resuming after epoch %d from %s", state["epoch"], last)

    def _restore(self, state: dict[str, Any], engine: Any) -> None:
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._restore_schedule(state["lr_scheduler"])
        if engine.scaler is not None and state["scaler"]:
            engine.scaler.load_state_dict(state["scaler"])
        length = engine.state.epoch_length
        engine.state.epoch = state["epoch"]
        engine.state.iteration = state["epoch"] * length
        if state.get("epoch_length") == length:  # else the place in the epoch means nothing
            engine.state.iteration = state["iteration"]
        if self.evaluator is None:
            return
        self.evaluator.state.best_metric = state["best_metric"]
        self.evaluator.state.best_metric_epoch = state["best_metric_epoch"]
        self.saved_best = state["best_metric_epoch"] > 0  # else model.pt is of another training

    def _restore_schedule(self, state: dict[str, Any]) -> None:
        """Go on in the schedule as long as it is now; its old length would rise again after it."""
        schedule = vars(self.lr_scheduler)
        length = {key: schedule[key] for key in ("t_total", "warmup_steps") if key in schedule}
        self.lr_scheduler.load_state_dict(state)
        schedule.update(length)

    def _read(self, path: Path, device: torch.device) -> dict[str, Any]:
        try:
            state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        except Exception as error:
            raise UserError(
                f"{path} cannot be read ({type(error).__name__}): delete it to start anew"
            ) from error
        return state

    def _save_last(self, engine: Any) -> None:
        epoch, (_, best) = engine.state.epoch, self._best()
        if epoch % self.interval == 0 or epoch in (best, engine.state.max_epochs):
            self._save_state(engine, epoch)

    def _save_within_epoch(self, engine: Any) -> None:
        if engine.state.iteration % engine.state.epoch_length:  # else the epoch's end saves
            self._save_state(engine, engine.state.epoch - 1)

    def _keep(self, engine: Any) -> None:
        if idist.get_rank() == 0:
            content = {"model": self.network.state_dict(), "epoch": engine.state.epoch}
            _save(content, self.folder / KEPT.format(engine.state.epoch))

    def _save_state(self, engine: Any, epochs: int) -> None:
        """Save what a resumed training needs; `epochs` are complete."""
        if idist.get_rank() != 0:
            return
        best_metric, best_metric_epoch = self._best()
        _save(
            {
                "model": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "lr_scheduler": self.lr_scheduler.state_dict(),
                "scaler": engine.scaler.state_dict() if engine.scaler is not None else {},
                "epoch": epochs,
                "iteration": engine.state.iteration,
                "epoch_length": engine.state.epoch_length,
                "best_metric": best_metric,
                "best_metric_epoch": best_metric_epoch,
            },
            self.folder / LAST,
        )

    def _best(self) -> tuple[float, int]:
        """Best metric so far, and the epoch that it is of; 0 is none."""
        if self.evaluator is None:
            return 0.0, 0
        state = self.evaluator.state
        return float(state.best_metric), int(state.best_metric_epoch)

    def _save_best(self, evaluator: Any) -> None:
        if idist.get_rank() != 0 or evaluator.state.best_metric_epoch != evaluator.state.epoch:
            return
        best = self.folder / BEST
        if not self.saved_best and best.exists():
            best.replace(self.folder / PREVIOUS)
        _save(self.network.state_dict(), best)
        self.saved_best = True


def _save(state: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # how torch.save reports a full disk
            raise OSError(f"{str(error).splitlines()[0]} (is the disk full?)") from error

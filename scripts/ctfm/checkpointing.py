"""Checkpoints of a training: the best, the last, and going on after a kill -9."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn

from ctfm.errors import UserError
from ctfm.files import atomic_path

__all__ = ["Checkpoint"]

logger = logging.getLogger(__name__)

BEST = "model.pt"
LAST = "last.pt"
PREVIOUS = "model.previous.pt"


class Checkpoint:
    """Keep the best and the last state, and continue from the last one after a kill -9.

    ``model.pt`` is the state dict of the network at the best evaluation, as `monai.bundle` loads
    it. ``last.pt`` holds network, optimizer, schedule, epoch and best metric; with `EpochSeed` this
    is all that the next epoch depends on. Both appear whole or not at all. A ``model.pt`` of an
    earlier training is kept once as ``model.previous.pt``.

    Put it last among the trainer's handlers.

    Args:
        ckpt_dir: folder of both files.
        network: network in training, wrapped for distributed training or not.
        optimizer: its state is kept.
        lr_scheduler: its state is kept.
        evaluator: its key metric decides what is best.
        interval: epochs between two saves of ``last.pt``; the final epoch and those with a new
            best are always saved.
        resume: continue from ``last.pt`` if there is one. False starts anew and refuses to
            overwrite an unfinished or finished training.
    """

    def __init__(
        self,
        ckpt_dir: str,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        lr_scheduler: Any,
        evaluator: Any,
        interval: int = 1,
        resume: bool = True,
    ) -> None:
        self.folder = Path(ckpt_dir)
        self.network = getattr(network, "module", network)
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.evaluator = evaluator
        self.interval = interval
        self.resume = resume
        self.saved_best = False

    def attach(self, engine: Engine) -> None:
        """Load when the run starts, save after each epoch and each new best evaluation."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save_last)
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
        else:
            logger.info("resuming after epoch %d from %s", state["epoch"], last)

    def _restore(self, state: dict[str, Any], engine: Any) -> None:
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._restore_schedule(state["lr_scheduler"])
        if engine.scaler is not None and state["scaler"]:
            engine.scaler.load_state_dict(state["scaler"])
        engine.state.epoch = state["epoch"]
        engine.state.iteration = state["epoch"] * engine.state.epoch_length
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
        epoch, best = engine.state.epoch, self.evaluator.state.best_metric_epoch
        due = epoch % self.interval == 0 or epoch in (best, engine.state.max_epochs)
        if idist.get_rank() != 0 or not due:
            return
        _save(
            {
                "model": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "lr_scheduler": self.lr_scheduler.state_dict(),
                "scaler": engine.scaler.state_dict() if engine.scaler is not None else {},
                "epoch": engine.state.epoch,
                "best_metric": float(self.evaluator.state.best_metric),
                "best_metric_epoch": int(self.evaluator.state.best_metric_epoch),
            },
            self.folder / LAST,
        )

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

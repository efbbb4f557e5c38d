"""Train one fold: what its `scripts/train.py` runs, in one process or, by torchrun, in several."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, ValidationHandler
from monai.optimizers import WarmupCosineSchedule
from monai.utils import set_determinism
from torch import nn

from ctfm.auto3dseg.engines import TrainingData, device_of, label_channels, loss
from ctfm.auto3dseg.evaluation import segmentation_evaluator
from ctfm.auto3dseg.options import Options
from ctfm.auto3dseg.results import inject, write_results
from ctfm.auto3dseg.stored import convert_scans
from ctfm.auto3dseg.tracking import track
from ctfm.base.errors import UserError, explain_in_one_line
from ctfm.contract.tasks import WHOLE_BODY
from ctfm.inference.inferers.autocast import AutocastInferer
from ctfm.networks.encoders import distributed
from ctfm.training.batchnorm import BatchNormStatistics, prepare_statistics
from ctfm.training.checkpointing import Checkpoint
from ctfm.training.handlers import EpochSeed, FreezeEncoder, TensorBoard, TrainingProgress

__all__ = ["PlateauStop", "fit_fold", "train_fold"]

logger = logging.getLogger(__name__)


def train_fold(config_file: str | list[str], **overrides: Any) -> None:
    """Train a fold, or go on where its training was stopped.

    Args:
        config_file: the fold's configs.
        overrides: options by name, or nested ids such as ``network::init_filters``.

    Raises:
        UserError: an option has no sense, or the training cannot go on.
    """
    explain_in_one_line()
    options = Options.read(config_file, overrides)
    rank = int(os.environ.get("RANK", 0))
    with _alone(options.ckpt_dir, rank):
        _log_to(options.ckpt_dir, rank)
        if options["loader"] == "dali":  # before processes wait for each other, for minutes at most
            convert_scans(options)
        with _process() as (device, world_size):
            remaining: Options | None = options
            while remaining is not None:
                remaining = _attempt(remaining, device, world_size)


def _attempt(options: Options, device: torch.device, world_size: int) -> Options | None:
    """Train; None when that is done, and options that need less memory when there is too little."""
    try:
        fit_fold(options, device, world_size)
        return None
    except torch.OutOfMemoryError as error:
        lighter = options.smaller()
        text = (
            f"out of GPU memory with batch_size {options['batch_size']} and roi_size "
            f"{list(options.recipe.roi_size)}"
        )
        if lighter is None or world_size > 1:  # the other processes wait for this one
            raise UserError(f"{text}: set smaller ones") from error
    logger.warning(
        "%s: going on with %d and %s",
        text,
        lighter["batch_size"],
        list(lighter.recipe.roi_size),
    )
    torch.cuda.empty_cache()
    return lighter


@contextmanager
def _process() -> Iterator[tuple[torch.device, int]]:
    """This process' device, and how many processes there are."""
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    device = device_of(int(os.environ.get("LOCAL_RANK", 0)))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world_size > 1:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device, world_size
        if world_size > 1:  # one that leaves while others work is aborted now and then
            torch.distributed.barrier()
    finally:
        if world_size > 1:
            torch.distributed.destroy_process_group()


@contextmanager
def _alone(folder: Path, rank: int) -> Iterator[None]:
    """Keep a second training out: one whose AutoRunner was killed runs on by itself."""
    try:
        import fcntl
    except ImportError:  # Windows has none
        rank = -1
    if rank != 0:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise UserError(
                f"{folder}: process {lock.read()} trains there already, perhaps one whose "
                "AutoRunner was killed: wait until it has ended, or end it"
            ) from error
        except OSError:
            logger.warning("%s: the file system has no locks: start no second training", folder)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _log_to(folder: Path, rank: int) -> None:
    """Rank 0 writes to the terminal and to ``training.log``, the others warnings alone."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if rank == 0:
        handlers.append(logging.FileHandler(folder / "training.log", encoding="utf-8"))
    level = logging.INFO if rank == 0 else logging.WARNING
    form = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=level, format=form, datefmt="%H:%M:%S", handlers=handlers, force=True)
    logging.getLogger("ignite").setLevel(logging.WARNING)
    logging.getLogger("monai.data").setLevel(logging.ERROR)


def fit_fold(options: Options, device: torch.device, world_size: int = 1) -> None:
    """Train, validate on the way, and write what inference needs.

    Raises:
        UserError: a file cannot be used, or the loss is not finite.
    """
    set_determinism(seed=options["seed"])
    training, validation = options.rows()
    network, report = inject(options)
    network = network.to(device, memory_format=torch.channels_last_3d)
    network = prepare_statistics(network, options["norm_statistics"])
    evaluator = segmentation_evaluator(options, network, validation, device, world_size)
    TensorBoard(str(options.ckpt_dir / "tensorboard"), iteration_log=False).attach(evaluator)
    wrapped = network
    if world_size > 1:
        wrapped = distributed(network, device, sync=options["norm_statistics"] == "batch")
    data = TrainingData(options, training, device, world_size)
    trainer = _trainer(options, wrapped, data, evaluator, device)
    track(options, trainer, evaluator)
    trainer.run()
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        write_results(options, report, evaluator.state, trainer.state.epoch)


def _optimizer(options: Options, network: nn.Module) -> torch.optim.Optimizer:
    """AdamW with a learning rate of its own for the encoder."""
    plain: Any = getattr(network, "module", network)
    encoder = list(plain.encoder.parameters())
    inside = {id(parameter) for parameter in encoder}
    decoder = [p for p in plain.parameters() if id(p) not in inside]
    rates = options.learning_rates
    groups = [
        {"params": parameters, "lr": rate}
        for parameters, rate in zip((encoder, decoder), rates, strict=True)
    ]
    return torch.optim.AdamW(groups, weight_decay=float(options["weight_decay"]))


def _interval(options: Options) -> int:
    return min(int(options["num_epochs_per_validation"]), int(options["num_epochs"]))


def _trainer(
    options: Options,
    network: nn.Module,
    data: TrainingData,
    evaluator: SupervisedEvaluator,
    device: torch.device,
) -> SupervisedTrainer:
    epochs, interval = int(options["num_epochs"]), _interval(options)
    optimizer = _optimizer(options, network)
    schedule = WarmupCosineSchedule(
        optimizer,
        warmup_steps=epochs * WHOLE_BODY.warmup_share,
        t_total=epochs,
        end_lr=min(options.learning_rates) * WHOLE_BODY.end_learning_rate_share,
        warmup_multiplier=0.1,
    )
    batches = int(options["precise_statistics_batches"])
    ckpt_dir = str(options.ckpt_dir)
    return SupervisedTrainer(
        max_epochs=epochs,
        device=device,
        train_data_loader=data.loader,
        network=network,
        optimizer=optimizer,
        prepare_batch=label_channels(options.recipe),
        loss_function=loss(options.recipe),
        inferer=AutocastInferer(enabled=options["amp"]),
        amp=options["amp"] and device.type == "cuda",
        decollate=False,
        train_handlers=[
            EpochSeed(options["seed"], data.dataset),
            FreezeEncoder(network, options["freeze_epochs"]),
            LrScheduleHandler(schedule, print_lr=False),
            BatchNormStatistics(network, data.statistics_loader, batches, interval),
            ValidationHandler(interval=interval, validator=evaluator, epoch_level=True),
            TensorBoard(f"{ckpt_dir}/tensorboard"),
            TrainingProgress(evaluator),
            PlateauStop(evaluator, options["early_stopping_epochs"]),
            Checkpoint(ckpt_dir, network, optimizer, schedule, evaluator),
        ],
    )


class PlateauStop:
    """End a training when no validation has been better for some epochs.

    What it decides by stands in checkpoints, so that it holds over a resumed training.

    Args:
        evaluator: its key metric decides.
        epochs: without a better one; None never stops.
    """

    def __init__(self, evaluator: SupervisedEvaluator, epochs: int | None) -> None:
        self.evaluator = evaluator
        self.epochs = epochs

    def attach(self, engine: Engine) -> None:
        """Look at the end of each epoch; put it before the handler that saves."""
        if self.epochs:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Stop, and say so."""
        best = max(0, self.evaluator.state.best_metric_epoch)
        if engine.state.epoch - best >= (self.epochs or 0):
            logger.info(
                "epoch %d: no better validation since epoch %d: stopping early",
                engine.state.epoch,
                best,
            )
            engine.terminate()

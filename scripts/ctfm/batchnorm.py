"""BatchNorm with batches of one or two: running statistics that evaluation can rely on.

CT-FM's encoder normalises by batch. With one or two crops a process, the running statistics lag
behind the weights and no single crop looks like them: training goes well and evaluation does not.
Three remedies, to be combined: keep the statistics of the pretrained encoder, measure them anew
before each evaluation, or freeze all of them for the last part of the training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["BatchNormStatistics", "batch_norms", "freeze_statistics", "measure_statistics"]


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """The BatchNorm layers of a network that keep running statistics."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def freeze_statistics(network: nn.Module) -> None:
    """Normalise by the running statistics from now on, in training too; weights still learn.

    A hook holds each layer in evaluation mode, since every `network.train()` would undo it.
    """
    for layer in batch_norms(network):
        if not getattr(layer, "statistics_frozen", False):
            layer.statistics_frozen = True  # type: ignore[assignment]
            layer.register_forward_pre_hook(_hold_in_evaluation_mode)


def _hold_in_evaluation_mode(layer: nn.Module, _inputs: Any) -> None:
    layer.training = False


@torch.no_grad()
def measure_statistics(
    network: nn.Module, forward: Callable[[Any], Any], batches: Iterable[Any]
) -> int:
    """Set the running statistics to the plain average over some batches.

    "Precise BatchNorm" of Wu and Johnson, Rethinking "Batch" in BatchNorm (arXiv:2105.07576).

    Args:
        network: its BatchNorm layers are updated, weights are not; frozen layers stay.
        forward: applies the network to one batch.
        batches: crops as in training.

    Returns:
        Number of batches used; with none, nothing changes.
    """
    layers = [m for m in batch_norms(network) if not getattr(m, "statistics_frozen", False)]
    if not layers:
        return 0
    momenta = [layer.momentum for layer in layers]
    was_training, used = network.training, 0
    network.train()
    try:
        for batch in batches:
            if used == 0:
                for layer in layers:
                    layer.reset_running_stats()
                    layer.momentum = None  # None averages over all batches
            forward(batch)
            used += 1
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        network.train(was_training)
    return used


class BatchNormStatistics:
    """Handler: make evaluation follow training.

    Before each evaluation the statistics are measured on training crops, so that evaluation and
    the checkpoints that follow it have them. From a share of the training on they are frozen:
    what is trained from there is exactly what is evaluated. Put it before the
    `ValidationHandler` among the trainer's handlers.

    Args:
        network: network in training, wrapped for distributed training or not.
        loader: training data loader.
        batches: how many of its batches measure, at most one pass; 0 keeps what training left.
        interval: epochs between evaluations.
        freeze_after: share of the epochs that is trained with batch statistics: 0 keeps the
            pretrained ones from the start, 1 never freezes.
    """

    def __init__(
        self,
        network: nn.Module,
        loader: Iterable[Any],
        batches: int,
        interval: int = 1,
        freeze_after: float = 1.0,
    ) -> None:
        self.network = network
        self.loader = loader
        self.batches = batches
        self.interval = interval
        self.freeze_after = freeze_after

    def attach(self, engine: Engine) -> None:
        """Measure at the end of each epoch that is evaluated; freeze when the share is reached."""
        if self.batches > 0:
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self.measure)
        if self.freeze_after < 1:
            engine.add_event_handler(Events.EPOCH_STARTED, self.freeze)

    def measure(self, engine: Any) -> None:
        """Measure with the engine's own inferer, on its device."""

        def forward(batch: Any) -> Any:
            inputs = engine.prepare_batch(batch, engine.state.device, engine.non_blocking)[0]
            return engine.inferer(inputs, self.network)

        measure_statistics(self.network, forward, islice(self.loader, self.batches))

    def freeze(self, engine: Any) -> None:
        """Measure a last time and freeze; a run resumed after that point freezes at once."""
        first = int(self.freeze_after * engine.state.max_epochs) + 1
        if engine.state.epoch == first and first > 1 and self.batches > 0:
            self.measure(engine)
        if engine.state.epoch >= first:
            freeze_statistics(self.network)

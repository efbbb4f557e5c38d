"""BatchNorm with batches of one or two: running statistics that evaluation can rely on.

CT-FM's encoder normalises by batch. With one or two crops a process, the running statistics lag
behind the weights, and evaluation falls while training goes well. Two remedies: measure the
statistics anew before each evaluation, or keep those of the pretrained encoder throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ctfm.base.errors import UserError

__all__ = [
    "MODES",
    "BatchNormStatistics",
    "StatisticsHold",
    "batch_norms",
    "measure_statistics",
    "prepare_statistics",
]

MODES = ("batch", "frozen")


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """The BatchNorm layers of a network that keep running statistics."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def prepare_statistics(network: nn.Module, mode: str = "batch") -> nn.Module:
    """Choose how a network normalises in training: the `_target_` that configs use.

    Args:
        network: changed in place, and returned.
        mode: "batch": by the crops at hand, as published; "frozen": by the pretrained statistics,
            which never change.

    Raises:
        UserError: there is no such mode.
    """
    if mode not in MODES:
        raise UserError(f"norm_statistics is {mode!r}: choose {' or '.join(MODES)}")
    if mode == "frozen":
        StatisticsHold(network)
    return network


class StatisticsHold:
    """Keeps BatchNorm layers at their running statistics, in training too; weights still learn.

    A hook holds each layer in evaluation mode, since every `network.train()` would undo it.

    Args:
        network: whose layers are held.
        active: the hold can be lifted and taken up again.
    """

    def __init__(self, network: nn.Module, active: bool = True) -> None:
        self.active = active
        for layer in batch_norms(network):
            layer.register_forward_pre_hook(self.hold)

    def hold(self, layer: nn.Module, _inputs: Any) -> None:
        """Before each forward pass of a layer."""
        if self.active:
            layer.training = False


def _is_held(layer: nn.Module) -> bool:
    owners = (getattr(hook, "__self__", None) for hook in layer._forward_pre_hooks.values())
    return any(isinstance(owner, StatisticsHold) and owner.active for owner in owners)


@torch.no_grad()
def measure_statistics(
    network: nn.Module, forward: Callable[[Any], Any], batches: Iterable[Any]
) -> int:
    """Set the running statistics to those of some batches taken together, over all processes.

    "Precise BatchNorm" of Wu and Johnson, Rethinking "Batch" in BatchNorm (arXiv:2105.07576). The
    variance is that within the batches plus that between their means: with one crop a batch the
    second part is not small.

    Args:
        network: its BatchNorm layers are updated, unless held; weights are not.
        forward: applies the network to one batch.
        batches: crops; as many in each process.

    Returns:
        Number of batches used; with none, nothing changes.
    """
    layers = [layer for layer in batch_norms(network) if not _is_held(layer)]
    moments: dict[nn.Module, list[torch.Tensor]] = {layer: [] for layer in layers}

    def note(layer: nn.Module, inputs: Any) -> None:
        x = inputs[0].float()
        variance, mean = torch.var_mean(x, (0, *range(2, x.ndim)), correction=0)
        moments[layer].append(torch.stack([mean, variance + mean.square()]))

    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    was_training, used = network.training, 0
    network.train()
    try:
        for batch in batches if layers else ():
            forward(batch)
            used += 1
    finally:
        for hook in hooks:
            hook.remove()
        network.train(was_training)
    for layer in layers if used else ():
        mean, square = _over_processes(torch.stack(moments[layer]).mean(0))
        layer.running_mean.copy_(mean)  # type: ignore[union-attr]
        layer.running_var.copy_((square - mean.square()).clamp_min_(0))  # type: ignore[union-attr]
    return used


def _over_processes(moments: torch.Tensor) -> torch.Tensor:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(moments)
        moments /= torch.distributed.get_world_size()
    return moments


class BatchNormStatistics:
    """Handler: measure the statistics on crops before each evaluation.

    Evaluation, and the checkpoints that follow it, then have those of the weights as they are.
    Crops without augmentation are to be preferred: they are what evaluation sees, and a few
    strongly augmented ones distort a variance. Put it before the `ValidationHandler` among the
    trainer's handlers.

    Args:
        network: network in training, wrapped for distributed training or not.
        loader: of crops.
        batches: how many of its batches measure, at most one pass; 0 keeps what training left.
        interval: epochs between evaluations.
    """

    def __init__(self, network: nn.Module, loader: Any, batches: int, interval: int = 1) -> None:
        self.network = network
        self.loader = loader
        self.batches = batches
        self.interval = interval

    def attach(self, engine: Engine) -> None:
        """Measure at the end of each epoch that is evaluated."""
        if self.batches > 0:
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self)

    def __call__(self, engine: Any) -> None:
        """Measure with the engine's own inferer, on its device; the same crops on a rerun."""

        def forward(batch: Any) -> Any:
            inputs = engine.prepare_batch(batch, engine.state.device, engine.non_blocking)[0]
            return engine.inferer(inputs, self.network)

        set_rnd(getattr(self.loader, "dataset", None), engine.state.epoch)
        measure_statistics(self.network, forward, islice(self.loader, self.batches))

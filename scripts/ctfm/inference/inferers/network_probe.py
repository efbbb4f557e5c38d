"""What a network is like, found out by running it on a small part of the first window."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ctfm.inference.inferers.heads import find_head, without_head
from ctfm.inference.inferers.windows import WindowLayout

__all__ = ["LiveBytes", "Probe", "probe_network"]

#: Smallest side of what a network is probed with: below, deep networks have nothing left.
SMALLEST_SIDE = 16


@dataclass(frozen=True)
class Probe:
    """What a network is like.

    Attributes:
        head: its last 1x1x1 convolution; None: it has none, it is not to be split off, or it gives
            fewer channels than it takes.
        channels: what is blended, channels of the head's input, or classes.
        classes: K.
        bytes_per_voxel: peak of the activations, for each voxel of the windows that are run; the
            tensors that are alive at a time, without what convolutions need inside.
    """

    head: nn.Conv3d | None
    channels: int
    classes: int
    bytes_per_voxel: float


def probe_network(
    apply: Callable[[Tensor], Any], volume: Tensor, layout: WindowLayout, split_head: bool = True
) -> Probe:
    """Run the network twice on a small part of a window, or on a whole one where it must be.

    Args:
        apply: windows (N, C, D, H, W) to the network's output.
        volume: (C, D, H, W).
        layout: its windows.
        split_head: look for a head.
    """
    window = layout.cut(volume, layout.windows[0], "constant", 0.0)[None]
    depth, height, width = map(side_to_probe, layout.roi)
    small = window[..., :depth, :height, :width]
    with torch.no_grad():
        try:
            return _probed(apply, small, split_head)
        except Exception:
            # some networks take windows of one size alone; a real fault comes again
            return _probed(apply, window, split_head)


def _probed(apply: Callable[[Tensor], Any], patches: Tensor, split_head: bool) -> Probe:
    head, output = find_head(apply, patches)
    classes = output.shape[1]
    if not split_head or (head is not None and head.in_channels >= classes):
        head = None  # its output is the smaller one to move
    del output
    with without_head(head), LiveBytes() as live:
        apply(patches)
    channels = classes if head is None else head.in_channels
    return Probe(head, channels, classes, live.peak / patches[:, 0].numel())


def side_to_probe(side: int) -> int:
    """The largest power of two that divides a side, so that it can be halved as often.

    Example:
        >>> side_to_probe(160)
        32
    """
    power = side & -side
    return power if power >= SMALLEST_SIDE else side


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, the largest sum of bytes of tensors that were made and are alive: `peak`.

    Parameters that autocast converts do not count: they do not grow with the input.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(isinstance(leaf, nn.Parameter) for leaf in given[:1]):
            return outputs
        shared = {leaf.untyped_storage()._cdata for leaf in given}
        for made in tree_leaves(outputs):
            if isinstance(made, Tensor) and made.untyped_storage()._cdata not in shared:
                self._count(made.untyped_storage())
        return outputs

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return
        self._alive.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size

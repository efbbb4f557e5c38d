"""A network's last 1x1x1 convolution: found, left out of the network, and applied later.

It is linear, so that blending its input and convolving once per voxel gives what blending its
output does, with 32 channels to move in place of 118.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from ctfm.base.errors import UserError

__all__ = ["LinearHead", "find_head", "first_output", "without_head"]


@dataclass(frozen=True)
class LinearHead:
    """A 1x1x1 convolution as a matrix.

    Attributes:
        matrix: (C + 1, K), float32: its last row is the bias, which is multiplied by the weight
            that the features were summed with.
    """

    matrix: Tensor

    @classmethod
    def of(cls, convolution: nn.Conv3d, device: torch.device) -> LinearHead:
        """The matrix of a 1x1x1 convolution of C features to K classes."""
        weight = convolution.weight.detach().flatten(1)
        bias = weight.new_zeros(len(weight)) if convolution.bias is None else convolution.bias
        matrix = torch.cat([weight, bias.detach()[:, None]], 1).T
        return cls(matrix.to(device, torch.float32).contiguous())

    @property
    def classes(self) -> int:
        """K, the number of classes."""
        return self.matrix.shape[1]

    def only(self, classes: Sequence[int]) -> LinearHead:
        """The head of some classes, in the order given."""
        return LinearHead(self.matrix[:, list(classes)].contiguous())


def first_output(outputs: Any) -> Tensor:
    """The output at full resolution: deep supervision gives a list of which it is the first.

    Raises:
        UserError: the network returns neither a tensor nor a list of them.
    """
    found = outputs[0] if isinstance(outputs, list | tuple) and outputs else outputs
    if isinstance(found, Mapping) or not isinstance(found, Tensor):
        kind = type(found).__name__
        raise UserError(f"the network returns {kind}: a label map needs a tensor or a list of them")
    return found


def find_head(apply: Callable[[Tensor], Any], patches: Tensor) -> tuple[nn.Conv3d | None, Tensor]:
    """The 1x1x1 convolution whose output is, as it is, the output of the network.

    Args:
        apply: runs the network; it may wrap it in a function.
        patches: what to run it on, (N, C, D, H, W).

    Returns:
        The layer, None if there is none; the output (N, K, D, H, W).
    """
    calls: list[tuple[nn.Conv3d, weakref.ref[Tensor]]] = []

    def note(module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(module, nn.Conv3d) and isinstance(output, Tensor) and _is_pointwise(module):
            calls.append((module, weakref.ref(output)))

    # of all modules, since the network may be hidden in a function
    handle = register_module_forward_hook(note)
    try:
        output = first_output(apply(patches))
    finally:
        handle.remove()
    heads = [module for module, made in calls if made() is output]
    # one that runs twice is part of something else as well
    alone = [head for head in heads if sum(module is head for module, _ in calls) == 1]
    return (alone[0] if alone else None), output


def _is_pointwise(layer: nn.Conv3d) -> bool:
    return (
        {*layer.kernel_size} == {1}
        and {*layer.stride} == {1}
        and (layer.padding in ("same", "valid") or {*layer.padding} == {0})
        and layer.groups == 1
        and type(layer).forward is nn.Conv3d.forward  # others compute something else
        and "forward" not in vars(layer)
    )


@contextmanager
def without_head(head: nn.Conv3d | None) -> Iterator[list[Tensor]]:
    """Within it, the layer returns its input, which is also noted in the list.

    The network is not copied, hence other threads must not use it meanwhile.
    """
    seen: list[Tensor] = []

    def forward(features: Tensor) -> Tensor:
        seen.append(features)
        return features

    if head is None:
        yield seen
        return
    # Module.__call__ asks the instance first; its class stays as it is
    vars(head)["forward"] = forward
    try:
        yield seen
    finally:
        del vars(head)["forward"]

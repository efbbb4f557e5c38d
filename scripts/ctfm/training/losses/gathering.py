"""The embeddings of all processes, for losses that compare each with all others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

__all__ = ["gathered", "rank"]


def rank() -> int:
    """Of this process; 0 without a process group."""
    return distributed.get_rank() if _grouped() else 0


def gathered(tensor: Tensor) -> Tensor:
    """The tensors (B, ...) of all processes, one behind the other by rank, (ranks * B, ...).

    All processes must call it, with equal shapes. Without a process group it is the tensor itself.

    The gradient is the exact one of the sum of all processes' losses. DDP then averages the
    gradients of parameters, which makes it that of the mean loss: no factor is needed.
    """
    if not _grouped() or distributed.get_world_size() == 1:
        return tensor
    result: Tensor = _Gather.apply(tensor)  # type: ignore[no-untyped-call]
    return result


def _grouped() -> bool:
    return distributed.is_available() and distributed.is_initialized()


class _Gather(torch.autograd.Function):
    """torch's own (`torch.distributed.nn.functional.all_gather`) is deprecated."""

    @staticmethod
    def forward(_context: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)  # a sum: each process's loss depends on all tensors
        return total.chunk(distributed.get_world_size())[distributed.get_rank()]

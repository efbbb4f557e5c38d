"""What is done to a network before it is trained on several devices."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["distributed"]


def distributed(network: nn.Module, device: torch.device) -> nn.Module:
    """Wrap a network for training in several processes, one device each.

    BatchNorm statistics are shared between GPUs, as in CT-FM's published runs: a batch of two
    crops a process is too small for them. On CPUs torch cannot share them.

    Args:
        network: on `device` already.
        device: of this process.
    """
    if device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(
        network,
        device_ids=[device] if device.type == "cuda" else None,
        find_unused_parameters=True,  # a frozen encoder has no gradients
    )

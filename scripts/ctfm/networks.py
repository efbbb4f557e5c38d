"""What is done to a network before it is trained on several devices."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["distributed"]


def distributed(network: nn.Module, device: torch.device, sync: bool = True) -> nn.Module:
    """Wrap a network for training in several processes, one device each.

    Args:
        network: on `device` already.
        device: of this process.
        sync: share BatchNorm statistics between GPUs, as in CT-FM's published runs, where two
            crops a process are too few for them. On CPUs torch cannot share them.
    """
    if sync and device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(
        network,
        device_ids=[device] if device.type == "cuda" else None,
        find_unused_parameters=True,  # a frozen encoder has no gradients
    )

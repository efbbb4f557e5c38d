"""What pretraining the published network costs, counted and not timed: operations and memory.

torch's fake tensors have shapes and no values, so that the network of 77.8 M parameters is counted
in seconds on any machine: floating-point operations of a patch, and bytes that are kept for the
backward pass, with and without checkpointed activations. Workspaces of convolutions are not in it.

    make bench NAME=pretraining_cost
"""

from __future__ import annotations

import torch
from monai.networks.nets import FullyConnectedNet
from monai.networks.nets.segresnet_ds import SegResEncoder
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.reporting import Row, report
from ctfm.contract import ENCODER, PRETRAINING
from ctfm.networks import ContrastiveNetwork

PATCH, SCANS = PRETRAINING.patch, PRETRAINING.batch_size
VIEWS = PRETRAINING.crops * PRETRAINING.views
MIB = 2**20


def contrastive(checkpoint: bool) -> ContrastiveNetwork:
    features, hidden, projected = PRETRAINING.projection
    projection = FullyConnectedNet(features, projected, [hidden], act="relu", adn_ordering="A")
    return ContrastiveNetwork(
        SegResEncoder(**ENCODER.arguments),
        projection,
        patches_at_once=SCANS,
        checkpoint_activations=checkpoint,
    )


def kept(network: ContrastiveNetwork, patches: int) -> float:
    """Bytes kept for the backward pass, in 16 bits where autocast computes in them."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage.nbytes()
        return tensor

    views = torch.empty(patches, 1, 1, 1, *PATCH)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        output = network(views)
    for parameter in network.parameters():
        storages.pop(parameter.untyped_storage()._cdata, None)
    del output
    return float(sum(storages.values()))


def main() -> None:
    with FakeTensorMode():
        plain, frugal = contrastive(False), contrastive(True)
        with FlopCounterMode(display=False) as counter:
            plain(torch.empty(1, 1, 1, 1, *PATCH))
        one, group = kept(plain, 1), kept(plain, SCANS)
        saved = kept(frugal, SCANS * VIEWS)
        weights = sum(p.numel() for p in plain.parameters()) * 4
    patch = (group - one) / (SCANS - 1)  # the rest is copies of the weights, kept once
    batch = one + patch * (SCANS * VIEWS - 1)
    rows = [
        Row("forward pass of a patch", None, counter.get_total_flops() / 1e9, None, "GFLOP", None),
        Row("activations of a patch", None, patch / MIB, None, "MiB", None),
        Row("activations of 4 scans x 30 views", None, batch / MIB, None, "MiB", None),
        Row("the same, checkpointed: views", None, saved / MIB, None, "MiB", None),
        Row("the same, checkpointed: 4 patches at once", None, group / MIB, None, "MiB", None),
        Row("weights, gradients, AdamW", None, 4 * weights / MIB, None, "MiB", None),
    ]
    report("pretraining_cost", rows)


if __name__ == "__main__":
    main()

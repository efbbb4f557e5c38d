"""Networks in several processes; here, in a group of one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ctfm import networks
from ctfm.networks import distributed

CPU = torch.device("cpu")


class Network(nn.Module):
    """An encoder with BatchNorm, a decoder, and a head that `forward` does not use."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Conv3d(1, 3, 3, padding=1), nn.BatchNorm3d(3))
        self.decoder = nn.Conv3d(3, 2, 1)
        self.unused = nn.Conv3d(3, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(image))


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A gloo group of this process alone."""
    torch.distributed.init_process_group(
        "gloo", init_method=(tmp_path / "store").as_uri(), rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def image(seed: int) -> torch.Tensor:
    return torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(seed))


def gradients(network: nn.Module) -> dict[str, Any]:
    inner = getattr(network, "module", network)
    return {name: p.grad for name, p in inner.named_parameters() if p.grad is not None}


@pytest.mark.usefixtures("group")
class TestOnCPU:
    def test_learns_what_the_plain_network_learns(self) -> None:
        plain = Network()
        wrapped = distributed(copy.deepcopy(plain), CPU)
        for network in (plain, wrapped):
            optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
            for seed in range(3):  # unused parameters would stop the second iteration
                optimizer.zero_grad()
                network(image(seed)).square().mean().backward()
                optimizer.step()
        assert isinstance(wrapped, DistributedDataParallel)
        for name, tensor in plain.state_dict().items():
            assert torch.equal(wrapped.module.state_dict()[name], tensor), name

    def test_encoder_can_be_frozen_and_thawed(self) -> None:
        network = distributed(Network(), CPU)
        for frozen in (True, True, False, False):
            network.zero_grad()
            for parameter in network.module.encoder.parameters():
                parameter.requires_grad_(not frozen)
            network(image(0)).square().mean().backward()
            learning = {name.split(".")[0] for name in gradients(network)}
            assert learning == ({"decoder"} if frozen else {"decoder", "encoder"})

    def test_batch_norm_is_left_as_it_is(self) -> None:
        assert type(distributed(Network(), CPU).module.encoder[1]) is nn.BatchNorm3d


@pytest.mark.parametrize("sync", [True, False])
def test_gpus_share_batch_norm_statistics(sync: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is built for a GPU, looked at without one; weights and statistics stay."""
    monkeypatch.setattr(networks, "DistributedDataParallel", lambda network, **how: (network, how))
    network = Network()
    before = copy.deepcopy(network.state_dict())
    device = torch.device("cuda", 1)
    converted, how = distributed(network, device, sync)
    assert type(converted.encoder[1]) is (nn.SyncBatchNorm if sync else nn.BatchNorm3d)
    assert how == {"device_ids": [device], "find_unused_parameters": True}
    assert all(torch.equal(before[k], v) for k, v in converted.state_dict().items())

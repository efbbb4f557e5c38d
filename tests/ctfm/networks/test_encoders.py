"""The contrastive network and its memory; networks in several processes, here a group of one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import FullyConnectedNet
from monai.networks.nets.segresnet_ds import SegResEncoder
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ctfm.base.errors import UserError
from ctfm.networks import encoders as networks
from ctfm.networks.encoders import ContrastiveNetwork, PooledEncoder, batch_norm_mlp, distributed

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


WIDTH = 4 * 16  # of the last of five levels


def encoder() -> SegResEncoder:
    torch.manual_seed(0)
    return SegResEncoder(init_filters=4, blocks_down=(1, 1, 1, 1, 1))


def contrastive(**options: Any) -> ContrastiveNetwork:
    projection = FullyConnectedNet(WIDTH, 8, [16], act="relu", adn_ordering="A")
    return ContrastiveNetwork(encoder(), projection, **options)


def views(scans: int = 2, crops: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(scans, crops, 2, 1, 16, 32, 32, generator=generator)


class TestPooledEncoder:
    def test_averages_the_last_level(self) -> None:
        stock, pooled = encoder().eval(), PooledEncoder(init_filters=4, blocks_down=(1,) * 5).eval()
        pooled.load_state_dict(stock.state_dict())
        patches = views()[:, 0, 0]
        with torch.no_grad():
            expected = stock(patches)[-1].flatten(2).mean(2)
            torch.testing.assert_close(pooled(patches), expected)
            scripted = torch.jit.script(pooled)
            torch.testing.assert_close(scripted(patches), expected)
        assert expected.shape == (2, WIDTH)


class TestContrastiveNetwork:
    def test_each_view_keeps_its_place(self) -> None:
        """Against the encoder and the projection applied to one view after the other."""
        network, batch = contrastive().eval(), views()
        with torch.no_grad():
            found = network(batch)
            assert found.shape == (2, 3, 2, 8)
            for scan in range(2):
                for crop in range(3):
                    for view in range(2):
                        patch = batch[scan, crop, view][None]
                        pooled = network.encoder(patch)[-1].mean((2, 3, 4))
                        expected = network.projection(pooled)[0]
                        torch.testing.assert_close(found[scan, crop, view], expected)

    def test_statistics_are_of_one_view_of_all_scans(self) -> None:
        """As in the published run, whose network got one view of one crop of each scan."""
        network, batch = contrastive(patches_at_once=2).train(), views()
        found = network(batch)
        for crop in range(3):
            for view in range(2):
                pooled = network.encoder(batch[:, crop, view])[-1].mean((2, 3, 4))
                torch.testing.assert_close(found[:, crop, view], network.projection(pooled))

    @pytest.mark.parametrize("patches_at_once", [None, 5, 1])
    def test_checkpointing_changes_memory_alone(self, patches_at_once: int | None) -> None:
        """Outputs, gradients, running statistics and their count stay the same to the last bit."""
        plain = contrastive(patches_at_once=patches_at_once)
        frugal = copy.deepcopy(plain)
        frugal.checkpoint_activations = True
        kept: dict[str, int] = {"plain": 0, "frugal": 0}
        for name, network in (("plain", plain), ("frugal", frugal)):

            def count(tensor: torch.Tensor, name: str = name) -> torch.Tensor:
                kept[name] += tensor.numel()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
                found = network(views())
            found.square().sum().backward()
        for (name, one), two in zip(plain.named_parameters(), frugal.parameters(), strict=True):
            assert one.grad is not None
            assert two.grad is not None
            assert torch.equal(one.grad, two.grad), name
        for (name, one), two in zip(
            plain.state_dict().items(), frugal.state_dict().values(), strict=True
        ):
            assert torch.equal(one, two), name
        assert kept["frugal"] < kept["plain"] / 10
        momenta = {m.momentum for m in frugal.modules() if isinstance(m, nn.BatchNorm3d)}
        assert momenta == {0.1}

    def test_prediction_follows_projection(self) -> None:
        network = contrastive(prediction=nn.Linear(8, 8)).eval()
        projected, predicted = network(views())
        torch.testing.assert_close(predicted, network.prediction(projected))
        assert predicted.shape == (2, 3, 2, 8)

    def test_wrong_numbers_are_named(self) -> None:
        with pytest.raises(UserError, match="patches_at_once is 0"):
            contrastive(patches_at_once=0)
        wrong = FullyConnectedNet(512, 8, [16], act="relu", adn_ordering="A")
        with pytest.raises(UserError, match=r"takes 512 features, the encoder gives 64"):
            ContrastiveNetwork(encoder(), wrong)


@pytest.mark.parametrize("last_norm", [True, False])
def test_batch_norm_mlp(last_norm: bool) -> None:
    torch.manual_seed(0)
    head = batch_norm_mlp([5, 7, 6, 3], last_norm)
    kinds = [type(layer).__name__ for layer in head]
    hidden = ["Linear", "BatchNorm1d", "ReLU"] * 2
    assert kinds == [*hidden, "Linear", *(["BatchNorm1d"] if last_norm else [])]
    found = head(torch.randn(50, 5))
    assert found.shape == (50, 3)
    if last_norm:
        torch.testing.assert_close(found.mean(0), torch.zeros(3), rtol=0, atol=1e-5)
        assert len(list(head[-1].parameters())) == 0

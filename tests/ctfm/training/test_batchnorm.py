"""Running statistics that evaluation can rely on."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ctfm.base.errors import UserError
from ctfm.training.batchnorm import BatchNormStatistics, measure_statistics, prepare_statistics


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 4, 1), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 2, 1))


@pytest.fixture
def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 1, 4, 4, 4, generator=generator) * (i + 1) + i for i in range(5)]


def test_measured_statistics_are_those_of_all_batches_together(network, batches) -> None:
    features = network[0](torch.cat(batches))
    assert measure_statistics(network, network, batches) == 5
    torch.testing.assert_close(network[1].running_mean, features.mean((0, 2, 3, 4)))
    total = features.var((0, 2, 3, 4))
    torch.testing.assert_close(network[1].running_var, total, rtol=0.01, atol=0)


def test_measuring_leaves_weights_mode_and_momentum_alone(network, batches) -> None:
    weights = copy.deepcopy([p.detach() for p in network.parameters()])
    network.eval()
    measure_statistics(network, network, batches)
    assert not network.training
    assert network[1].momentum == 0.1
    assert all(torch.equal(a, b) for a, b in zip(weights, network.parameters(), strict=True))


def measured_by(rank: int, folder: str, network: nn.Module, batches: list[torch.Tensor]) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    measure_statistics(network, network, batches[rank::2])
    torch.save(network.state_dict(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_measure_what_one_would(network, batches, tmp_path) -> None:
    expected = copy.deepcopy(network)
    measure_statistics(expected, expected, batches[:4])
    torch.multiprocessing.spawn(measured_by, (str(tmp_path), network, batches[:4]), nprocs=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name in ("1.running_mean", "1.running_var"):
            torch.testing.assert_close(found[name], expected.state_dict()[name])


def test_without_batches_nothing_changes(network) -> None:
    before = copy.deepcopy(network.state_dict())
    assert measure_statistics(network, network, []) == 0
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_frozen_statistics_make_training_and_evaluation_agree(network, batches) -> None:
    network.train()
    network(batches[4])
    unfrozen = network(batches[0])
    prepare_statistics(network, "frozen")
    before = network[1].running_mean.clone()
    trained = network.train()(batches[0])
    evaluated = network.eval()(batches[0])
    assert torch.equal(trained, evaluated)
    assert not torch.allclose(unfrozen, evaluated)
    assert torch.equal(before, network[1].running_mean)
    assert trained.requires_grad


def test_frozen_statistics_are_not_measured(network, batches) -> None:
    prepare_statistics(network, "frozen")
    before = network[1].running_mean.clone()
    measure_statistics(network, network, batches)
    assert torch.equal(before, network[1].running_mean)


def test_unknown_mode_is_refused(network) -> None:
    with pytest.raises(UserError, match="choose batch or frozen"):
        prepare_statistics(network, "instance")


def test_handler_measures_with_the_engine(network, batches) -> None:
    handler = BatchNormStatistics(network, [{"x": b} for b in batches], batches=3)
    engine = SimpleNamespace(
        state=SimpleNamespace(device="cpu", epoch=1),
        non_blocking=False,
        prepare_batch=lambda batch, *_: (batch["x"], None),
        inferer=lambda inputs, net: net(inputs),
    )
    expected = copy.deepcopy(network)
    measure_statistics(expected, expected, batches[:3])
    handler(engine)
    torch.testing.assert_close(network[1].running_mean, expected[1].running_mean)

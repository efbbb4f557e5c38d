"""Two processes with half a batch each learn what one process learns from all of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ctfm.training.losses.gathering import gathered, rank
from ctfm.training.losses.nt_xent import IntraSampleNTXentLoss, NTXentLoss
from ctfm.training.losses.vicreg import VICRegLoss

PROCESSES, CROPS, FEATURES = 2, 3, 5
SCANS = (2, 4)  # of both processes together
SINGLE_CROP = "SimCLR of single crops"
LOSSES: dict[str, Callable[[], nn.Module]] = {
    "within a scan": IntraSampleNTXentLoss,
    "other scans too": lambda: IntraSampleNTXentLoss(gather=True),
    "first crop, other scans too": lambda: IntraSampleNTXentLoss(all_crops=False, gather=True),
    "symmetric, other scans too": lambda: IntraSampleNTXentLoss(gather=True, symmetric=True),
    "SimCLR": lambda: NTXentLoss(gather=True),
    SINGLE_CROP: lambda: NTXentLoss(gather=True),
    "VICReg": lambda: VICRegLoss(gather=True),
    "VICReg within a scan": lambda: VICRegLoss(within_scan=True),
}
ALONE = {"SimCLR": NTXentLoss(), "other scans too": IntraSampleNTXentLoss()}


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(FEATURES, 7), nn.ReLU(), nn.Linear(7, 4))
    return layers.double()


def batch(name: str, scans: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    views = torch.randn(scans, CROPS, 2, FEATURES, generator=generator, dtype=torch.float64)
    return views[:, :1] if name == SINGLE_CROP else views


def learned(model: nn.Module, loss: nn.Module, views: Tensor) -> tuple[Tensor, list[Tensor | None]]:
    """The loss, and the gradients of all parameters."""
    model.zero_grad()
    value = loss(model(views))
    value.backward()
    return value.detach(), [copy.deepcopy(p.grad) for p in model.parameters()]


def train(own_rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=own_rank, world_size=PROCESSES
    )
    model = DistributedDataParallel(network())
    results = {
        (name, scans): learned(model, make(), batch(name, scans).chunk(PROCESSES)[own_rank])
        for name, make in LOSSES.items()
        for scans in SCANS
    }
    torch.save(results, f"{folder}/{own_rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Of each process."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(train, (str(folder),), nprocs=PROCESSES)
    return [torch.load(folder / f"{i}.pt", weights_only=True) for i in range(PROCESSES)]


@pytest.mark.parametrize("scans", SCANS)
@pytest.mark.parametrize("name", LOSSES)
def test_two_processes_learn_what_one_would(name: str, scans: int, found: list[dict]) -> None:
    value, gradients = learned(network(), LOSSES[name](), batch(name, scans))
    values = torch.stack([results[name, scans][0] for results in found])
    torch.testing.assert_close(values.mean(), value, rtol=1e-9, atol=0)
    assert all(g.abs().sum() > 0 for g in gradients[:-1])  # VICReg leaves the last bias alone
    for results in found:
        torch.testing.assert_close(results[name, scans][1], gradients, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("scans", SCANS)
@pytest.mark.parametrize("name", ALONE)
def test_without_gathering_they_would_not(name: str, scans: int) -> None:
    """So that the test above can fail."""
    whole = LOSSES[name]()(batch(name, scans))
    halves = [ALONE[name](half) for half in batch(name, scans).chunk(PROCESSES)]
    assert not torch.allclose(torch.stack(halves).mean(), whole)


class TestAlone:
    @pytest.fixture
    def group(self, tmp_path: Path) -> Iterator[None]:
        torch.distributed.init_process_group(
            "gloo", init_method=(tmp_path / "store").as_uri(), rank=0, world_size=1
        )
        yield
        torch.distributed.destroy_process_group()

    def test_without_a_group(self) -> None:
        tensor = torch.ones(2, 3)
        assert gathered(tensor) is tensor
        assert rank() == 0

    @pytest.mark.usefixtures("group")
    def test_in_a_group_of_one(self) -> None:
        tensor = torch.ones(2, 3)
        assert gathered(tensor) is tensor
        assert rank() == 0

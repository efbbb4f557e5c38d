"""What holds for each loss: one number, in full precision, of embeddings that stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ctfm import training
from ctfm.base.errors import UserError
from ctfm.training.losses.nt_xent import IntraSampleNTXentLoss, NTXentLoss
from ctfm.training.losses.simsiam import SimSiamLoss
from ctfm.training.losses.vicreg import VICRegLoss

LOSSES: dict[str, Callable[[], nn.Module]] = {
    "within a scan": IntraSampleNTXentLoss,
    "within a scan, first crop": lambda: IntraSampleNTXentLoss(all_crops=False),
    "within a scan, symmetric": lambda: IntraSampleNTXentLoss(symmetric=True),
    "within a scan, other scans too": lambda: IntraSampleNTXentLoss(gather=True),
    "SimCLR": NTXentLoss,
    "SimSiam": SimSiamLoss,
    "VICReg": VICRegLoss,
    "VICReg within a scan": lambda: VICRegLoss(within_scan=True),
}
SCALE_MATTERS = {"VICReg", "VICReg within a scan"}
ORDER_MATTERS = {"within a scan, first crop"}


def draw(seed: int = 0, shape: tuple[int, ...] = (3, 4, 2, 6), **options: Any) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), **options)


@pytest.fixture(params=LOSSES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def loss(name: str) -> Callable[[Tensor], Tensor]:
    """Called with one tensor; SimSiam's predictions are its second half of features."""
    module = LOSSES[name]()
    if name != "SimSiam":
        return module
    return lambda embeddings: module(embeddings.chunk(2, dim=-1))


def test_each_loss_that_is_offered_is_looked_at() -> None:
    offered = {getattr(training, name) for name in training.__all__ if name.endswith("Loss")}
    assert {type(make()) for make in LOSSES.values()} == offered


def test_is_a_number(loss) -> None:
    assert loss(draw()).shape == ()


def test_target_of_trainers_is_ignored(name) -> None:
    embeddings = [draw(), draw(1)] if name == "SimSiam" else draw()
    module = LOSSES[name]()
    assert torch.equal(module(embeddings), module(embeddings, None))


def test_gradient_is_that_of_the_value(loss, name) -> None:
    embeddings = draw(shape=(2, 3, 2, 4), dtype=torch.float64).requires_grad_()
    if name == "SimSiam":  # its projections are held on purpose: see its own test
        projected, predicted = embeddings.detach().chunk(2, dim=-1)
        assert torch.autograd.gradcheck(
            lambda p: loss(torch.cat([projected, p], -1)), predicted.requires_grad_()
        )
    else:
        assert torch.autograd.gradcheck(loss, embeddings)


def test_embeddings_stay_as_they_are(loss) -> None:
    embeddings = draw().requires_grad_()
    before = embeddings.detach().clone()
    loss(embeddings).backward()
    assert torch.equal(embeddings, before)
    assert embeddings._version == 0


def test_order_of_scans_does_not_matter(loss) -> None:
    torch.testing.assert_close(loss(draw().flip(0)), loss(draw()))


def test_order_of_crops_does_not_matter(loss, name) -> None:
    same = torch.allclose(loss(draw().flip(1)), loss(draw()))
    assert same is (name not in ORDER_MATTERS)


def test_length_of_embeddings_does_not_matter(loss, name) -> None:
    lengths = torch.rand(3, 4, 2, 1, generator=torch.Generator().manual_seed(1)) * 9 + 0.1
    same = torch.allclose(loss(draw() * lengths), loss(draw()))
    assert same is (name not in SCALE_MATTERS)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_left(loss, kind) -> None:
    half = draw().to(kind)
    assert loss(half).dtype == torch.float32
    assert torch.equal(loss(half), loss(half.float()))


def test_double_precision_stays(loss) -> None:
    assert loss(draw(dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_autocast_changes_nothing(loss, kind) -> None:
    plain, cast = draw().requires_grad_(), draw().requires_grad_()
    loss(plain).backward()
    with torch.autocast("cpu", kind):
        found = loss(cast)
    found.backward()
    assert torch.equal(found, loss(plain))
    assert torch.equal(cast.grad, plain.grad)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((3, 4, 6), r"\(3, 4, .*\): give \(scans, crops, views, dim\)"),
        ((3, 4, 3, 6), r"\(3, 4, 3, .*\) have 3 views of a crop: give 2"),
        ((3, 4, 1, 6), r"have 1 views of a crop: give 2"),
    ],
)
def test_other_shapes_are_refused(loss, shape, words) -> None:
    with pytest.raises(UserError, match=words):
        loss(draw(shape=shape))


def test_a_single_crop_is_refused_where_crops_are_compared(loss, name) -> None:
    embeddings = draw(shape=(1, 1, 2, 6))
    if name == "SimSiam":
        assert loss(embeddings).isfinite()
        return
    with pytest.raises(UserError, match=r"one crop .*: give at least two crops of a scan"):
        loss(embeddings)


@pytest.mark.parametrize("temperature", [0, -0.1, float("nan")])
@pytest.mark.parametrize("kind", [IntraSampleNTXentLoss, NTXentLoss])
def test_temperature_must_be_positive(kind, temperature) -> None:
    with pytest.raises(UserError, match=f"temperature is {temperature}: give a positive number"):
        kind(temperature)

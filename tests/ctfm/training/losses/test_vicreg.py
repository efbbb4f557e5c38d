"""VICReg's loss against its definition, number by number, and where the terms are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ctfm.base.errors import UserError
from ctfm.training.losses.vicreg import VICRegLoss, covariance_term, invariance_term, variance_term

EPS = 1e-4


def draw(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float64) * 0.9


def covariance(x: list[float], y: list[float]) -> float:
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    products = [(a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)]
    return sum(products) / (len(x) - 1)


def by_definition(views: Tensor) -> tuple[float, float, float]:
    """Invariance, variance and covariance of one set (N, 2, dim), without weights."""
    number, _, dim = views.shape
    distances = [((a - b) ** 2).sum().item() for a, b in views]
    spread, correlated = 0.0, 0.0
    for view in views.unbind(1):
        features = view.T.tolist()
        spread += sum(max(0, 1 - math.sqrt(covariance(x, x) + EPS)) for x in features) / dim
        correlated += sum(
            covariance(features[i], features[j]) ** 2
            for i in range(dim)
            for j in range(dim)
            if i != j
        )
    return sum(distances) / (number * dim), spread / 2, correlated / dim


@pytest.mark.parametrize("shape", [(1, 2, 2, 3), (3, 5, 2, 4), (2, 15, 2, 6), (2, 4, 2, 20)])
@pytest.mark.parametrize("within_scan", [True, False])
def test_against_the_definition(shape, within_scan) -> None:
    """Both with more crops than features and with fewer."""
    embeddings = draw(*shape)
    sets = embeddings if within_scan else embeddings.flatten(0, 1)[None]
    means = torch.tensor([by_definition(views) for views in sets]).mean(0).tolist()
    loss = VICRegLoss(within_scan=within_scan)
    expected = dict(zip(("invariance", "variance", "covariance"), means, strict=True))
    weighted = {k: v * {"covariance": 1}.get(k, 25) for k, v in expected.items()}
    found = {k: v.item() for k, v in loss.terms(embeddings).items()}
    assert found == pytest.approx(weighted, rel=1e-5)
    assert loss(embeddings).item() == pytest.approx(sum(weighted.values()), rel=1e-5)


def test_within_scan_is_the_mean_over_scans() -> None:
    embeddings = draw(4, 6, 2, 5)
    each = torch.stack([VICRegLoss()(scan) for scan in embeddings.split(1)])
    torch.testing.assert_close(VICRegLoss(within_scan=True)(embeddings), each.mean())


@pytest.mark.parametrize("within_scan", [True, False])
def test_collapse_costs_variance_alone(within_scan) -> None:
    loss = VICRegLoss(within_scan=within_scan)
    terms = {k: v.item() for k, v in loss.terms(torch.ones(2, 3, 2, 4)).items()}
    assert terms == pytest.approx({"invariance": 0, "variance": 25 * 0.99, "covariance": 0})


@pytest.mark.parametrize("dim", [2, 3])
def test_features_that_vary_apart_cost_nothing(dim) -> None:
    """Corners of a cube: each feature is +-2, independently of the others."""
    corners = torch.cartesian_prod(*[torch.tensor([-2.0, 2.0])] * dim)
    embeddings = corners[None, :, None].repeat(1, 1, 2, 1)
    assert VICRegLoss()(embeddings).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("number", [4, 8])
def test_equal_features_are_correlated(number) -> None:
    """A covariance of v for dim * (dim - 1) pairs and two views: 2 * (dim - 1) * v^2."""
    values = torch.linspace(-1, 1, number)
    embeddings = values[None, :, None, None].repeat(1, 1, 2, 6)
    expected = 2 * 5 * values.var().item() ** 2
    assert covariance_term(embeddings).item() == pytest.approx(expected, rel=1e-5)


def test_views_a_step_apart() -> None:
    views = torch.zeros(1, 3, 2, 4)
    views[:, :, 1] = 0.5
    assert invariance_term(views).item() == pytest.approx(0.25)
    assert covariance_term(views).item() == 0
    assert variance_term(views, eps=0.04).item() == pytest.approx(0.8)


def test_weights_weigh_their_term() -> None:
    embeddings = draw(2, 3, 2, 4)
    plain = VICRegLoss(1, 1, 1).terms(embeddings)
    for name in plain:
        weights = dict.fromkeys(plain, 1.0) | {name: 3.0}
        assert VICRegLoss(**weights).terms(embeddings) == {
            k: v * weights[k] for k, v in plain.items()
        }


def test_the_wide_features_of_the_paper_fit_in_memory() -> None:
    """8192 features of 12 crops: two gigabytes, if their covariances were kept."""
    embeddings = torch.randn(4, 12, 2, 8192, generator=torch.Generator().manual_seed(0))
    loss = VICRegLoss(within_scan=True)
    value = loss.terms(embeddings)["covariance"].item()
    # twice (views) the sum of squares of dim entries of variance 1 / 11, but for the diagonal
    assert value == pytest.approx(2 * 8191 / 11, rel=0.01)


def test_gathering_within_a_scan_is_refused() -> None:
    with pytest.raises(UserError, match="within_scan and gather are both true: give one"):
        VICRegLoss(within_scan=True, gather=True)

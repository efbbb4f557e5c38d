"""SimSiam's loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ctfm.training.losses.simsiam import SimSiamLoss


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_definition(projected: Tensor, predicted: Tensor) -> float:
    """D(p1, z2) / 2 + D(p2, z1) / 2, the negative cosine, for each crop of each scan."""
    terms = []
    for z, p in zip(projected.flatten(0, 1), predicted.flatten(0, 1), strict=True):
        for view in (0, 1):
            a, b = p[view], z[1 - view]
            terms.append(-float(a @ b / (a.norm() * b.norm())) / 2)
    return 2 * sum(terms) / len(terms)


@pytest.mark.parametrize("shape", [(1, 1, 2, 4), (3, 5, 2, 8), (2, 15, 2, 16)])
def test_against_the_definition(shape) -> None:
    projected, predicted = draw(0, *shape), draw(1, *shape)
    expected = by_definition(projected, predicted)
    assert SimSiamLoss()([projected, predicted]).item() == pytest.approx(expected)


@pytest.mark.parametrize(("factor", "expected"), [(1, -1), (7, -1), (-1, 1)])
def test_equal_and_opposite(factor, expected) -> None:
    equal = torch.ones(2, 3, 2, 4)
    assert SimSiamLoss()((equal, factor * equal)).item() == pytest.approx(expected)


def test_orthogonal_views_predict_the_other_one() -> None:
    views = torch.eye(2)[None, None]
    assert SimSiamLoss()([views, views]).item() == 0
    assert SimSiamLoss()([views, views.flip(2)]).item() == -1


def test_projections_have_no_gradient() -> None:
    projected, predicted = draw(0, 2, 3, 2, 4), draw(1, 2, 3, 2, 4)
    SimSiamLoss()([projected.requires_grad_(), predicted.requires_grad_()]).backward()
    assert projected.grad is None
    assert predicted.grad.abs().sum() > 0


def test_within_each_scan_it_is_the_same() -> None:
    projected, predicted = draw(0, 4, 3, 2, 5), draw(1, 4, 3, 2, 5)
    scans = zip(projected.split(1), predicted.split(1), strict=True)
    each = torch.stack([SimSiamLoss()(scan) for scan in scans])
    torch.testing.assert_close(SimSiamLoss()([projected, predicted]), each.mean())

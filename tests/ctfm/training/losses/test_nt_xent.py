"""Contrastive losses against their definition, term by term, and where the result is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ctfm.base.errors import UserError
from ctfm.training.losses.nt_xent import IntraSampleNTXentLoss, NTXentLoss

Place = tuple[int, int, int]


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def places(embeddings: Tensor) -> list[Place]:
    """Scan, crop and view of each embedding."""
    scans, crops, views, _ = embeddings.shape
    return [(b, i, v) for b in range(scans) for i in range(crops) for v in range(views)]


def by_definition(
    embeddings: Tensor, temperature: float, anchors: list[Place], across_scans: bool
) -> float:
    """Mean of -log(e^(positive / T) / (e^(positive / T) + sum of e^(negative / T)))."""
    terms = []
    for b, i, v in anchors:
        anchor = embeddings[b, i, v]
        positive = math.exp(cosine(anchor, embeddings[b, i, 1 - v]) / temperature)
        negatives = [
            math.exp(cosine(anchor, embeddings[place]) / temperature)
            for place in places(embeddings)
            if place[:2] != (b, i) and (across_scans or place[0] == b)
        ]
        terms.append(-math.log(positive / (positive + sum(negatives))))
    return sum(terms) / len(terms)


def basis(crops: int, scans: int = 1) -> Tensor:
    """The views of a crop are equal, those of different crops are orthogonal."""
    return torch.eye(crops)[None, :, None].repeat(scans, 1, 2, 1)


SHAPES = [(1, 2, 2, 3), (4, 2, 2, 5), (1, 15, 2, 8), (3, 7, 2, 1), (2, 5, 2, 16)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
class TestAgainstTheDefinition:
    @pytest.mark.parametrize("all_crops", [True, False])
    @pytest.mark.parametrize("symmetric", [True, False])
    @pytest.mark.parametrize("gather", [True, False])
    def test_within_a_scan(self, shape, temperature, all_crops, symmetric, gather) -> None:
        embeddings = draw(*shape)
        loss = IntraSampleNTXentLoss(temperature, all_crops, gather, symmetric)
        anchors = [
            (b, i, v)
            for b, i, v in places(embeddings)
            if (all_crops or i == 0) and (symmetric or v == 0)
        ]
        expected = by_definition(embeddings, temperature, anchors, across_scans=gather)
        assert loss(embeddings).item() == pytest.approx(expected, rel=1e-9)

    def test_of_all_scans(self, shape, temperature) -> None:
        embeddings = draw(*shape)
        expected = by_definition(embeddings, temperature, places(embeddings), across_scans=True)
        assert NTXentLoss(temperature)(embeddings).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("crops", [2, 15])
class TestClosedForms:
    def test_equal_embeddings_are_told_apart_by_chance(self, crops) -> None:
        equal = torch.ones(3, crops, 2, 4)
        chance = math.log(2 * crops - 1)
        assert IntraSampleNTXentLoss()(equal).item() == pytest.approx(chance)
        chance = math.log(2 * 3 * crops - 1)
        assert IntraSampleNTXentLoss(gather=True)(equal).item() == pytest.approx(chance)
        assert NTXentLoss()(equal).item() == pytest.approx(chance)

    @pytest.mark.parametrize("temperature", [0.1, 1.0])
    def test_orthogonal_crops(self, crops, temperature) -> None:
        embeddings, negatives = basis(crops), 2 * (crops - 1)
        e = math.exp(1 / temperature)
        expected = pytest.approx(-math.log(e / (e + negatives)), rel=1e-5)
        for loss in (IntraSampleNTXentLoss(temperature), NTXentLoss(temperature)):
            assert loss.double()(embeddings.double()).item() == expected

    def test_other_scans_matter_only_where_they_are_gathered(self, crops) -> None:
        """Scans that equal each other: within one there is nothing to confuse."""
        one, two = basis(crops), basis(crops, scans=2)
        within = IntraSampleNTXentLoss()
        assert within(two).item() == pytest.approx(within(one).item())
        e, orthogonal = math.exp(10), 4 * (crops - 1)
        expected = pytest.approx(-math.log(e / (3 * e + orthogonal)), rel=1e-5)
        assert IntraSampleNTXentLoss(gather=True)(two).item() == expected
        assert NTXentLoss()(two).item() == expected


def test_symmetric_is_the_mean_of_both_directions() -> None:
    embeddings = draw(2, 5, 2, 8)
    one_way = IntraSampleNTXentLoss()
    both = (one_way(embeddings) + one_way(embeddings.flip(2))) / 2
    assert one_way(embeddings) != one_way(embeddings.flip(2))
    torch.testing.assert_close(IntraSampleNTXentLoss(symmetric=True)(embeddings), both)


def test_one_crop_of_a_scan_has_negatives_in_other_scans() -> None:
    embeddings = draw(3, 1, 2, 8)
    with pytest.raises(UserError, match="one crop has no negatives"):
        IntraSampleNTXentLoss()(embeddings)
    symmetric = IntraSampleNTXentLoss(gather=True, symmetric=True)
    torch.testing.assert_close(symmetric(embeddings), NTXentLoss()(embeddings))


def test_logits_of_a_thousand_overflow_neither_way() -> None:
    loss = IntraSampleNTXentLoss(temperature=1e-3)
    assert loss(basis(4)).item() == 0
    opposite = torch.stack([basis(4)[:, :, 0], -basis(4)[:, :, 0]], 2).requires_grad_()
    value = loss(opposite)  # a positive 1000 below, six negatives at 0
    assert value.item() == pytest.approx(1000 + math.log(6))
    value.backward()
    assert opposite.grad.isfinite().all()

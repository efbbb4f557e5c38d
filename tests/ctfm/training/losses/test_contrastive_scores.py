"""Scores that show whether pretraining learns or collapses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ctfm.base.errors import UserError
from ctfm.training.losses.scores import contrastive_scores


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def basis(crops: int, scans: int = 1) -> Tensor:
    """The views of a crop are equal, those of different crops are orthogonal."""
    return torch.eye(crops)[None, :, None].repeat(scans, 1, 2, 1)


def by_definition(embeddings: Tensor) -> dict[str, float]:
    scans, crops, _, dim = embeddings.shape
    unit = (embeddings / embeddings.norm(dim=-1, keepdim=True)).double()
    found, distances = [], []
    for b in range(scans):
        for i in range(crops):
            others = [unit[b, j, v] for j in range(crops) if j != i for v in (0, 1)]
            positive = unit[b, i, 0] @ unit[b, i, 1]
            found.append(all(positive > unit[b, i, 0] @ other for other in others))
            distances.append(((unit[b, i, 0] - unit[b, i, 1]) ** 2).sum().item())
    flat = unit.flatten(0, 2)
    kernel = [
        math.exp(-2 * ((x - y) ** 2).sum().item())
        for i, x in enumerate(flat)
        for j, y in enumerate(flat)
        if i != j
    ]
    deviations = [math.sqrt(((x - x.mean()) ** 2).mean()) for x in flat.T]
    return {
        "top1": sum(found) / len(found),
        "alignment": sum(distances) / len(distances),
        "uniformity": math.log(sum(kernel) / len(kernel)),
        "std": sum(deviations) / dim * math.sqrt(dim),
    }


@pytest.mark.parametrize("shape", [(1, 2, 2, 3), (3, 4, 2, 5), (2, 7, 2, 16)])
def test_against_the_definition(shape) -> None:
    embeddings = draw(*shape)
    embeddings[:, :, 1] += embeddings[:, :, 0]  # some positives are found, some are not
    assert contrastive_scores(embeddings) == pytest.approx(by_definition(embeddings), rel=1e-4)


@pytest.mark.parametrize("crops", [2, 5])
def test_chance(crops) -> None:
    """Views that have nothing in common."""
    scores = contrastive_scores(draw(500, crops, 2, 8))
    assert scores["top1"] == pytest.approx(1 / (2 * crops - 1), abs=0.04)
    assert scores["alignment"] == pytest.approx(2, abs=0.04)
    assert scores["std"] == pytest.approx(1, abs=0.01)


def test_collapse() -> None:
    expected = {"top1": 0, "alignment": 0, "uniformity": 0, "std": 0}
    assert contrastive_scores(torch.ones(2, 3, 2, 4)) == pytest.approx(expected, abs=1e-6)


def test_orthogonal_crops_with_equal_views() -> None:
    crops = 5
    scores = contrastive_scores(basis(crops))
    assert scores["top1"] == 1
    assert scores["alignment"] == 0
    # each view has one at distance 0 and 2 * (crops - 1) at a squared distance of 2
    near, far = 1, 2 * (crops - 1)
    expected = math.log((near + far * math.exp(-4)) / (near + far))
    assert scores["uniformity"] == pytest.approx(expected)
    variance = (1 / crops) * (1 - 1 / crops)
    assert scores["std"] == pytest.approx(math.sqrt(variance * crops))


def test_std_of_directions_that_cancel_reaches_its_bound() -> None:
    directions = torch.cat([torch.eye(4), -torch.eye(4)])
    scores = contrastive_scores(directions.reshape(1, 4, 2, 4))
    assert scores["std"] == pytest.approx(1)


def test_opposite_views() -> None:
    views = torch.stack([basis(3)[:, :, 0], -basis(3)[:, :, 0]], 2)
    scores = contrastive_scores(views)
    assert scores["top1"] == 0
    assert scores["alignment"] == pytest.approx(4)


def test_positives_are_looked_for_within_a_scan() -> None:
    """Scans that equal each other do not confuse."""
    assert contrastive_scores(basis(4, scans=3))["top1"] == 1


def test_anchors_are_first_views() -> None:
    """Second views that are all equal are found by no crop; first views that are, by none."""
    views = basis(3)
    views[:, :, 0] = views[:, :1, 0] + 0.1 * views[:, :, 1]
    assert contrastive_scores(views)["top1"] < 1
    assert contrastive_scores(views.flip(2))["top1"] != contrastive_scores(views)["top1"]


def test_one_crop_of_each_scan() -> None:
    """Nothing to confuse with: chance is 1."""
    assert contrastive_scores(draw(3, 1, 2, 4))["top1"] == 1


def test_has_no_gradient_and_leaves_embeddings_alone() -> None:
    embeddings = draw(2, 3, 2, 4).requires_grad_()
    before = embeddings.detach().clone()
    contrastive_scores(embeddings)
    assert torch.equal(embeddings, before)
    assert embeddings.grad is None


def test_autocast_and_half_precision() -> None:
    half = draw(2, 3, 2, 8).half()
    expected = contrastive_scores(half.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert contrastive_scores(half) == expected


def test_other_shapes_are_refused() -> None:
    with pytest.raises(UserError, match=r"give \(scans, crops, views, dim\)"):
        contrastive_scores(torch.ones(3, 4))

"""Gradients of convolutions in bfloat16, against float32."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from ctfm.networks.precision import fast_dtype, sound_convolutions

pytestmark = pytest.mark.skipif(
    fast_dtype("cpu") != torch.bfloat16, reason="needs a CPU that computes in bfloat16"
)


def gradients(layer: nn.Conv3d, image: torch.Tensor, fast: bool) -> list[torch.Tensor]:
    layer.zero_grad()
    given = image.clone().requires_grad_()
    with sound_convolutions("cpu"), torch.autocast("cpu", torch.bfloat16, enabled=fast):
        found = layer(given)
    assert found.dtype == (torch.bfloat16 if fast else torch.float32)
    generator = torch.Generator().manual_seed(1)
    found.backward(torch.randn(found.shape, generator=generator).to(found.dtype))
    assert given.grad is not None
    return [found.detach().float(), given.grad, *(p.grad for p in layer.parameters())]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "shape", [(2, 8, 8), (2, 2, 2), (2, 4, 2), (2, 2, 4), (2, 16, 8), (3, 4, 4), (1, 4, 4)], ids=str
)
def test_gradients_are_those_of_float32(shape: Sequence[int], bias: bool) -> None:
    """Without the way round, those of a depth of 2 are off by 1e30, in each of some runs."""
    torch.manual_seed(0)
    layer = nn.Conv3d(32, 24, 3, padding=1, bias=bias)
    image = torch.randn(4, 32, *shape)
    expected = gradients(layer, image, fast=False)
    for _ in range(5):
        for found, wanted in zip(gradients(layer, image, fast=True), expected, strict=True):
            assert (found - wanted).abs().max() < 0.02 * wanted.abs().max()


@pytest.mark.parametrize("options", [{"stride": 2}, {"padding": (1, 0, 0)}, {"groups": 2}], ids=str)
def test_other_convolutions_too(options: dict[str, int]) -> None:
    torch.manual_seed(0)
    layer = nn.Conv3d(32, 32, 3, **{"padding": 1, **options})
    image = torch.randn(2, 32, 2, 8, 8)
    expected = gradients(layer, image, fast=False)
    for found, wanted in zip(gradients(layer, image, fast=True), expected, strict=True):
        assert (found - wanted).abs().max() < 0.02 * wanted.abs().max()


def test_without_gradients_nothing_changes() -> None:
    layer, image = nn.Conv3d(8, 8, 3, padding=1), torch.randn(1, 8, 2, 4, 4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = layer(image)
        with sound_convolutions("cpu"):
            assert torch.equal(layer(image), expected)

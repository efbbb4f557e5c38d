"""Fast number formats inside, float32 outside."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn

from ctfm.inference.inferers.autocast import AutocastInferer
from ctfm.networks.precision import fast_dtype


class Spy(nn.Module):
    """Remembers the type its convolution computed in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 1)
        self.seen: list[torch.dtype] = []

    def forward(self, x: torch.Tensor) -> list[torch.Tensor] | torch.Tensor:
        y = self.conv(x)
        self.seen.append(y.dtype)
        return [y, y[..., ::2]] if self.training else y


@pytest.mark.parametrize("enabled", [True, False])
def test_type_inside_and_outside(enabled: bool) -> None:
    network = Spy()
    outputs = AutocastInferer(enabled=enabled)(torch.zeros(1, 1, 4, 4, 4), network)
    assert [o.dtype for o in outputs] == [torch.float32] * 2
    assert network.seen == [fast_dtype("cpu") if enabled else torch.float32]


def test_it_wraps_a_sliding_window() -> None:
    network = Spy().eval()
    image = torch.rand(1, 1, 9, 8, 8)
    plain = SlidingWindowInferer((8, 8, 8), overlap=0.5)(image, network)
    wrapped = AutocastInferer(SlidingWindowInferer((8, 8, 8), overlap=0.5))(image, network)
    assert wrapped.dtype == torch.float32
    torch.testing.assert_close(wrapped, plain, atol=0.02, rtol=0.02)


def test_formats() -> None:
    assert fast_dtype("cuda") == torch.float16
    assert fast_dtype("mps") == torch.float32

"""Embeddings of all windows, against a loop over them."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from ctfm.base.errors import UserError
from ctfm.embedding.inferer import WindowEmbedder, embed_windows
from ctfm.embedding.windows import WindowGrid, cut_window
from ctfm.inference.inferers.autocast import AutocastInferer
from ctfm.networks.encoders import PooledEncoder

pytestmark = pytest.mark.usefixtures("one_thread")

PATCH = (16, 16, 16)


@pytest.fixture(scope="module")
def encoder() -> PooledEncoder:
    torch.manual_seed(0)
    return PooledEncoder(init_filters=4, in_channels=1, blocks_down=(1, 1, 1, 1, 1)).eval()


def scan(*shape: int) -> Tensor:
    return torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_give_what_a_loop_gives(batch_size: int, encoder: PooledEncoder) -> None:
    image = scan(20, 33, 24)
    apply = WindowEmbedder(
        PATCH, 0.5, sw_batch_size=batch_size, inferer=AutocastInferer(enabled=False)
    )
    found = apply(MetaTensor(image), encoder)
    grid = WindowGrid((20, 33, 24), PATCH, 0.5)
    assert found.shape == (1, 64, *grid.counts)
    assert found.dtype == torch.float32
    for number, start in enumerate(grid.starts()):
        expected = encoder(cut_window(image[0], start, PATCH)[None])[0]
        torch.testing.assert_close(found[0].flatten(1)[:, number], expected, rtol=1e-4, atol=1e-6)


def brightness(patches: Tensor) -> Tensor:
    return patches.mean((2, 3, 4))


def test_air_is_left_out_where_that_is_asked_for() -> None:
    image = torch.zeros(1, 1, 48, 16, 16)
    image[:, :, 35:38] = 0.3
    kept = WindowEmbedder(PATCH, 0.0, skip_air=True)(image, brightness).flatten()
    assert kept.isnan().tolist() == [True, True, False]
    assert kept[2] > 0
    assert not WindowEmbedder(PATCH, 0.0)(image, brightness).isnan().any()
    with pytest.raises(UserError, match="all 3 windows show nothing above -500 HU"):
        WindowEmbedder(PATCH, 0.0, skip_air=True)(image * 0, brightness)


def test_an_embedding_that_is_not_finite_is_refused() -> None:
    def overflow(patches: Tensor) -> Tensor:
        return brightness(patches) / 0

    with pytest.raises(UserError, match=r"^2 of 2 embeddings are not finite.*--amp false"):
        WindowEmbedder(PATCH, 0.0)(torch.ones(1, 1, 32, 16, 16), overflow)


def test_a_batch_size_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="sw_batch_size is 0"):
        WindowEmbedder(PATCH, sw_batch_size=0)


def test_any_windows_can_be_asked_for() -> None:
    starts = WindowGrid((32, 16, 16), PATCH, 0.0).starts()[::-1]
    image = torch.cat([torch.zeros(1, 16, 16, 16), torch.ones(1, 16, 16, 16)], dim=1)
    assert embed_windows(image, starts, PATCH, brightness, 1).flatten().tolist() == [1, 0]

"""Embeddings of windows that a segmentation leaves on the side."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.networks.nets import SegResNetDS
from torch import nn

from ctfm.base.errors import UserError
from ctfm.inference.inferers.label_map import LabelMapInferer

AFFINE = torch.diag(torch.tensor([3.0, 2.0, 2.0, 1.0], dtype=torch.float64))
AFFINE[:3, 3] = torch.tensor([-10.0, 5.0, 0.0])


def network() -> SegResNetDS:
    torch.manual_seed(0)
    return SegResNetDS(init_filters=4, blocks_down=(1, 1, 1), out_channels=9, dsdepth=2).eval()


def scan() -> MetaTensor:
    values = torch.rand(1, 1, 24, 16, 11, generator=torch.Generator().manual_seed(0))
    return MetaTensor(values, affine=AFFINE)


@pytest.mark.parametrize("sw_batch_size", [1, 3])
def test_embeddings_are_the_means_of_the_last_level(sw_batch_size: int) -> None:
    """The last axis is smaller than a window, which starts in the padding, at voxel -2."""
    model, image = network(), scan()
    inferer = LabelMapInferer((16, 16, 16), sw_batch_size, overlap=0.5, amp=False, embed=True)
    found = inferer(image, model)
    assert isinstance(found, MetaTensor)
    embeddings, centres = found.meta["embeddings"][0], found.meta["centres_mm"][0]
    padded = torch.nn.functional.pad(image.as_tensor(), (2, 3))
    windows = torch.cat([padded[..., start : start + 16, :, :] for start in (0, 8)])
    with torch.no_grad():
        expected = model.encoder(windows)[-1].mean((2, 3, 4))
    torch.testing.assert_close(embeddings, expected, atol=1e-5, rtol=1e-4)
    assert centres.tolist() == [[12.5, 20.0, 11.0], [36.5, 20.0, 11.0]]
    plain = LabelMapInferer((16, 16, 16), overlap=0.5, amp=False)(image, model)
    assert torch.equal(found.as_tensor(), plain.as_tensor())
    assert not model.encoder._forward_hooks


def test_windows_that_are_left_out_have_none() -> None:
    image = scan()
    image[..., 8:, :, :] = 0
    inferer = LabelMapInferer((16, 16, 16), overlap=0.5, amp=False, embed=True, skip_air=True)
    assert inferer(image, network()).meta["centres_mm"][0].tolist() == [[12.5, 20.0, 11.0]]


def test_what_is_refused() -> None:
    inferer = LabelMapInferer((16, 16, 16), amp=False, embed=True)
    with pytest.raises(UserError, match="embed needs a MetaTensor"):
        inferer(scan().as_tensor(), network())
    with pytest.raises(UserError, match="Conv3d has no encoder"):
        inferer(scan(), nn.Conv3d(1, 2, 1).eval())

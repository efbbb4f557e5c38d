"""Encoders from checkpoints and with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.networks.nets.segresnet_ds import SegResEncoder

from ctfm.base.errors import UserError
from ctfm.networks.encoders import PooledEncoder
from ctfm.weights.encoders import encoder_from, random_encoder
from ctfm.weights.layouts import Architecture

NARROW = Architecture(
    spatial_dims=3, in_channels=1, init_filters=4, blocks_down=(1, 2, 1), statistics=True
)


def test_width_depth_and_weights_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = PooledEncoder(init_filters=4, in_channels=1, blocks_down=(1, 2, 1))
    torch.save(expected.state_dict(), tmp_path / "encoder.pt")
    encoder = encoder_from(tmp_path / "encoder.pt")
    assert not encoder.training
    patches = torch.rand(2, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(encoder(patches), expected.eval()(patches))


def test_random_weights_are_monais_of_that_seed() -> None:
    torch.manual_seed(5)
    expected = PooledEncoder(init_filters=4, in_channels=1, blocks_down=(1, 2, 1)).state_dict()
    torch.manual_seed(0)
    found = random_encoder(NARROW, 5).state_dict()
    after = torch.rand(1)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1)), "draws elsewhere stay as they are"


def test_an_encoder_that_is_not_for_ct_is_refused(tmp_path: Path) -> None:
    two = SegResEncoder(init_filters=4, in_channels=2, blocks_down=(1, 1))
    torch.save(two.state_dict(), tmp_path / "two.pt")
    with pytest.raises(UserError, match=r"two\.pt is .*: CT has three dimensions and one channel"):
        encoder_from(tmp_path / "two.pt")

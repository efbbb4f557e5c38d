"""The classifier takes CT-FM's encoder strictly, by one channel or by several, and is exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.networks.nets.segresnet_ds import SegResEncoder

from ctfm.base.errors import UserError
from ctfm.contract.tasks import ENCODER, HEAD_CT_TRIAGE
from ctfm.networks.encoders import PooledClassifier
from ctfm.weights.loading import load_encoder
from ctfm.weights.widening import load_encoder_for_channels

NARROW = {"init_filters": 4, "blocks_down": (1, 1, 1, 1, 1)}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A narrow encoder whose statistics are no longer those of a new one."""
    torch.manual_seed(1)
    encoder = SegResEncoder(in_channels=1, **NARROW)
    encoder(torch.rand(2, 1, 32, 32, 32))
    torch.save(encoder.state_dict(), tmp_path / "encoder.pt")
    return tmp_path / "encoder.pt"


def test_published_size() -> None:
    """512 -> 256 -> 1 on top of the encoder of the contract."""
    with torch.device("meta"):
        network = PooledClassifier()
    encoder = sum(p.numel() for p in network.encoder.parameters())
    assert encoder == ENCODER.parameters
    widths = [p.shape for name, p in network.head.named_parameters() if name.endswith("weight")]
    first, hidden, last = HEAD_CT_TRIAGE.head
    assert widths == [(hidden, first), (last, hidden)]


def test_encoder_goes_in_strictly(checkpoint: Path, tmp_path: Path) -> None:
    network = load_encoder(PooledClassifier(**NARROW), checkpoint).eval()
    stored = torch.load(checkpoint, weights_only=True)
    assert all(torch.equal(network.encoder.state_dict()[name], stored[name]) for name in stored)
    stored.pop("layers.4.blocks.0.conv2.weight")
    torch.save(stored, tmp_path / "less.pt")
    with pytest.raises(UserError, match="1 missing"):
        load_encoder(network, tmp_path / "less.pt")


def test_scripts_to_the_same_logits() -> None:
    network = PooledClassifier(**NARROW, hidden_channels=(8,)).eval()
    image = torch.rand(2, 1, 64, 32, 32)
    scripted = torch.jit.script(network)
    torch.testing.assert_close(scripted(image), network(image))
    assert network(image).shape == (2, 1)
    linear = PooledClassifier(**NARROW, hidden_channels=())
    assert len(list(linear.head.parameters())) == 2


class TestChannels:
    def test_same_image_in_all_channels_gives_the_same_features(self, checkpoint: Path) -> None:
        one = load_encoder(PooledClassifier(**NARROW), checkpoint).eval()
        four = PooledClassifier(in_channels=4, **NARROW)
        assert load_encoder_for_channels(four, checkpoint) is four
        image = torch.rand(1, 1, 32, 32, 32)
        with torch.no_grad():
            found = four.eval().encoder(image.repeat(1, 4, 1, 1, 1))
            torch.testing.assert_close(found, one.encoder(image), rtol=1e-4, atol=1e-5)

    def test_kernels_sum_to_the_pretrained_one(self, checkpoint: Path) -> None:
        four = load_encoder_for_channels(PooledClassifier(in_channels=4, **NARROW), checkpoint)
        stored = torch.load(checkpoint, weights_only=True)
        inside = four.encoder.state_dict()
        first = stored.pop("conv_init.weight")
        torch.testing.assert_close(inside["conv_init.weight"].sum(1, keepdim=True), first)
        assert all(torch.equal(inside[name], stored[name]) for name in stored)

    def test_all_else_is_strict(self, checkpoint: Path, tmp_path: Path) -> None:
        network = PooledClassifier(in_channels=4, **NARROW)
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        stored = torch.load(checkpoint, weights_only=True)
        many = stored | {"conv_init.weight": stored["conv_init.weight"].repeat(1, 2, 1, 1, 1)}
        less = {name: tensor for name, tensor in stored.items() if "layers.1" not in name}
        for tensors, said in ((many, "takes 2 channels"), (less, "tensors match")):
            torch.save(tensors, tmp_path / "other.pt")
            with pytest.raises(UserError, match=said):
                load_encoder_for_channels(network, tmp_path / "other.pt")
        after = network.state_dict()
        assert all(torch.equal(after[name], before[name]) for name in before)
        with pytest.raises(UserError, match="not Linear"):
            load_encoder_for_channels(torch.nn.Linear(1, 1), checkpoint)

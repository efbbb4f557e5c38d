"""Encoders that embed: from a checkpoint of any width and depth, or with random weights."""

from __future__ import annotations

import torch

from ctfm.base.errors import UserError
from ctfm.networks.encoders import PooledEncoder
from ctfm.weights.layouts import Architecture, Weights
from ctfm.weights.loading import read_encoder
from ctfm.weights.sources import StrPath

__all__ = ["architecture_for_ct", "encoder_from", "random_encoder"]


def encoder_from(checkpoint: StrPath) -> PooledEncoder:
    """An encoder of the width and depth that a checkpoint has, with its weights.

    Args:
        checkpoint: file, folder or repository id, in any layout of `read_encoder`.

    Returns:
        In evaluation mode.

    Raises:
        UserError: the checkpoint holds no encoder for three dimensions and one channel.
    """
    weights = read_encoder(checkpoint)
    network = random_encoder(architecture_for_ct(weights, checkpoint))
    network.load_state_dict(weights.tensors)
    return network


def random_encoder(architecture: Architecture, seed: int = 0) -> PooledEncoder:
    """An encoder as it is before training, in evaluation mode; draws elsewhere stay as they are.

    Args:
        architecture: of an encoder.
        seed: of its weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PooledEncoder(
            spatial_dims=architecture.spatial_dims,
            in_channels=architecture.in_channels,
            init_filters=architecture.init_filters,
            blocks_down=architecture.blocks_down,
        )
    network.eval()
    return network


def architecture_for_ct(weights: Weights, checkpoint: StrPath) -> Architecture:
    """The architecture of an encoder's weights.

    Args:
        weights: of `read_encoder`.
        checkpoint: what they were read from, as the user named it.

    Raises:
        UserError: it is not for three dimensions and one channel.
    """
    architecture = Architecture.of(weights.tensors)
    assert architecture is not None  # read_encoder has seen to it
    if (architecture.spatial_dims, architecture.in_channels) != (3, 1):
        raise UserError(f"{checkpoint} is {architecture}: CT has three dimensions and one channel")
    return architecture

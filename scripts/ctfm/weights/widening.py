"""CT-FM's encoder for several input channels, though it was pretrained on one."""

from __future__ import annotations

import logging
from typing import TypeVar

from torch import nn

from ctfm.base.errors import UserError
from ctfm.weights.audit import check_same, check_values, copy_verified
from ctfm.weights.checkpoints import open_checkpoint
from ctfm.weights.layouts import weights_of
from ctfm.weights.loading import encoder_in, summary
from ctfm.weights.sources import StrPath

__all__ = ["FIRST_LAYER", "load_encoder_for_channels"]

logger = logging.getLogger("ctfm.weights")

Network = TypeVar("Network", bound=nn.Module)

FIRST_LAYER = "conv_init.weight"


def load_encoder_for_channels(
    network: Network,
    checkpoint: StrPath | None,
    revision: str | None = None,
    offline: bool = False,
) -> Network:
    """Put a pretrained encoder of one input channel into a network with several.

    The kernels of the first layer are divided by the number of channels and repeated, so that the
    same image in all channels gives the features of the pretrained encoder. Everything else is as
    strict as `ctfm.weights.loading.load_encoder`. On an error the network is as it was.

    Args:
        network: a `SegResEncoder`, or a network that has one as its attribute `encoder`.
        checkpoint: file, folder or Hugging Face repository id, in any layout of `read_encoder`.
        revision: branch, tag or commit of the repository; None: its known revision, or "main".
        offline: use the hub's cache alone.

    Returns:
        The same network.

    Raises:
        UserError: no checkpoint, another network, an encoder of more than one channel, or tensors
            that do not agree.
    """
    encoder = encoder_in(network)
    opened = open_checkpoint(checkpoint, revision=revision, offline=offline)
    found = weights_of(opened, "encoder")
    where = str(opened.source)
    tensors = dict(found.tensors)
    channels = int(encoder.state_dict()[FIRST_LAYER].shape[1])
    first = tensors.get(FIRST_LAYER)
    if first is not None and first.ndim > 1:
        if first.shape[1] != 1:
            raise UserError(
                f"encoder checkpoint {where} takes {first.shape[1]} channels: only one of a single "
                "channel can be adapted"
            )
        tensors[FIRST_LAYER] = (first / channels).repeat_interleave(channels, 1)
    check_same(encoder.state_dict(), tensors, what="encoder checkpoint", where=where)
    check_values(tensors, where=where)
    copy_verified(encoder, tensors)
    line = summary("encoder", tensors, opened, found.left_out)
    logger.info("%s; its first layer adapted to %d channels", line, channels)
    return network

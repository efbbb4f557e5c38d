"""Put weights into a network: all of them or none."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TypeVar

from monai.networks.nets.segresnet_ds import SegResEncoder
from torch import Tensor, nn

from ctfm.base.errors import UserError
from ctfm.weights.audit import check_same, check_values, copy_verified
from ctfm.weights.checkpoints import Checkpoint, open_checkpoint
from ctfm.weights.layouts import (
    Architecture,
    Weights,
    has_statistics,
    looks_like,
    parameters,
    prefixes,
    weights_of,
)
from ctfm.weights.sources import StrPath

__all__ = ["load_encoder", "load_network", "read_encoder", "summary"]

logger = logging.getLogger("ctfm.weights")

Network = TypeVar("Network", bound=nn.Module)


def read_encoder(
    source: StrPath | None, revision: str | None = None, offline: bool = False
) -> Weights:
    """Read the encoder out of any layout, under the names of a bare `SegResEncoder`.

    Args:
        source: file, folder or Hugging Face repository id.
        revision: branch, tag or commit of the repository; None: its known revision, or "main".
        offline: use the hub's cache alone.

    Raises:
        UserError: there is no encoder, or it has no running statistics or broken values, or its
            tensors are not those of a `SegResEncoder`.
    """
    weights = weights_of(open_checkpoint(source, revision=revision, offline=offline), "encoder")
    check_weights(weights)
    return weights


def load_encoder(
    network: Network,
    checkpoint: StrPath | None,
    revision: str | None = None,
    offline: bool = False,
) -> Network:
    """Put a pretrained encoder into a `SegResNetDS`, or into a bare `SegResEncoder`.

    Every tensor has to agree by name, shape and type, BatchNorm's running statistics included,
    with none missing and none left over. What was loaded is logged to "ctfm.weights". On an error
    the network is as it was.

    Args:
        network: a `SegResEncoder`, or a network that has one as its attribute `encoder`.
        checkpoint: file, folder or Hugging Face repository id, in any layout of `read_encoder`.
        revision: branch, tag or commit of the repository; None: its known revision, or "main".
        offline: use the hub's cache alone.

    Returns:
        The same network.

    Raises:
        UserError: no checkpoint, another network, or tensors that do not agree.
    """
    encoder_in(network)  # before a download for a network that cannot take it
    put_encoder(network, open_checkpoint(checkpoint, revision=revision, offline=offline))
    return network


def put_encoder(network: nn.Module, checkpoint: Checkpoint) -> None:
    """`load_encoder` from a checkpoint that is open already."""
    encoder = encoder_in(network)
    found = weights_of(checkpoint, "encoder")
    where = str(checkpoint.source)
    check_same(encoder.state_dict(), found.tensors, what="encoder checkpoint", where=where)
    check_values(found.tensors, where=where)
    copy_verified(encoder, found.tensors)
    logger.info(summary("encoder", found.tensors, checkpoint, found.left_out))


def load_network(
    network: Network,
    checkpoint: StrPath | None,
    revision: str | None = None,
    offline: bool = False,
) -> Network:
    """Put the weights of a whole network into it, as strictly as `load_encoder`.

    Accepts safetensors, plain state dicts, and what MONAI's `CheckpointSaver`, Auto3DSeg or
    Lightning write; a prefix such as "module." is taken off.

    Args:
        network: the network that the weights were trained in, usually a `SegResNetDS`.
        checkpoint: file, folder or Hugging Face repository id.
        revision: branch, tag or commit of the repository; None: its known revision, or "main".
        offline: use the hub's cache alone.

    Returns:
        The same network.

    Raises:
        UserError: no checkpoint, or tensors that do not agree.
    """
    opened = open_checkpoint(checkpoint, revision=revision, offline=offline)
    expected = network.state_dict()
    tensors, left_out = _strip(opened, next(iter(expected)))
    where = str(opened.source)
    check_same(expected, tensors, what="network checkpoint", where=where)
    check_values(tensors, where=where)
    copy_verified(network, tensors)
    logger.info(summary("network", tensors, opened, left_out))
    return network


def check_weights(weights: Weights) -> None:
    """Hold weights against the network that their own names and shapes describe.

    Raises:
        UserError: they are incomplete, have too many tensors, other types than float32, broken
            values, or, for an encoder, no running statistics.
    """
    where = str(weights.checkpoint.source)
    architecture = Architecture.of(weights.tensors)
    if architecture is None:
        raise UserError(f"{where} is no {weights.kind}: it {looks_like(weights.tensors)}")
    if weights.kind == "encoder" and not architecture.statistics:
        raise UserError(
            f"{where} looks like {architecture}; CT-FM's encoder has BATCH norm, and its running "
            "statistics are part of what was learned"
        )
    check_same(architecture.reference(), weights.tensors, what="checkpoint", where=where)
    check_values(weights.tensors, where=where)


def summary(
    what: str, tensors: Mapping[str, Tensor], checkpoint: Checkpoint, left_out: tuple[str, ...] = ()
) -> str:
    """One line on what was loaded: counts, file and hash."""
    size = parameters(tensors)
    spelled = f"{size / 1e6:.1f} M" if size >= 1e5 else f"{size:,}"
    line = (
        f"{what}: {len(tensors)} of {len(tensors)} tensors, {spelled} parameters, "
        f"from {checkpoint.source} (sha256 {checkpoint.sha256})"
    )
    if left_out:
        line += f"; {len(left_out)} other tensors of the file not used (first: {left_out[0]})"
    return line


def encoder_in(network: nn.Module) -> SegResEncoder:
    """The encoder of a network that can take CT-FM's: itself, or its attribute `encoder`.

    Raises:
        UserError: it has none, or one without running statistics.
    """
    encoder = getattr(network, "encoder", network)
    if not isinstance(encoder, SegResEncoder):
        raise UserError(
            f"a CT-FM encoder fits a SegResEncoder, or a network with one as `encoder` such as "
            f"SegResNetDS, not {type(network).__name__}"
        )
    if not has_statistics(encoder.state_dict()):
        raise UserError(
            f"the network has norm {str(encoder.norm[0]).upper()}, without running statistics, "
            "and would drop those of CT-FM's BatchNorm: its features would be others than the "
            "pretrained ones; build it with norm BATCH"
        )
    return encoder


def _strip(checkpoint: Checkpoint, anchor: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Take off the prefix that stands before a network's first tensor."""
    found = prefixes(anchor, checkpoint.tensors)
    if len(found) != 1:
        number = "holds no such network" if not found else f"holds it {len(found)} times"
        raise UserError(
            f"network checkpoint {checkpoint.source} {number}: {len(found)} tensors are called "
            f"{anchor}; it {looks_like(checkpoint.tensors)}; an encoder alone goes in with "
            "load_encoder, or into a network file with `ctfm weights inject`"
        )
    prefix = found[0]
    names = checkpoint.tensors
    inside = {n.removeprefix(prefix): t for n, t in names.items() if n.startswith(prefix)}
    return inside, tuple(name for name in names if not name.startswith(prefix))

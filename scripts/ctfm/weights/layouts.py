"""What a state dict is: where the encoder sits in it, and which network it belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from monai.networks.nets.segresnet_ds import SegResEncoder, SegResNetDS
from torch import Tensor

from ctfm.base.errors import UserError
from ctfm.contract.tasks import ENCODER, SEGRESNET
from ctfm.weights.checkpoints import Checkpoint

__all__ = [
    "Architecture",
    "Kind",
    "Weights",
    "has_statistics",
    "looks_like",
    "parameters",
    "weights_of",
]

Kind = Literal["encoder", "segresnet"]

ENCODER_ANCHOR = "conv_init.weight"  # the first tensor of every SegResEncoder
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")

# A fragment of a tensor's name, and the network whose names carry it.
FOREIGN_NETWORKS = (
    ("convInit.", "a MONAI SegResNet (not SegResNetDS), such as SuPreM's"),
    ("down_tr64.", "the U-Net of SuPreM or Models Genesis"),
    ("swinViT.", "a Swin UNETR, such as SuPreM's"),
    ("encoder.stages.", "an nnU-Net v2 network"),
    ("conv_blocks_context.", "an nnU-Net v1 network"),
    ("input_block.", "a MONAI DynUNet"),
    ("submodule.", "a MONAI UNet"),
    ("patch_embedding.", "a vision transformer"),
    ("layer1.0.", "a ResNet"),
    ("exp_avg", "an optimizer state"),
)


@dataclass(frozen=True)
class Weights:
    """An encoder or a whole network from a checkpoint, under its canonical names.

    Attributes:
        kind: "encoder" (`SegResEncoder`) or "segresnet" (`SegResNetDS`).
        tensors: canonical name, without any prefix, to tensor on the CPU.
        prefix: what stood in front of these names in the file.
        left_out: names of the file's tensors that are not part of it.
        checkpoint: the file.
    """

    kind: Kind
    tensors: dict[str, Tensor]
    prefix: str
    left_out: tuple[str, ...]
    checkpoint: Checkpoint


@dataclass(frozen=True)
class Architecture:
    """Constructor arguments, read off the names and shapes of a state dict.

    Attributes:
        statistics: normalisation layers have running statistics, hence norm is BATCH.
        blocks_up, out_channels, dsdepth: None for an encoder alone.
    """

    spatial_dims: int
    in_channels: int
    init_filters: int
    blocks_down: tuple[int, ...]
    statistics: bool
    blocks_up: tuple[int, ...] | None = None
    out_channels: int | None = None
    dsdepth: int | None = None

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Architecture | None:
        """Read it off; None: these are not the tensors of a SegResEncoder or SegResNetDS."""
        if SEGRESNET.encoder_prefix + ENCODER_ANCHOR not in tensors:
            return cls._of_encoder(tensors)
        encoder = cls._of_encoder(_under(SEGRESNET.encoder_prefix, tensors))
        heads = [name for name in tensors if re.fullmatch(r"up_layers\.\d+\.head\.weight", name)]
        blocks_up = _blocks("up_layers", tensors)
        if encoder is None or blocks_up is None or not heads:
            return encoder
        return cls(
            spatial_dims=encoder.spatial_dims,
            in_channels=encoder.in_channels,
            init_filters=encoder.init_filters,
            blocks_down=encoder.blocks_down,
            statistics=encoder.statistics,
            blocks_up=blocks_up,
            out_channels=tensors[heads[0]].shape[0],
            dsdepth=len(heads),
        )

    @classmethod
    def _of_encoder(cls, tensors: Mapping[str, Tensor]) -> Architecture | None:
        first = tensors.get(ENCODER_ANCHOR)
        blocks_down = _blocks("layers", tensors)
        if first is None or first.ndim not in (3, 4, 5) or blocks_down is None:
            return None
        return cls(
            spatial_dims=first.ndim - 2,
            in_channels=first.shape[1],
            init_filters=first.shape[0],
            blocks_down=blocks_down,
            statistics=has_statistics(tensors),
        )

    @property
    def published(self) -> bool:
        """Whether the encoder is the one that CT-FM publishes."""
        return self.statistics and ENCODER.arguments == {
            "spatial_dims": self.spatial_dims,
            "in_channels": self.in_channels,
            "init_filters": self.init_filters,
            "blocks_down": self.blocks_down,
        }

    def reference(self) -> dict[str, Tensor]:
        """The state dict that MONAI gives this architecture, without memory (meta device)."""
        # GROUP has the same names and shapes as INSTANCE with affine parameters
        norm = ENCODER.norm if self.statistics else ("INSTANCE", {"affine": True})
        with torch.device("meta"):
            network: torch.nn.Module
            if self.blocks_up is None:
                network = SegResEncoder(
                    spatial_dims=self.spatial_dims,
                    in_channels=self.in_channels,
                    init_filters=self.init_filters,
                    blocks_down=self.blocks_down,
                    norm=norm,
                )
            else:
                network = SegResNetDS(
                    spatial_dims=self.spatial_dims,
                    in_channels=self.in_channels,
                    init_filters=self.init_filters,
                    blocks_down=self.blocks_down,
                    norm=norm,
                    blocks_up=self.blocks_up,
                    out_channels=self.out_channels,
                    dsdepth=self.dsdepth,
                )
            return dict(network.state_dict())

    def __str__(self) -> str:
        """For example "a SegResEncoder with init_filters=32, blocks_down=(1, 2, 2, 4, 4)"."""
        name = "SegResEncoder" if self.blocks_up is None else "SegResNetDS"
        parts = [f"init_filters={self.init_filters}", f"blocks_down={self.blocks_down}"]
        if self.in_channels != ENCODER.in_channels:
            parts.append(f"in_channels={self.in_channels}")
        if self.spatial_dims != ENCODER.spatial_dims:
            parts.append(f"spatial_dims={self.spatial_dims}")
        if self.out_channels is not None:
            parts.append(f"out_channels={self.out_channels}, dsdepth={self.dsdepth}")
        if not self.statistics:
            parts.append("no running statistics (INSTANCE or GROUP norm, or saved without buffers)")
        return f"a {name} with {', '.join(parts)}"


def has_statistics(names: Iterable[str]) -> bool:
    """Whether any normalisation layer has running statistics."""
    return any(name.endswith(STATISTICS) for name in names)


def parameters(tensors: Mapping[str, Tensor]) -> int:
    """Number of trainable parameters: all values but running statistics."""
    return sum(t.numel() for name, t in tensors.items() if not name.endswith(STATISTICS))


def looks_like(tensors: Mapping[str, Tensor]) -> str:
    """Say what a state dict probably is, for an error message."""
    architecture = Architecture.of(tensors)
    if architecture is not None:
        return f"looks like {architecture}"
    for fragment, network in FOREIGN_NETWORKS:
        if any(fragment in name for name in tensors):
            return f"looks like {network}"
    return f"has names such as {', '.join(list(tensors)[:3])}"


def weights_of(checkpoint: Checkpoint, kind: str | None = None) -> Weights:
    """Find the encoder, or the network around it, whatever prefix a trainer put before it.

    Args:
        checkpoint: the file.
        kind: "encoder": the encoder, also out of a whole network; "segresnet": the whole network;
            None: the most that the file holds.

    Raises:
        UserError: it is not there, or there is more than one.
    """
    if kind not in (None, "encoder", "segresnet"):
        raise UserError(f"kind {kind!r} is unknown; choose encoder or segresnet")
    tensors = checkpoint.tensors
    prefix = _encoder_prefix(checkpoint)
    root = prefix.removesuffix(SEGRESNET.encoder_prefix)
    whole = root != prefix and any(name.startswith(f"{root}up_layers.") for name in tensors)
    if kind == "segresnet" and not whole:
        raise UserError(
            f"{checkpoint.source} holds an encoder alone, not a whole SegResNetDS; put it into a "
            "network with `ctfm weights inject`"
        )
    found: Kind = "segresnet" if whole and kind != "encoder" else "encoder"
    prefix = root if found == "segresnet" else prefix
    return Weights(
        kind=found,
        tensors=_under(prefix, tensors),
        prefix=prefix,
        left_out=tuple(name for name in tensors if not name.startswith(prefix)),
        checkpoint=checkpoint,
    )


def prefixes(anchor: str, names: Iterable[str]) -> list[str]:
    """What stands before a tensor's canonical name, in every place where it occurs.

    Example:
        >>> prefixes("conv_init.weight", ["module.encoder.conv_init.weight", "epoch"])
        ['module.encoder.']
    """
    return [n.removesuffix(anchor) for n in names if n == anchor or n.endswith("." + anchor)]


def _encoder_prefix(checkpoint: Checkpoint) -> str:
    found = prefixes(ENCODER_ANCHOR, checkpoint.tensors)
    if len(found) == 1:
        return found[0]
    if found:
        places = ", ".join(repr(prefix) for prefix in found[:4])
        raise UserError(
            f"{checkpoint.source} holds {len(found)} encoders, under {places}; save the one that "
            "is meant as a state dict of its own"
        )
    raise UserError(
        f"{checkpoint.source} holds no CT-FM encoder: 0 of {len(checkpoint.tensors)} tensors are "
        f"called {ENCODER_ANCHOR}; it {looks_like(checkpoint.tensors)}; expected a SegResEncoder "
        "or SegResNetDS"
    )


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _blocks(levels: str, names: Iterable[str]) -> tuple[int, ...] | None:
    """Residual blocks of each level; None: the levels are not numbered from 0 on."""
    pattern = re.compile(rf"{levels}\.(\d+)\.blocks\.(\d+)\.")
    found = {(int(m[1]), int(m[2])) for name in names if (m := pattern.match(name))}
    counts = {level: sum(1 for other, _ in found if other == level) for level, _ in found}
    if not counts or sorted(counts) != list(range(len(counts))):
        return None
    return tuple(counts[level] for level in range(len(counts)))

"""Networks that MONAI lacks, and what is done to one before it is trained on several devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise

import torch
from monai.networks.nets import FullyConnectedNet
from monai.networks.nets.segresnet_ds import SegResEncoder
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from ctfm.base.errors import UserError
from ctfm.networks.precision import sound_convolutions

__all__ = [
    "ContrastiveNetwork",
    "PooledClassifier",
    "PooledEncoder",
    "batch_norm_mlp",
    "distributed",
]


class PooledEncoder(SegResEncoder):
    """CT-FM's encoder whose output is the embedding of a patch: its last level, averaged.

    Its state dict is that of `SegResEncoder`. A subclass, and not MONAI's `head_module`, because
    that cannot be exported to TorchScript when its output is a tensor.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Patches (N, C, D, H, W), every side divisible by 16, to embeddings (N, 512)."""
        last: Tensor = self._forward(x)[-1]
        return last.mean((2, 3, 4))


class PooledClassifier(nn.Module):
    """CT-FM's encoder, the average of its last level, and fully connected layers: logits.

    MONAI has no network of this form that takes `SegResEncoder` under its own names. The encoder
    is the attribute `encoder`, so that `ctfm.weights.loading.load_encoder` fills it.

    Args:
        spatial_dims: of the input.
        in_channels: of the input.
        init_filters: channels of the first level; each following one has twice as many.
        blocks_down: residual blocks of each level.
        hidden_channels: of the layers between embedding and output, with ReLU after each; none:
            one linear layer, as in a linear probe.
        out_channels: number of logits.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        init_filters: int = 32,
        blocks_down: Sequence[int] = (1, 2, 2, 4, 4),
        hidden_channels: Sequence[int] = (256,),
        out_channels: int = 1,
    ) -> None:
        super().__init__()
        self.encoder = PooledEncoder(
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            init_filters=init_filters,
            blocks_down=tuple(blocks_down),
        )
        embedding = init_filters * 2 ** (len(blocks_down) - 1)
        self.head = FullyConnectedNet(embedding, out_channels, list(hidden_channels), act="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Volumes (N, C, D, H, W), every side divisible by 16, to logits (N, out_channels)."""
        logits: Tensor = self.head(self.encoder(x))
        return logits


class ContrastiveNetwork(nn.Module):
    """Encoder, global average of its last level, projection: what contrastive losses look at.

    CT-FM's network is SimCLR's, with a projection 512 -> 256 -> 128 without batch normalisation,
    which is MONAI's `FullyConnectedNet`. The projection is dropped after pretraining.

    Args:
        encoder: `SegResEncoder`.
        projection: (N, 512) to (N, dim).
        prediction: (N, dim) to (N, dim), for SimSiam; None: there is none.
        patches_at_once: how many patches pass the encoder together, and give BatchNorm its
            statistics: the same view of all scans first. None: all of a batch. The published run
            took one view of one crop of each scan, that is, the batch size.
        checkpoint_activations: keep no activations for the backward pass but compute them again,
            `patches_at_once` by `patches_at_once`: less memory, a third more time. Outputs,
            gradients and running statistics stay the same.

    Raises:
        UserError: patches_at_once is not positive, or the projection does not fit the encoder.
    """

    def __init__(
        self,
        encoder: SegResEncoder,
        projection: nn.Module,
        prediction: nn.Module | None = None,
        patches_at_once: int | None = None,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        if patches_at_once is not None and patches_at_once < 1:
            raise UserError(f"patches_at_once is {patches_at_once}: give a number from 1, or null")
        given = encoder.init_filters * 2 ** (len(encoder.blocks_down) - 1)
        taken = next(m.in_features for m in projection.modules() if isinstance(m, nn.Linear))
        if given != taken:
            raise UserError(
                f"the projection takes {taken} features, the encoder gives {given}: set "
                "embedding_dim to 16 times init_filters for five levels"
            )
        self.encoder = encoder
        self.projection = projection
        self.prediction = prediction
        self.patches_at_once = patches_at_once
        self.checkpoint_activations = checkpoint_activations

    def forward(self, views: Tensor) -> Tensor | list[Tensor]:
        """Embed views.

        Args:
            views: (B, crops, views, C, D, H, W).

        Returns:
            Projections (B, crops, views, dim); with a prediction a list of both.
        """
        scans, crops, number = views.shape[:3]
        patches = views.permute(1, 2, 0, *range(3, views.ndim)).flatten(0, 2)
        projected = self.projection(self.embed(patches))
        outputs = (
            [projected] if self.prediction is None else [projected, self.prediction(projected)]
        )
        shaped = [o.unflatten(0, (crops, number, scans)).permute(2, 0, 1, 3) for o in outputs]
        return shaped[0] if self.prediction is None else shaped

    def embed(self, patches: Tensor) -> Tensor:
        """Patches (N, C, D, H, W) to embeddings (N, 512)."""
        parts = torch.split(patches, self.patches_at_once or len(patches))
        if not (self.checkpoint_activations and torch.is_grad_enabled()):
            return torch.cat([self._pooled(part) for part in parts])
        return torch.cat([self._checkpointed(part) for part in parts])

    def _pooled(self, patches: Tensor) -> Tensor:
        if patches.device.type == "cpu":  # half the time of the default layout there
            patches = patches.contiguous(memory_format=torch.channels_last_3d)
        with sound_convolutions(patches.device.type):  # also when a checkpoint computes them again
            last: Tensor = self.encoder(patches)[-1]
        return last.mean((2, 3, 4))

    def _checkpointed(self, patches: Tensor) -> Tensor:
        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), _held_statistics(self.encoder)

        pooled: Tensor = checkpoint(self._pooled, patches, use_reentrant=False, context_fn=contexts)
        return pooled


@contextmanager
def _held_statistics(network: nn.Module) -> Iterator[None]:
    """Leave running statistics alone: a forward pass that is repeated must not count twice."""
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    counts = [layer.num_batches_tracked for layer in layers]
    before = [None if count is None else count.clone() for count in counts]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for count, value in zip(counts, before, strict=True):
            if count is not None and value is not None:
                count.copy_(value)


def batch_norm_mlp(widths: Sequence[int], last_norm: bool = False) -> nn.Sequential:
    """Linear layers with BatchNorm and ReLU between them, as SimSiam and VICReg project.

    MONAI's `FullyConnectedNet` has no normalisation.

    Args:
        widths: features of input, hidden layers and output.
        last_norm: normalise the output, without parameters of its own, as SimSiam's projection
            does. False: it ends in a linear layer.
    """
    layers: list[nn.Module] = []
    for width, following in pairwise(widths[:-1]):
        layers += [nn.Linear(width, following, bias=False), nn.BatchNorm1d(following), nn.ReLU()]
    layers.append(nn.Linear(widths[-2], widths[-1]))
    if last_norm:
        layers.append(nn.BatchNorm1d(widths[-1], affine=False))
    return nn.Sequential(*layers)


def distributed(
    network: nn.Module, device: torch.device, sync: bool = True, find_unused: bool = True
) -> nn.Module:
    """Wrap a network for training in several processes, one device each.

    Args:
        network: on `device` already.
        device: of this process.
        sync: share BatchNorm statistics between GPUs, as in CT-FM's published runs, where two
            crops a process are too few for them. On CPUs torch cannot share them.
        find_unused: parameters may be without gradients, as those of a frozen encoder are; looking
            for them costs a walk over the graph in each iteration.
    """
    if sync and device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(
        network,
        device_ids=[device] if device.type == "cuda" else None,
        find_unused_parameters=find_unused,
    )

"""Embeddings of all windows over a scan, in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor
from tqdm import tqdm

from ctfm.base.errors import UserError
from ctfm.base.types import Array
from ctfm.contract.tasks import HU_WINDOW
from ctfm.embedding.windows import WindowGrid, cut_window
from ctfm.imaging.hounsfield import AIR_HU
from ctfm.inference.inferers.autocast import AutocastInferer

__all__ = ["WindowEmbedder", "embed_windows"]

#: What `AIR_HU` is after scaling to 0..1.
AIR = (AIR_HU - HU_WINDOW[0]) / (HU_WINDOW[1] - HU_WINDOW[0])


class WindowEmbedder(Inferer):
    """Apply an encoder to overlapping windows: a map of embeddings, one voxel a window.

    MONAI's `SlidingWindowInferer` stitches outputs of the size of the input, and `PatchInferer`
    merges them into such a volume; an embedding has no size.

    Args:
        patch: voxels of a window.
        overlap: share of a window that neighbours have in common.
        sw_batch_size: windows that pass the encoder together.
        inferer: how the encoder is applied to them; None: `AutocastInferer`.
        skip_air: leave out windows that show nothing above -500 HU.
        progress: show a bar, on a terminal.

    Raises:
        UserError: patch, overlap or batch size make no sense.
    """

    def __init__(
        self,
        patch: Sequence[int],
        overlap: float = 0.625,
        sw_batch_size: int = 8,
        inferer: Inferer | None = None,
        skip_air: bool = False,
        progress: bool = False,
    ) -> None:
        super().__init__()
        self.patch = WindowGrid(tuple(patch), tuple(patch), overlap).patch
        self.overlap = overlap
        if sw_batch_size < 1:
            raise UserError(f"sw_batch_size is {sw_batch_size}: give a number from 1")
        self.sw_batch_size = sw_batch_size
        self.inferer = AutocastInferer() if inferer is None else inferer
        self.skip_air = skip_air
        self.progress = progress

    def __call__(
        self, inputs: Tensor, network: Callable[..., Any], *_args: Any, **_options: Any
    ) -> Tensor:
        """Embed every window.

        Args:
            inputs: (B, C, D, H, W), scaled so that air is 0.
            network: patches (N, C, *patch) to embeddings (N, F).

        Returns:
            (B, F, D', H', W'), float32, on the CPU: one voxel a window, in the order of
            `WindowGrid`; nan for windows that were left out.

        Raises:
            UserError: all windows show air, or an embedding is not finite.
        """
        return torch.stack([self._embed(volume, network) for volume in inputs])

    def _embed(self, volume: Tensor, network: Callable[..., Any]) -> Tensor:
        grid = WindowGrid(tuple(volume.shape[1:]), self.patch, self.overlap)
        starts = grid.starts()
        kept = self._kept(volume, starts)
        embeddings = embed_windows(
            volume,
            starts[kept],
            self.patch,
            self._applied(network),
            self.sw_batch_size,
            self.progress,
        )
        everywhere = embeddings.new_full((len(starts), embeddings.shape[1]), torch.nan)
        everywhere[torch.from_numpy(kept)] = embeddings
        return everywhere.T.reshape(-1, *grid.counts)

    def _applied(self, network: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
        return lambda patches: self.inferer(patches, network)

    def _kept(self, volume: Tensor, starts: Array) -> Array:
        """Which windows are embedded, (N,)."""
        if not self.skip_air:
            return np.ones(len(starts), dtype=bool)
        kept = [bool((cut_window(volume, s, self.patch) > AIR).any()) for s in starts]
        if not any(kept):
            raise UserError(f"all {len(kept)} windows show nothing above {AIR_HU} HU: not a body")
        return np.asarray(kept)


def embed_windows(
    volume: Tensor,
    starts: Array,
    patch: Sequence[int],
    apply: Callable[[Tensor], Tensor],
    batch_size: int,
    progress: bool = False,
) -> Tensor:
    """Embeddings of some windows of a volume.

    Args:
        volume: (C, D, H, W), scaled so that air is 0.
        starts: first voxel of each window, (N, 3), N > 0.
        patch: voxels of a window.
        apply: patches (n, C, *patch) to embeddings (n, F).
        batch_size: largest n.
        progress: show a bar, on a terminal.

    Returns:
        (N, F), on the CPU.

    Raises:
        UserError: an embedding is not finite.
    """
    plain = volume.as_tensor() if isinstance(volume, MetaTensor) else volume
    batches = [starts[i : i + batch_size] for i in range(0, len(starts), batch_size)]
    parts = []
    for batch in tqdm(batches, unit="batch", leave=False, disable=None if progress else True):
        patches = torch.stack([cut_window(plain, start, patch) for start in batch])
        parts.append(apply(patches).cpu())
    embeddings = torch.cat(parts)
    if not embeddings.isfinite().all():
        broken = int((~embeddings.isfinite().all(1)).sum())
        raise UserError(
            f"{broken} of {len(embeddings)} embeddings are not finite: compute in float32 with "
            "--amp false, and check the encoder with `ctfm weights verify`"
        )
    return embeddings

"""Embeddings of windows on the side: the deepest features of the network that segments them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ctfm.base.errors import UserError
from ctfm.inference.inferers.windows import Window

__all__ = ["EncoderFeatures"]


class EncoderFeatures:
    """Within it, the last level of a network's encoder is averaged over each window that is run.

    Args:
        network: has an `encoder` that returns the features of its levels, as SegResNetDS.

    Raises:
        UserError: it has none.
    """

    def __init__(self, network: Any) -> None:
        encoder = getattr(network, "encoder", None)
        if not isinstance(encoder, nn.Module):
            raise UserError(
                f"{type(network).__name__} has no encoder whose features could be embeddings: "
                "embed takes a SegResNetDS"
            )
        self.encoder = encoder
        self._last = torch.empty(0)
        self._rows: list[Tensor] = []
        self._starts: list[tuple[int, ...]] = []

    def __enter__(self) -> EncoderFeatures:
        self._handle = self.encoder.register_forward_hook(self._note)
        return self

    def __exit__(self, *_error: Any) -> None:
        self._handle.remove()

    def _note(self, _module: nn.Module, _inputs: Any, levels: Any) -> None:
        deepest = levels[-1] if isinstance(levels, list | tuple) else levels
        self._last = deepest.float().mean((2, 3, 4)).cpu()

    def ran(self, windows: Sequence[Window]) -> None:
        """The features that were seen last are those of these windows."""
        self._rows.append(self._last)
        self._starts += [window.start for window in windows]

    def embeddings(self) -> Tensor:
        """(N, F), float32, on the CPU, in the order in which the windows were run."""
        return torch.cat(self._rows) if self._rows else torch.empty(0, 0)

    def centres(self, roi: Sequence[int], affine: Tensor) -> Tensor:
        """Centre of each window in mm, (N, 3), float64.

        Args:
            roi: voxels of a window.
            affine: (4, 4), voxel of the volume to RAS+ in mm.
        """
        starts = torch.tensor(self._starts, dtype=torch.float64).reshape(-1, 3)
        voxels = starts + (torch.tensor(tuple(roi), dtype=torch.float64) - 1) / 2
        matrix = torch.as_tensor(affine, dtype=torch.float64).cpu()
        return voxels @ matrix[:3, :3].T + matrix[:3, 3]

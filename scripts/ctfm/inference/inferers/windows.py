"""Where MONAI's sliding window puts its windows, and how much each voxel of one counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.utils import PytorchPadMode, ensure_tuple_rep, fall_back_tuple
from torch import Tensor
from torch.nn import functional

from ctfm.base.errors import UserError

__all__ = ["Window", "WindowLayout"]


@dataclass(frozen=True)
class Window:
    """One window.

    Attributes:
        start: its first voxel (D, H, W) in the volume; negative where it lies in the padding.
        inside: the part of the volume that it covers, a slice for each axis.
        part: the same voxels, counted from `start`.
    """

    start: tuple[int, ...]
    inside: tuple[slice, ...]
    part: tuple[slice, ...]


@dataclass(frozen=True)
class WindowLayout:
    """The windows of MONAI's `sliding_window_inference` over a volume, in its order.

    Attributes:
        shape: voxels of the volume (D, H, W).
        roi: voxels of a window.
        windows: in the order of their first slice.
        padding: voxels before and after each axis, where the volume is smaller than a window.
    """

    shape: tuple[int, ...]
    roi: tuple[int, ...]
    windows: tuple[Window, ...]
    padding: tuple[tuple[int, int], ...]

    @classmethod
    def over(
        cls,
        shape: Sequence[int],
        roi_size: Sequence[int] | int,
        overlap: Sequence[float] | float,
    ) -> WindowLayout:
        """Lay windows over a volume.

        Args:
            shape: voxels of the volume (D, H, W).
            roi_size: voxels of a window; where it is not positive, the whole axis.
            overlap: share of a window that neighbours have in common, for all axes or each.

        Raises:
            UserError: there are not three axes, or an overlap is not from 0 to below 1.
        """
        given = 3 if isinstance(roi_size, int) else len(roi_size)
        if len(shape) != 3 or given != 3:
            raise UserError(
                f"volume of {tuple(shape)} voxels, windows of {roi_size}: both need three axes; "
                "give inputs of (B, C, D, H, W)"
            )
        overlaps = ensure_tuple_rep(overlap, 3)
        if not all(0 <= share < 1 for share in overlaps):
            raise UserError(f"overlap is {overlap}: give a share from 0 to below 1, as 0.625")
        roi = tuple(fall_back_tuple(roi_size, shape))
        missing = [max(side - n, 0) for side, n in zip(roi, shape, strict=True)]
        padding = tuple((n // 2, n - n // 2) for n in missing)
        padded = tuple(map(max, shape, roi))
        steps = [
            side if side == n else max(int(side * (1 - share)), 1)
            for side, n, share in zip(roi, padded, overlaps, strict=True)
        ]
        found = dense_patch_slices(padded, roi, steps)
        before = [first for first, _ in padding]
        starts = [[int(s.start) - b for s, b in zip(w, before, strict=True)] for w in found]
        windows = tuple(_window(start, roi, shape) for start in starts)
        return cls(tuple(shape), roi, windows, padding)

    def cut(self, volume: Tensor, window: Window, padding_mode: str, cval: float) -> Tensor:
        """One window of a volume (C, D, H, W), (C, *roi): a view, unless it has to be padded.

        An axis that is padded has one window alone, so that padding a window is the same as
        padding the volume, without a copy of it.
        """
        inside = (slice(None), *window.inside)
        part = volume[inside]
        if not any(map(any, self.padding)):
            return part
        sides = [n for axis in reversed(self.padding) for n in axis]  # torch: last axis first
        mode = PytorchPadMode(padding_mode).value
        value = cval if mode == "constant" else None
        return functional.pad(part[None], sides, mode=mode, value=value)[0]

    def importance(self, mode: str, sigma_scale: float, device: torch.device) -> Tensor:
        """How much each voxel of a window counts, *roi, float32."""
        weights: Tensor = compute_importance_map(
            self.roi, mode=mode, sigma_scale=sigma_scale, device=device
        )
        return weights


def _window(start: Sequence[int], roi: Sequence[int], shape: Sequence[int]) -> Window:
    spans = [(s, max(s, 0), min(s + side, n)) for s, side, n in zip(start, roi, shape, strict=True)]
    return Window(
        tuple(start),
        tuple(slice(low, high) for _, low, high in spans),
        tuple(slice(low - first, high - first) for first, low, high in spans),
    )

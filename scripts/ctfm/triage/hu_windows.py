"""One volume seen through several windows of Hounsfield units, as radiologists read a head CT."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from ctfm.base.errors import UserError

__all__ = ["LAYOUTS", "HuWindowsd", "StackWindowsd", "unstacked"]

#: Where the windows lie: one after the other along depth in one channel, or in a channel each.
LAYOUTS = ("depth", "channels")


class HuWindowsd(MapTransform):
    """Scale a volume to 0..1 by each of several HU windows: a channel for each.

    Values outside a window are clipped, as by `ScaleIntensityRanged` with ``clip``.

    Args:
        keys: items with a volume (1, D, H, W) in HU.
        windows: lower and upper end of each, such as ``[[0, 80], [-125, 175]]``.

    Raises:
        UserError: a window is not two numbers, the lower one first.
    """

    def __init__(self, keys: KeysCollection, windows: Sequence[Sequence[float]]) -> None:
        super().__init__(keys)
        if not windows or any(len(one) != 2 or not one[0] < one[1] for one in windows):
            raise UserError(f"windows are {windows!r}: give pairs of HU, the lower one first")
        self.windows = [(float(low), float(high)) for low, high in windows]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each volume by (windows, D, H, W), float32; the affine stays."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            seen = [((image - low) / (high - low)).clamp(0, 1) for low, high in self.windows]
            result[key] = torch.cat(seen)
        return result


class StackWindowsd(MapTransform):
    """Lay the channels of `HuWindowsd` as the network takes them.

    Args:
        keys: items (windows, D, H, W).
        layout: "depth": one after the other along depth, (1, windows * D, H, W), as CT-FM's
            triage was trained; "channels": as they are.

    Raises:
        UserError: there is no such layout.
    """

    def __init__(self, keys: KeysCollection, layout: str = "depth") -> None:
        super().__init__(keys)
        if layout not in LAYOUTS:
            raise UserError(f"window_layout is {layout!r}: choose {' or '.join(LAYOUTS)}")
        self.layout = layout

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Stack; the affine stays that of one window."""
        result = dict(data)
        for key in self.key_iterator(result):
            if self.layout == "depth":
                image = result[key]
                plain = image.as_tensor() if isinstance(image, MetaTensor) else image
                stacked = plain.reshape(1, -1, *plain.shape[2:])
                if isinstance(image, MetaTensor):
                    stacked = MetaTensor(stacked, meta=image.meta)
                result[key] = stacked
        return result


def unstacked(volume: torch.Tensor, windows: int, layout: str) -> torch.Tensor:
    """The windows of a network's input, one a channel: (B, windows, D, H, W).

    Args:
        volume: (B, C, D', H, W), as `StackWindowsd` laid it.
        windows: how many.
        layout: of `LAYOUTS`.
    """
    if layout == "channels":
        return volume
    return volume.reshape(len(volume), windows, -1, *volume.shape[3:])

"""What windows leave behind, summed over the slices that a later window may still touch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ctfm.inference.inferers.windows import Window

__all__ = ["SliceRing"]


class SliceRing:
    """Sums of weighted features and of weights: slice z of the volume lies at z modulo the depth.

    Args:
        depth: slices, those of a window.
        cross_section: voxels of a slice (H, W).
        channels: of the features.
        dtype: in which features are summed; weights are summed in float32.
        device: where.
        channels_last: whether the channels of a voxel, or the voxels of a channel in a slice, lie
            side by side. As the features do: to reorder every window costs more than to sum it.

    Attributes:
        features: sums (depth, H, W, C), however they lie in memory.
        weights: sums (depth, H, W), float32.
    """

    def __init__(
        self,
        depth: int,
        cross_section: tuple[int, int],
        channels: int,
        dtype: torch.dtype,
        device: torch.device,
        channels_last: bool = True,
    ) -> None:
        self.depth = depth
        self.channels_last = channels_last
        if channels_last:
            self.features = torch.zeros(depth, *cross_section, channels, dtype=dtype, device=device)
        else:
            sums = torch.zeros(depth, channels, *cross_section, dtype=dtype, device=device)
            self.features = sums.movedim(1, -1)
        self.weights = torch.zeros(depth, *cross_section, device=device)

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, slice]]:
        """Slices start..stop of the volume: first slice of each piece, and where it lies here."""
        while start < stop:
            place = start % self.depth
            length = min(stop - start, self.depth - place)
            yield start, slice(place, place + length)
            start += length

    def add(self, window: Window, features: Tensor, importance: Tensor) -> None:
        """Sum a window.

        Args:
            window: where it lies.
            features: of the window (C, *roi), on any device.
            importance: of its voxels, *roi, in the type and on the device of the sums.
        """
        depth, *across = window.inside
        skipped, *part = window.part
        for first, place in self.pieces(depth.start, depth.stop):
            begin = first - depth.start + skipped.start
            of_window = (slice(begin, begin + place.stop - place.start), *part)
            of_sums = (place, *across)
            weights, given = importance[of_window], features.movedim(0, -1)[of_window]
            self.weights[of_sums] += weights
            _add_weighted(self.features[of_sums], given, weights[..., None], self.channels_last)

    def clear(self, place: slice) -> None:
        """Make room for the slices that follow."""
        self.features[place].zero_()
        self.weights[place].zero_()


def _add_weighted(sums: Tensor, features: Tensor, weights: Tensor, channels_last: bool) -> None:
    """`sums += features * weights`, all (d, h, w, C or 1).

    Where type, device or order of axes differ, torch would convert the whole window before it
    adds: one slice at a time stays in the cache.
    """
    alike = features.dtype == sums.dtype and features.device == sums.device
    if alike and (features.stride(-1) == 1) == channels_last:
        sums.addcmul_(features, weights)
        return
    height, width, channels = sums.shape[1:]
    if channels_last:
        converted = sums.new_empty(height, width, channels)
    else:
        converted = sums.new_empty(channels, height, width).movedim(0, -1)
    for total, feature, weight in zip(sums, features, weights, strict=True):
        total.addcmul_(converted.copy_(feature), weight)

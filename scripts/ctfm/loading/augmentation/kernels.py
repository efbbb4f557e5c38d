"""What MONAI's random transforms compute, on one volume, at the speed of memory.

Every function agrees with its MONAI transform to the rounding of float32; the tests hold them to
it. On CPUs they are compiled (`compiled.py`); elsewhere they are torch operations on
the device, and nothing returns to the host.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from monai.networks.layers.convutils import gaussian_1d
from torch import Tensor, nn

__all__ = ["affine_linear", "affine_nearest", "gaussian_smooth", "histogram_shift", "resize"]

_rooms = threading.local()


def resize(volume: Tensor, size: Sequence[int]) -> Tensor:
    """`monai.transforms.Resize` with mode "trilinear".

    Args:
        volume: (D, H, W), float32.
        size: voxels (D, H, W) of the result.
    """
    if volume.device.type != "cpu":
        found = nn.functional.interpolate(volume[None, None], size=tuple(size), mode="trilinear")
        return found[0, 0]
    from ctfm.loading.augmentation import compiled

    result = torch.empty(*size)
    compiled.resize(volume.contiguous().numpy(), result.numpy())
    return result


def gaussian_smooth(volume: Tensor, sigmas: Sequence[float], in_place: bool = False) -> Tensor:
    """`monai.transforms.GaussianSmooth` with its defaults: zeros outside, kernels not normalised.

    Args:
        volume: (D, H, W), float32.
        sigmas: in voxels, one for each axis.
        in_place: the result may take the place of the volume.
    """
    kernels = [gaussian_1d(torch.tensor(s), truncated=4.0, approx="erf") for s in sigmas]
    if volume.device.type != "cpu":
        for axis, kernel in enumerate(kernels):
            volume = _convolve(volume, kernel.tolist(), axis)
        return volume
    from ctfm.loading.augmentation import compiled

    source, room = volume.contiguous(), _room(volume.numel()).view(volume.shape)
    result = source if in_place else torch.empty(volume.shape)
    depth, rows, columns = (kernel.float().numpy() for kernel in kernels)
    compiled.smooth(source.numpy(), depth, rows, columns, room.numpy(), result.numpy())
    return result


def _convolve(volume: Tensor, kernel: list[float], axis: int) -> Tensor:
    reach, size = len(kernel) // 2, volume.shape[axis]
    result = volume * kernel[reach]
    for shift in range(1, min(reach, size - 1) + 1):
        rest = size - shift
        later, earlier = volume.narrow(axis, shift, rest), volume.narrow(axis, 0, rest)
        result.narrow(axis, shift, rest).add_(earlier, alpha=kernel[reach - shift])
        result.narrow(axis, 0, rest).add_(later, alpha=kernel[reach + shift])
    return result


def _room(size: int) -> Tensor:
    """Memory that each thread keeps: new one costs more to get from the system than to use."""
    kept: Tensor | None = getattr(_rooms, "room", None)
    if kept is None or len(kept) < size:
        kept = _rooms.room = torch.empty(size)
    return kept[:size]


def histogram_shift(
    volume: Tensor, reference: Sequence[float], moved: Sequence[float], in_place: bool = False
) -> Tensor:
    """`monai.transforms.RandHistogramShift` with given control points.

    Args:
        volume: any shape, float32.
        reference: control points in 0..1 of the volume's range, increasing.
        moved: what they become, in 0..1 of the same range.
        in_place: the result may take the place of the volume.
    """
    low, high = torch.aminmax(volume)  # they stay on the device
    pairs = zip(pairwise(reference), pairwise(moved), strict=True)
    slopes = [(f1 - f0) / (r1 - r0) for (r0, r1), (f0, f1) in pairs]
    changes = [after - before for before, after in pairwise(slopes)]
    knots = [low + (high - low) * r for r in reference]
    offset = low + (high - low) * moved[0] - slopes[0] * knots[0]
    if volume.device.type != "cpu":
        result = volume * slopes[0] + offset
        for knot, change in zip(knots[1:-1], changes, strict=True):
            result.add_((volume - knot).clamp_min_(0), alpha=change)
        return result
    from ctfm.loading.augmentation import compiled

    copied = not (in_place and volume.is_contiguous())
    result = volume.clone(memory_format=torch.contiguous_format) if copied else volume
    at = np.array([knot.item() for knot in knots[1:-1]], np.float32)
    numbers = np.float32(slopes[0]), np.float32(offset.item()), at, np.array(changes, np.float32)
    compiled.bend(result.view(-1).numpy(), *numbers)
    return result


def affine_linear(volume: Tensor, matrix: Tensor, fill: float = 0.0) -> Tensor:
    """Resample by trilinear interpolation, in the shape of the input.

    Args:
        volume: (D, H, W), float32.
        matrix: (3, 4), float64 on the CPU: output voxel index to input voxel index.
        fill: value outside the volume.
    """
    if volume.device.type != "cpu":
        # grid_sample knows zeros outside, and no other value
        return _grid_sample(volume - fill, matrix, "bilinear").add_(fill)
    from ctfm.loading.augmentation import compiled

    result = torch.empty(volume.shape)
    source = volume.contiguous().numpy()
    compiled.affine_linear(source, matrix.numpy(), np.float32(fill), result.numpy())
    return result


def affine_nearest(labels: Tensor, matrix: Tensor) -> Tensor:
    """Resample labels by the nearest voxel, background outside; arguments of `affine_linear`."""
    if labels.device.type != "cpu":
        return _grid_sample(labels.float(), matrix, "nearest").to(labels.dtype)
    from ctfm.loading.augmentation import compiled

    result = torch.empty(labels.shape, dtype=labels.dtype)
    compiled.affine_nearest(labels.contiguous().numpy(), matrix.numpy(), result.numpy())
    return result


def _grid_sample(volume: Tensor, matrix: Tensor, mode: str) -> Tensor:
    """The same on a GPU, where a grid costs nothing."""
    sizes = torch.tensor(volume.shape, dtype=torch.float64)
    steps, shift = matrix[:, :3], matrix[:, 3]
    # index i of n voxels lies at (2 i + 1) / n - 1
    theta = steps * sizes[None] / sizes[:, None]
    offset = (2 * (steps @ (sizes / 2 - 0.5) + shift) + 1) / sizes - 1
    full = torch.cat([theta.flip(0, 1), offset.flip(0)[:, None]], dim=1)
    shape = [1, 1, *volume.shape]
    grid = nn.functional.affine_grid(full[None].to(volume), shape, align_corners=False)
    return nn.functional.grid_sample(volume[None, None], grid, mode=mode, align_corners=False)[0, 0]

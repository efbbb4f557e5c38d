"""What MONAI's random transforms compute, on one volume, at the speed of memory.

Every function agrees with its MONAI transform to the rounding of float32; the tests hold them to
it. On a CPU they are faster because a convolution with a short kernel is a few shifted additions,
and a piecewise linear map a few clamped ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from monai.networks.layers.convutils import gaussian_1d
from torch import Tensor, nn

__all__ = ["affine_linear", "affine_nearest", "gaussian_smooth", "histogram_shift"]


def gaussian_smooth(volume: Tensor, sigmas: Sequence[float]) -> Tensor:
    """`monai.transforms.GaussianSmooth` with its defaults: zeros outside, kernels not normalised.

    Args:
        volume: (D, H, W).
        sigmas: in voxels, one for each axis.
    """
    for axis, sigma in enumerate(sigmas):
        kernel = gaussian_1d(torch.tensor(sigma), truncated=4.0, approx="erf").tolist()
        volume = _convolve(volume, kernel, axis)
    return volume


def _convolve(volume: Tensor, kernel: list[float], axis: int) -> Tensor:
    reach, size = len(kernel) // 2, volume.shape[axis]
    result = volume * kernel[reach]
    for shift in range(1, min(reach, size - 1) + 1):
        rest = size - shift
        later, earlier = volume.narrow(axis, shift, rest), volume.narrow(axis, 0, rest)
        result.narrow(axis, shift, rest).add_(earlier, alpha=kernel[reach - shift])
        result.narrow(axis, 0, rest).add_(later, alpha=kernel[reach + shift])
    return result


def histogram_shift(volume: Tensor, reference: Sequence[float], moved: Sequence[float]) -> Tensor:
    """`monai.transforms.RandHistogramShift` with given control points.

    Args:
        volume: any shape.
        reference: control points in 0..1 of the volume's range, increasing.
        moved: what they become, in 0..1 of the same range.
    """
    low, high = torch.aminmax(volume)
    span = high - low
    knots = list(zip(reference, moved, strict=True))
    slopes = [(f1 - f0) / (r1 - r0) for (r0, f0), (r1, f1) in pairwise(knots)]
    result = (volume - (low + reference[0] * span)).mul_(slopes[0]).add_(low + moved[0] * span)
    above = torch.empty_like(volume)
    for knot, before, after in zip(reference[1:], slopes, slopes[1:], strict=False):
        torch.sub(volume, low + knot * span, out=above)
        result.add_(above.clamp_min_(0), alpha=after - before)
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
    padded = nn.functional.pad(volume, (1, 2) * 3, value=fill)
    _, rows, columns = padded.shape
    below, right = rows * columns, columns
    flat, result = padded.reshape(-1), torch.empty_like(volume)
    for depth, (z, y, x) in enumerate(_planes(volume.shape, matrix)):
        sizes = zip((z, y, x), padded.shape, strict=True)
        points = [p.add_(1).clamp_(0, n - 2) for p, n in sizes]
        base = [p.int() for p in points]
        fz, fy, fx = (p.sub_(b) for p, b in zip(points, base, strict=True))
        index = base[0].mul_(below).add_(base[1].mul_(right)).add_(base[2]).reshape(-1)
        near = _bilinear(flat, index, right, fy, fx)
        far = _bilinear(flat[below:], index, right, fy, fx)
        torch.lerp(near, far, fz, out=result[depth])
    return result


def _bilinear(flat: Tensor, index: Tensor, right: int, fy: Tensor, fx: Tensor) -> Tensor:
    a, b, c, d = (flat[o:].index_select(0, index).view(fx.shape) for o in (0, 1, right, right + 1))
    return torch.lerp(torch.lerp(a, b, fx), torch.lerp(c, d, fx), fy)


def affine_nearest(labels: Tensor, matrix: Tensor) -> Tensor:
    """Resample labels by the nearest voxel, background outside; arguments of `affine_linear`."""
    if labels.device.type != "cpu":
        return _grid_sample(labels.float(), matrix, "nearest").to(labels.dtype)
    _, rows, columns = labels.shape
    flat, result = labels.reshape(-1), torch.empty_like(labels)
    for depth, plane in enumerate(_planes(labels.shape, matrix)):
        nearest = [p.round_() for p in plane]
        inside = torch.ones(nearest[0].shape, dtype=torch.bool)
        for point, size in zip(nearest, labels.shape, strict=True):
            inside &= (point >= 0) & (point < size)
            point.clamp_(0, size - 1)
        z, y, x = (p.int() for p in nearest)
        index = z.mul_(rows * columns).add_(y.mul_(columns)).add_(x).reshape(-1)
        found = flat.index_select(0, index).view(inside.shape)
        torch.mul(found, inside, out=result[depth])
    return result


def _planes(shape: Sequence[int], matrix: Tensor) -> Iterator[list[Tensor]]:
    """For each plane of the output, the input index of its voxels along each axis (H, W).

    One plane at a time, so that all that is computed of it stays in the cache.
    """
    depths, rows, columns = shape
    h = torch.arange(rows, dtype=torch.float32)[:, None]
    w = torch.arange(columns, dtype=torch.float32)[None]
    steps = matrix.tolist()
    within = [h * step[1] + w * step[2] for step in steps]
    for depth in range(depths):
        yield [p + (step[0] * depth + step[3]) for p, step in zip(within, steps, strict=True)]


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

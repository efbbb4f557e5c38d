"""The same scan as another protocol shows it: noisier, in thicker slices, by another kernel."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from monai.data import MetaTensor
from scipy import ndimage

from ctfm.imaging.grids import spacing_of

__all__ = ["CHANGES", "Change"]

#: HU (1, X, Y, Z), axes as stored, and a seed, to the same of the altered scan.
Change = Callable[[MetaTensor, int], MetaTensor]

NOISE_HU = (10.0, 20.0, 40.0)
#: Standard deviation of the Gaussian, mm, of a softer kernel, and how much of what it takes away a
#: sharper kernel adds.
KERNEL_MM, SHARPEN = 1.0, 1.0


def add_noise(scan: MetaTensor, seed: int, sigma: float) -> MetaTensor:
    """Independent Gaussian noise of `sigma` HU in each voxel."""
    values = scan.numpy()
    # another draw for each scan, by its voxels: a path would give another one in each folder
    checksum = zlib.crc32(np.ascontiguousarray(values).data)
    rng = np.random.default_rng([seed, checksum, round(sigma)])
    noise = rng.normal(0, sigma, values.shape).astype(np.float32)
    return _like(scan, values + noise, scan.affine)


def thicken(scan: MetaTensor, _seed: int) -> MetaTensor:
    """Slices of twice the thickness: neighbours along the patient's axis averaged."""
    axis = _patient_axis(scan)
    values = np.moveaxis(scan.numpy(), axis + 1, 1)
    count = values.shape[1] // 2
    if count == 0:
        return scan
    pairs = values[:, : 2 * count].reshape(1, count, 2, *values.shape[2:]).mean(axis=2)
    affine = scan.affine.clone()
    affine[:3, 3] += affine[:3, axis] / 2  # the first centre lies between the first two
    affine[:3, axis] *= 2
    return _like(scan, np.moveaxis(pairs, 1, axis + 1), affine)


def apply_kernel(scan: MetaTensor, _seed: int, sharper: bool) -> MetaTensor:
    """A softer kernel in the plane of the slices, or a sharper one by unsharp masking."""
    sizes = spacing_of(scan.affine)
    sigma = [0.0, *(KERNEL_MM / sizes)]
    sigma[_patient_axis(scan) + 1] = 0.0
    values = scan.numpy()
    soft = ndimage.gaussian_filter(values, sigma, mode="nearest")
    return _like(scan, values + SHARPEN * (values - soft) if sharper else soft, scan.affine)


CHANGES: dict[str, Change] = {
    **{f"noise of {hu:.0f} HU": partial(add_noise, sigma=hu) for hu in NOISE_HU},
    "slices twice as thick": thicken,
    "softer kernel": partial(apply_kernel, sharper=False),
    "sharper kernel": partial(apply_kernel, sharper=True),
}


def _patient_axis(scan: MetaTensor) -> int:
    """The stored axis along the patient."""
    directions = scan.affine.numpy()[:3, :3]
    return int(np.argmax(np.abs(directions[2] / np.linalg.norm(directions, axis=0))))


def _like(scan: MetaTensor, values: np.ndarray, affine: torch.Tensor) -> MetaTensor:
    array = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    meta = {key: value for key, value in scan.meta.items() if key != "affine"}
    return MetaTensor(array, affine=affine, meta=meta)

"""Which region of a patch its embedding depends on: how far it moves when a cube is covered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from ctfm.base.types import Array

__all__ = ["occlusion"]


@torch.inference_mode()
def occlusion(
    patch: Tensor,
    apply: Callable[[Tensor], Tensor],
    cube: Sequence[int],
    stride: Sequence[int],
    batch_size: int = 8,
    progress: bool = False,
) -> Array:
    """Cover cubes with the patch's mean, one after the other.

    MONAI's `OcclusionSensitivity` follows the score of a class, and an embedding has none.

    Args:
        patch: (1, D, H, W), as the encoder sees it.
        apply: patches (n, 1, D, H, W) to embeddings (n, F).
        cube: voxels of a cube.
        stride: voxels from cube to cube; the last ones end where the patch does.
        batch_size: patches that pass the encoder together.
        progress: show a bar, on a terminal.

    Returns:
        (D, H, W): average, over the cubes that cover a voxel, of the cosine distance between the
        embedding with and without the cube.
    """
    shape = tuple(patch.shape[1:])
    corners = [*product(*(_starts(n, c, s) for n, c, s in zip(shape, cube, stride, strict=True)))]
    whole = functional.normalize(apply(patch[None]).double(), dim=1).cpu()
    fill = patch.mean()
    total, count = np.zeros(shape), np.zeros(shape)
    batches = [corners[i : i + batch_size] for i in range(0, len(corners), batch_size)]
    for mine in tqdm(batches, unit="batch", leave=False, disable=None if progress else True):
        covered = patch[None].repeat(len(mine), 1, 1, 1, 1)
        boxes = [tuple(slice(s, s + c) for s, c in zip(start, cube, strict=True)) for start in mine]
        for one, box in zip(covered, boxes, strict=True):
            one[0][box] = fill
        found = functional.normalize(apply(covered).double(), dim=1).cpu()
        for box, distance in zip(boxes, (1 - (found @ whole.T)[:, 0]).tolist(), strict=True):
            total[box] += max(distance, 0.0)
            count[box] += 1
    mean: Array = total / np.maximum(count, 1)
    return mean


def _starts(size: int, cube: int, stride: int) -> list[int]:
    last = max(size - cube, 0)
    return [*range(0, last, stride), last]

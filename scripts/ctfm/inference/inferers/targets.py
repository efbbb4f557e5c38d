"""The grids that volumes had before they were resampled, which label maps are made on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor

from ctfm.base.errors import UserError
from ctfm.imaging.reslice import Taps
from ctfm.inference.inversion.history import Grid, before_resampling

__all__ = ["Target", "on_targets", "targets_of"]


@dataclass(frozen=True)
class Target:
    """What the labels of a volume are interpolated to.

    Attributes:
        axes: of the grid, along those of the volume, and in the volume's order.
        order: which of `axes` each axis of the grid is.
        grid: from before.
        operations: what had been done to the image by then.
    """

    axes: tuple[Taps, ...]
    order: tuple[int, ...]
    grid: Grid
    operations: list[Mapping[str, Any]]

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels of the grid in the order of the volume's axes."""
        return tuple(len(taps) for taps in self.axes)


def targets_of(inputs: Tensor) -> list[Target]:
    """The target of each volume of a batch.

    Args:
        inputs: (B, C, D, H, W), with `applied_operations`.

    Raises:
        UserError: they have no such thing, the grids from before differ in shape, or their axes
            are not parallel to the volume's.
    """
    if not isinstance(inputs, MetaTensor):
        raise UserError(
            f"inputs are {type(inputs).__name__}: linear inversion needs a MetaTensor, which knows "
            "what was done to the scan; or take nearest"
        )
    found = [_target(inputs[number]) for number in range(len(inputs))]
    if len({(target.shape, target.order) for target in found}) > 1:
        raise UserError(
            f"scans of {', '.join(str(t.grid.shape) for t in found)} voxels are in one batch, "
            "which linear inversion brings back to their grids: one scan at a time"
        )
    return found


def _target(volume: MetaTensor) -> Target:
    operations = volume.applied_operations
    known = operations if isinstance(operations, list) else []  # MONAI's word for none in batches
    axes, grid, before = before_resampling(known, Grid.of(volume))
    ordered = sorted(axes, key=lambda taps: taps.axis)
    return Target(tuple(ordered), tuple(taps.axis for taps in axes), grid, before)


def on_targets(labels: Tensor, inputs: Tensor, targets: Sequence[Target]) -> MetaTensor:
    """Label maps with the metadata of their inputs, and the affines of their own grids.

    Args:
        labels: (B, 1, D, H, W), axes in the volumes' order.
        inputs: what `targets_of` was given.
        targets: what it gave.
    """
    turned = labels.permute(0, 1, *(2 + axis for axis in targets[0].order))
    result = MetaTensor(turned)
    result.copy_meta_from(inputs, copy_attr=False)
    affines = [torch.from_numpy(target.grid.affine.copy()) for target in targets]
    operations = [target.operations for target in targets]
    batch = bool(result.is_batch)
    result.meta = {**result.meta, "affine": torch.stack(affines) if batch else affines[0]}
    result.applied_operations = operations if batch else operations[0]
    return result

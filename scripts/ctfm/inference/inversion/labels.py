"""The label map of a network back on the grid of the scan, by looking up the nearest voxels."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Invertd, MapTransform
from monai.utils import ensure_tuple_rep
from torch import Tensor

from ctfm.base.errors import UserError
from ctfm.imaging.reslice import Indices, Taps
from ctfm.inference.inversion.history import Grid, NotSeparableError, way_back

__all__ = ["InvertLabelsd"]

logger = logging.getLogger(__name__)

Labels = npt.NDArray[Any]


class InvertLabelsd(MapTransform):
    """`Invertd(nearest_interp=True)` for label maps, in the memory of the result and of its type.

    MONAI converts the label map to float64 and computes three float64 coordinates a voxel: for
    512x512x400 voxels, 5.7 GB and 4 to 6 s on two cores, against 0.1 GB and below 0.1 s. Here
    orientation, spacing, crops and pads are inverted by three lists of indices, one an axis, and
    the result is written slice by slice. Its axes may lie in memory in another order than their
    own: that of the network's volume, which is that of the file for axial scans.

    Each voxel is MONAI's, but for one case. Where the scan is oblique, MONAI's coordinates are
    rounded differently from voxel to voxel, so that it takes either of two voxels where a place
    lies half-way between them (at most 1e-3 voxels off); here the same one is taken all along.

    A label map may lie on any grid that the image had, that of the network or, as
    `LabelMapInferer(inversion="linear")` leaves it, that from before it was resampled. What
    remains is inverted; a label map on the input's grid passes through.

    Args:
        keys: label maps (1, D, H, W), with their affine.
        orig_keys: the image of each, which knows what was done to it; one for all, or one each.
        transform: what did it. It is needed where the axes are not parallel, as in scans with a
            tilted gantry that is stored as a shear, or where other transforms changed the grid:
            MONAI's `Invertd` then inverts it, with the memory that takes.
    """

    def __init__(
        self,
        keys: KeysCollection,
        orig_keys: KeysCollection = "image",
        transform: Any = None,
    ) -> None:
        super().__init__(keys)
        self.orig_keys = ensure_tuple_rep(orig_keys, len(self.keys))
        self.transform = transform

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Bring the label maps to the grid that their image was read on.

        Args:
            data: label maps (1, D, H, W) and images (C, D, H, W) with `applied_operations`.

        Returns:
            The items, with label maps (1, X, Y, Z) of the type that they had, on the CPU, with
            the image's metadata and the affine that it was read with. Background, 0, where the
            image was cropped.

        Raises:
            UserError: an item is no `MetaTensor`, the label map lies on no grid that
                the image had, or there is no `transform` where it is needed.
        """
        result = dict(data)
        for key, orig_key in self.key_iterator(result, self.orig_keys):
            label, image = result[key], result[orig_key]
            for name, item in ((key, label), (orig_key, image)):
                if not isinstance(item, MetaTensor):
                    raise UserError(
                        f"{name} is {type(item).__name__}: inverting needs a MetaTensor, which "
                        "knows its affine"
                    )
            try:
                result[key] = _inverted(label, image)
            except NotSeparableError:
                if self.transform is None or label.shape[1:] != image.shape[1:]:
                    raise
                result[key] = self._by_monai(result, key, orig_key)
        return result

    def _by_monai(self, data: Mapping[Hashable, Any], key: Hashable, orig_key: Hashable) -> Tensor:
        logger.info("the grid of %s is not parallel to the scan's: MONAI inverts it", key)
        invert = Invertd(key, self.transform, orig_keys=orig_key, nearest_interp=True)
        inverted: Tensor = invert(data)[key].to(data[key].dtype)
        return inverted


def _inverted(label: MetaTensor, image: MetaTensor) -> MetaTensor:
    axes, grid = way_back(image.applied_operations, Grid.of(image), Grid.of(label))
    plain = label.as_tensor().cpu()
    if axes is not None:
        plain = torch.from_numpy(_looked_up(plain[0].numpy(), axes))[None]
    meta = {**deepcopy(image.meta), **label.meta, "affine": torch.from_numpy(grid.affine.copy())}
    return MetaTensor(plain, meta=meta)


def _looked_up(label: Labels, axes: Sequence[Taps]) -> Labels:
    """The voxels of a label map (D, H, W) that axes name, 0 outside; in the order of the axes.

    In one thread, by NumPy: this takes less than waking others does, which the network may need.
    """
    ordered = sorted(axes, key=lambda taps: taps.axis)
    result = np.zeros([len(taps) for taps in ordered], label.dtype)
    inside = [taps.inside for taps in ordered]
    numbers, rows, columns = (t.first[part] for t, part in zip(ordered, inside, strict=True))
    last, found = -1, label
    for target, number in zip(result[tuple(inside)], numbers.tolist(), strict=True):
        if number != last:
            found = _plane(label[number], rows, columns)
        target[...] = found
        last = number
    turned: Labels = result.transpose([taps.axis for taps in axes])
    return turned


def _plane(plane: Labels, rows: Indices, columns: Indices) -> Labels:
    steps = [(columns, 1), (rows, 0)]
    if len(rows) < len(plane):  # the smaller array in between
        steps.reverse()
    for indices, axis in steps:
        plane = plane.take(indices, axis)
    return plane

"""Which boxes of which scans: a function of seed, epoch and index, and of nothing else.

So a training that was killed draws on resuming what it would have drawn, in the middle of an epoch
too, and the number of workers or processes changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.transforms.utils import generate_label_classes_crop_centers

from ctfm.base.errors import UserError
from ctfm.base.types import Array
from ctfm.loading.store.boxes import Box, ClassIds, Samples, Shape
from ctfm.loading.store.index import StoredScan

__all__ = ["ClassCrops", "Views", "Volumes"]


class ClassCrops(Samples):
    """Crops around voxels of classes, all classes alike: MONAI's `RandCropByLabelClasses`.

    A scan that has none of the classes gives crops from anywhere.

    Args:
        store: folder of the store.
        patch: voxels (D, H, W).
        class_ids: ids in the store, or lists of ids that are one class; the network counts them
            from 1 in this order, other ids and 0 are background.
        split: list of the datalist.
        ratios: background's and each class's share of the crops; None: 0 and 1 for each class.
        crops_per_scan: crops of each scan in an epoch.
        seed: another one gives other crops.
        spacing: mm that the network expects; a store of another one is refused. None: any.
        max_damaged: share of the scans that may be damaged; they are skipped.
        fold: the fold that validates while the others train, if the datalist's rows are in folds;
            None: the datalist's own lists.
        hu_window: HU that become 0 and 1, inside the store's; None: the store's.

    Raises:
        UserError: scans without labels, or ratios or a window that are none.
    """

    labelled = True

    def __init__(
        self,
        store: str,
        patch: Sequence[int],
        class_ids: ClassIds,
        split: str = "training",
        ratios: Sequence[float] | None = None,
        crops_per_scan: int = 1,
        seed: int = 0,
        spacing: Sequence[float] | None = None,
        max_damaged: float = 0.0,
        fold: int | None = None,
        hu_window: Sequence[float] | None = None,
    ) -> None:
        super().__init__(store, split, seed, spacing, max_damaged, fold)
        self._label(class_ids, split)
        if hu_window is not None:
            self._narrow(hu_window)
        self.patch = tuple(patch)
        self.class_ids = list(class_ids)
        self.ratios = list(ratios) if ratios is not None else [0.0] + [1.0] * len(self.class_ids)
        count, wanted = len(self.ratios), 1 + len(self.class_ids)
        if count != wanted or min(self.ratios) < 0 or not any(self.ratios):
            raise UserError(
                f"ratios are {self.ratios} for {wanted - 1} classes: give background's and one for "
                "each class, from 0 and not all 0"
            )
        self.crops_per_scan = crops_per_scan

    def __len__(self) -> int:
        """Crops in an epoch."""
        return len(self.scans) * self.crops_per_scan

    def boxes(self, epoch: int, index: int) -> list[Box]:
        """One crop."""
        scan, generator = self.scan(epoch, index), self.generator(epoch, index)
        shape = tuple(max(p, n) for p, n in zip(self.patch, scan.entry.shape, strict=True))
        # as SpatialPad
        before = [(m - n) // 2 for m, n in zip(shape, scan.entry.shape, strict=True)]
        indices = self._candidates(scan, before, shape)
        present = any(r and len(i) for r, i in zip(self.ratios, indices, strict=True))
        (center,) = generate_label_classes_crop_centers(
            spatial_size=self.patch,
            num_samples=1,
            label_spatial_shape=shape,
            indices=indices,
            ratios=self.ratios if present else [1.0] + [0.0] * len(self.class_ids),
            rand_state=np.random.RandomState(generator.integers(2**32)),
            warn=False,
        )
        start = tuple(c - p // 2 - b for c, p, b in zip(center, self.patch, before, strict=True))
        return [Box(scan, start, self.patch, int(generator.integers(2**31)))]

    def _candidates(self, scan: StoredScan, before: list[int], shape: Shape) -> list[Any]:
        """Flat positions of background and of each class in the padded volume."""
        stored, none = scan.positions, np.zeros(0, np.int32)
        found = (
            np.concatenate([stored.get(i, none) for i in ids])
            if isinstance(ids, Sequence)
            else stored.get(ids, none)
            for ids in self.class_ids
        )
        # background is nearly everywhere: any place is as good as one of its own
        anywhere = range(math.prod(shape))
        return [anywhere, *(_padded(p, scan.entry.shape, before, shape) for p in found)]


def _padded(positions: Array, shape: Shape, before: list[int], padded: Shape) -> Array:
    if shape == padded:
        return positions
    places = np.unravel_index(positions, shape)
    return np.ravel_multi_index(tuple(p + b for p, b in zip(places, before, strict=True)), padded)


class Views(Samples):
    """Crops of a scan for contrastive learning, each seen several times.

    A crop has the size of a patch and lies anywhere. A view of it is a smaller box in it, at one
    scale for all axes, which `Resized` (first among the transforms) brings back to a patch:
    MONAI's `RandSpatialCropSamples` and `RandScaleCrop`.

    Args:
        store: folder of the store.
        patch: voxels (D, H, W).
        split: list of the datalist.
        crops: of each scan.
        views: of each crop.
        scale: smallest and largest size of a view, as a share of the crop's sides.
        scans_per_epoch: None: each scan once.
        seed: another one gives other views.
        spacing: mm that the network expects; a store of another one is refused. None: any.
        max_damaged: share of the scans that may be damaged; they are skipped.
    """

    def __init__(
        self,
        store: str,
        patch: Sequence[int],
        split: str = "training",
        crops: int = 15,
        views: int = 2,
        scale: Sequence[float] = (0.33, 1.0),
        scans_per_epoch: int | None = None,
        seed: int = 0,
        spacing: Sequence[float] | None = None,
        max_damaged: float = 0.0,
    ) -> None:
        super().__init__(store, split, seed, spacing, max_damaged)
        self.patch = tuple(patch)
        self.shape = (crops, views)
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise UserError(f"scale is {list(scale)}: give 0 < smallest <= largest <= 1")
        self.smallest, self.largest = scale
        self.length = len(self.scans) if scans_per_epoch is None else scans_per_epoch

    def __len__(self) -> int:
        """Scans in an epoch."""
        return self.length

    def boxes(self, epoch: int, index: int) -> list[Box]:
        """The views of the first crop, then those of the second, and so on."""
        scan, generator = self.scan(epoch, index), self.generator(epoch, index)
        crops, views = self.shape
        found = []
        for _ in range(crops):
            corner = [
                int(generator.integers(n - p + 1)) if n > p else -((p - n) // 2)
                for n, p in zip(scan.entry.shape, self.patch, strict=True)
            ]
            found += [self._view(scan, corner, generator) for _ in range(views)]
        return found

    def _view(self, scan: StoredScan, corner: Sequence[int], generator: np.random.Generator) -> Box:
        scale = generator.uniform(self.smallest, self.largest)
        size = tuple(math.ceil(p * scale) for p in self.patch)
        free = [int(generator.integers(p - s + 1)) for p, s in zip(self.patch, size, strict=True)]
        start = tuple(c + f for c, f in zip(corner, free, strict=True))
        return Box(scan, start, size, int(generator.integers(2**31)))


class Volumes(Samples):
    """Whole scans in the order of the datalist, for validation.

    Args:
        store: folder of the store.
        class_ids: as for `ClassCrops`; None: no labels.
        split: list of the datalist.
        spacing: mm that the network expects; a store of another one is refused. None: any.
        fold: as for `ClassCrops`.
    """

    once = True

    def __init__(
        self,
        store: str,
        class_ids: ClassIds | None,
        split: str = "validation",
        spacing: Sequence[float] | None = None,
        fold: int | None = None,
    ) -> None:
        super().__init__(store, split, spacing=spacing, fold=fold)
        self.labelled = class_ids is not None
        if class_ids is not None:
            self._label(class_ids, split)

    def __len__(self) -> int:
        """Scans."""
        return len(self.scans)

    def boxes(self, epoch: int, index: int) -> list[Box]:
        """All of one scan."""
        scan = self.scans[index]
        return [Box(scan, (0, 0, 0), scan.entry.shape, 0)]

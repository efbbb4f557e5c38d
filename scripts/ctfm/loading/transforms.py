"""Transforms that cut training samples: where each class lies, and views of crops."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, Randomizable, Transform

from ctfm.base.errors import UserError

__all__ = ["ClassPositionsd", "RandViewsd"]


class ClassPositionsd(Transform):
    """Note where each class lies, for `RandCropByLabelClassesd(indices_key=…)`.

    One sort over the labelled voxels in place of MONAI's pass per class, and a bounded number of
    positions per class, so that the result can be cached. A scan that shows none of the classes
    gives positions all over it under the first class, so that it is cropped at random. So does
    background where it is asked for: it is nearly everywhere, and any place is as good as its own.

    Args:
        label_key: item with a label map (1, D, H, W) of values 0..num_classes-1.
        indices_key: item that receives the positions.
        num_classes: number of classes, background included.
        max_samples_per_class: positions kept of each class, evenly spread over it.
        background: give positions of background too.
    """

    def __init__(
        self,
        label_key: str,
        indices_key: str,
        num_classes: int,
        max_samples_per_class: int = 10_000,
        background: bool = False,
    ) -> None:
        self.background = background
        self.label_key = label_key
        self.indices_key = indices_key
        self.num_classes = num_classes
        self.max_samples_per_class = max_samples_per_class

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add a list of `num_classes` tensors of flat positions."""
        label = torch.as_tensor(data[self.label_key]).reshape(-1).numpy()
        labelled = np.flatnonzero(label)
        order = np.argsort(label[labelled], kind="stable")
        counts = np.bincount(label[labelled].astype(np.int64), minlength=self.num_classes)
        if len(counts) > self.num_classes:
            raise UserError(
                f"the label holds class {len(counts) - 1}, the network has {self.num_classes}: "
                "check class_ids against the label files"
            )
        groups = np.split(labelled[order], np.cumsum(counts)[:-1])
        found = [group[self._spread(len(group))].astype(np.int64) for group in groups]
        if not len(labelled):
            found[1] = self._spread(label.size)
        if self.background:
            found[0] = self._spread(label.size)
        return {**data, self.indices_key: [torch.from_numpy(group) for group in found]}

    def _spread(self, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Evenly spread places among so many, no more than are kept."""
        keep = min(count, self.max_samples_per_class)
        return np.linspace(0, max(0, count - 1), keep).astype(np.int64)


class RandViewsd(Randomizable, MapTransform):
    """Crops of a scan for contrastive learning, each seen several times.

    A crop has the size of a patch and lies anywhere. A view of it is a smaller box in it, at one
    scale for all axes, which `Resized` (first among `transforms`) brings back to a patch. This is
    what `ctfm.loading.store.sampling.Views` reads from a store.

    Args:
        keys: items that hold an image (1, D, H, W), no smaller than a patch along any axis.
        patch: voxels (D, H, W).
        transforms: dictionary transforms of a view.
        crops: of each scan.
        views: of each crop.
        scale: smallest and largest size of a view, as a share of the crop's sides.
    """

    def __init__(
        self,
        keys: KeysCollection,
        patch: Sequence[int],
        transforms: Sequence[Transform],
        crops: int = 15,
        views: int = 2,
        scale: Sequence[float] = (0.33, 1.0),
    ) -> None:
        super().__init__(keys)
        self.patch = tuple(patch)
        self.augment = Compose(list(transforms))
        self.crops = crops
        self.views = views
        self.smallest, self.largest = scale

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandViewsd:
        """Seed the boxes, and from them what is done to the views."""
        super().set_random_state(seed, state)
        self.augment.set_random_state(seed=int(self.R.randint(2**31)))
        return self

    def randomize(self, shape: Sequence[int]) -> list[tuple[slice, ...]]:
        """Boxes of all views in an image (1, *shape), those of the first crop first."""
        boxes = []
        for _ in range(self.crops):
            corner = [self.R.randint(n - p + 1) for n, p in zip(shape, self.patch, strict=True)]
            for _ in range(self.views):
                scale = self.R.uniform(self.smallest, self.largest)
                size = [math.ceil(p * scale) for p in self.patch]
                start = [
                    c + self.R.randint(p - s + 1)
                    for c, p, s in zip(corner, self.patch, size, strict=True)
                ]
                ends = zip(start, size, strict=True)
                boxes.append((slice(None), *(slice(a, a + s) for a, s in ends)))
        return boxes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each image by its views (crops, views, 1, D, H, W), plain tensors."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            image = image.as_tensor() if isinstance(image, MetaTensor) else torch.as_tensor(image)
            boxes = self.randomize(image.shape[1:])
            found = [self.augment({key: image[box]})[key] for box in boxes]
            plain = [v.as_tensor() if isinstance(v, MetaTensor) else v for v in found]
            result[key] = torch.stack(plain).reshape(self.crops, self.views, *plain[0].shape)
        return result

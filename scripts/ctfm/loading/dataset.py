"""The store as a map-style dataset, for torch's loader and its worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.transforms import Transform
from torch.utils.data import Dataset

from ctfm.loading.augmentation.pipeline import Augmentation
from ctfm.loading.store.boxes import Box, Samples
from ctfm.loading.store.volumes import DamagedFileError

__all__ = ["StoreDataset"]


class StoreDataset(Dataset[dict[str, Any]]):
    """Samples of a store, augmented.

    Items are dicts: ``image`` float32 in 0..1, (1, D, H, W), or (crops, views, 1, D, H, W) for
    `Views`; ``label`` uint8, (1, D, H, W), where there are labels; ``id``, the scan's name. They
    are those of `StoreLoader` and `DaliLoader`: functions of seed, epoch and index.

    Args:
        samples: which boxes of which scans.
        transforms: dictionary transforms of ``image`` and ``label``.
    """

    def __init__(self, samples: Samples, transforms: Sequence[Transform] = ()) -> None:
        self.samples = samples
        self.augmentation = Augmentation(transforms)
        # persistent workers see the epoch change
        epoch = torch.ones((), dtype=torch.int64)
        self._epoch = epoch.share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Epochs, counted from 1, differ in what they draw."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        """Samples in an epoch."""
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample of the current epoch."""
        while True:
            try:
                return self._sample(index)
            except DamagedFileError as error:
                self.samples.skip(error)

    def _sample(self, index: int) -> dict[str, Any]:
        boxes = self.samples.boxes(int(self._epoch), index)
        items = [self._item(box) for box in boxes]
        shape = self.samples.shape
        found: dict[str, Any] = {
            key: torch.unflatten(torch.stack([item[key] for item in items]), 0, shape)
            if shape
            else items[0][key]
            for key in items[0]
        }
        return {**found, "id": boxes[0].scan.entry.name}

    def _item(self, box: Box) -> dict[str, torch.Tensor]:
        label = (
            torch.from_numpy(self.samples.classes(box.label())) if self.samples.labelled else None
        )
        image = self.samples.scaled(torch.from_numpy(box.image()))
        image, label = self.augmentation.apply(image, label, self.augmentation.draw(box.seed))
        return {"image": image[None]} | ({} if label is None else {"label": label[None]})

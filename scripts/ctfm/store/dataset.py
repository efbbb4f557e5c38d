"""The store as a map-style dataset: for torch's loader, without DALI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.transforms import Compose, Transform
from monai.utils import convert_to_tensor
from torch.utils.data import Dataset

from ctfm.store.sampling import Box, Samples

__all__ = ["StoreDataset"]


class StoreDataset(Dataset[dict[str, Any]]):
    """Samples of a store, augmented by MONAI's own transforms.

    Items are dicts: ``image`` float32 in 0..1, (1, D, H, W), or (crops, views, 1, D, H, W) for
    `Views`; ``label`` uint8, (1, D, H, W), where there are labels; ``id``, the scan's name. Draws
    are those of `ctfm.dali.DaliLoader`: functions of seed, epoch and index.

    Args:
        samples: which boxes of which scans.
        transforms: dictionary transforms of ``image`` and ``label``.
    """

    def __init__(self, samples: Samples, transforms: Sequence[Transform] = ()) -> None:
        self.samples = samples
        self.transform = Compose(list(transforms)).flatten()
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
        low, high = self.samples.recipe.hu_window
        image = torch.from_numpy(box.image()[None]).float()
        data: dict[str, Any] = {"image": image.sub_(low).mul_(1 / (high - low))}
        if self.samples.labelled:
            data["label"] = torch.from_numpy(self.samples.classes(box.label())[None])
        self.transform.set_random_state(seed=box.seed)
        found = {key: convert_to_tensor(value) for key, value in self.transform(data).items()}
        if "label" in found:
            found["label"] = found["label"].to(torch.uint8)  # MONAI resamples as float32
        return found

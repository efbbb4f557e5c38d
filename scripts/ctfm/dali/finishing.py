"""What follows DALI: intensities to 0..1, the transforms that are left, samples put together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctfm.augmentation.pipeline import Augmentation, Drawn
from ctfm.augmentation.steps import Pair, Resize
from ctfm.errors import UserError
from ctfm.store.sampling import Box, Samples

__all__ = ["Finisher", "Unfinished"]


@dataclass
class Unfinished:
    """A batch whose volumes are being augmented.

    Attributes:
        batch: ``image`` (N, 1, D, H, W), and ``label`` where there is one, to be filled.
        volumes: image and label (D, H, W) of each box, or what will give them.
        boxes: of all its samples.
    """

    batch: dict[str, Tensor]
    volumes: list[Pair | Future[Pair]]
    boxes: Sequence[Box]


class Finisher:
    """Applies the transforms that DALI has left, and makes a batch.

    Args:
        samples: say how HU are scaled, and how boxes make a sample.
        augmentation: all transforms.
        first: how many of them DALI has done.
        device: of the batches.
    """

    def __init__(
        self, samples: Samples, augmentation: Augmentation, first: int, device: torch.device
    ) -> None:
        self.samples = samples
        self.augmentation = augmentation
        self.first = first
        self.device = device
        sizes = [step.size for step in augmentation.steps if isinstance(step, Resize)]
        self.size = sizes[-1] if sizes else None

    def start(
        self,
        pool: Executor,
        images: Sequence[Tensor],
        labels: Sequence[Tensor | None],
        boxes: Sequence[Box],
        drawn: Sequence[Drawn],
    ) -> Unfinished:
        """Take the volumes over from DALI, whose memory is free afterwards.

        On a CPU the transforms run in the pool's threads, on a GPU on its current stream.

        Args:
            pool: threads.
            images: HU, (D, H, W) each.
            labels: class ids, likewise; None where there are none.
            boxes: where they are from.
            drawn: parameters of each one's augmentation.
        """
        low, high = self.samples.recipe.hu_window
        size = self.size or images[0].shape
        batch = {"image": self._empty((len(images), 1, *size), torch.float32)}
        if labels[0] is not None:
            batch["label"] = self._empty((len(images), 1, *labels[0].shape), labels[0].dtype)
        volumes: list[Pair | Future[Pair]] = []
        rows = zip(images, labels, drawn, strict=True)
        for number, (image, label, parameters) in enumerate(rows):
            place = batch["image"][number, 0]
            start = (
                place
                if place.shape == image.shape
                else torch.empty_like(image, dtype=torch.float32)
            )
            torch.mul(image, 1 / (high - low), out=start).sub_(low / (high - low))
            if label is not None:
                there = batch["label"][number, 0]
                label = there.copy_(label) if there.shape == label.shape else label.clone()
            arguments = (place, start, label, parameters)
            if self.device.type == "cpu":
                volumes.append(pool.submit(self._finish, *arguments))
            else:
                volumes.append(self._finish(*arguments))
        return Unfinished(batch, volumes, boxes)

    def _finish(self, place: Tensor, image: Tensor, label: Tensor | None, drawn: Drawn) -> Pair:
        image, label = self.augmentation.apply(image, label, drawn, self.first)
        return _moved(image, place) if image.shape == place.shape else image, label

    def _empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Memory for a batch; numpy asks for large pages, which are filled four times as fast."""
        if self.device.type == "cpu":
            return torch.from_numpy(np.empty(shape, str(dtype).removeprefix("torch.")))
        return torch.empty(*shape, dtype=dtype, device=self.device)

    def deliver(self, unfinished: Unfinished) -> dict[str, Any]:
        """The batch as `DaliLoader` promises it.

        Raises:
            UserError: its samples have different sizes.
        """
        batch = unfinished.batch
        for number, volume in enumerate(unfinished.volumes):
            image, label = volume.result() if isinstance(volume, Future) else volume
            _put(batch, "image", number, image)
            if label is not None:
                _put(batch, "label", number, label)
        shape = self.samples.shape
        if shape:
            batch = {key: torch.unflatten(value, 0, (-1, *shape)) for key, value in batch.items()}
        firsts = unfinished.boxes[:: max(1, math.prod(shape))]
        return {**batch, "id": [box.scan.entry.name for box in firsts]}


def _put(batch: dict[str, Tensor], key: str, number: int, volume: Tensor) -> None:
    """Copy a volume to its place, unless it is there; the first one tells the size."""
    if number == 0 and volume.shape != batch[key].shape[2:]:
        batch[key] = batch[key].new_empty(len(batch[key]), 1, *volume.shape)
    place = batch[key][number, 0]
    if place.shape != volume.shape:
        raise UserError(
            f"samples of a batch have sizes {tuple(place.shape)} and {tuple(volume.shape)}: "
            "set batch_size to 1, or let the transforms give all the same size"
        )
    _moved(volume, place)


def _moved(volume: Tensor, place: Tensor) -> Tensor:
    return place if volume.data_ptr() == place.data_ptr() else place.copy_(volume)

"""Volumes to batches: intensities to 0..1, the transforms, each volume to its place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctfm.base.errors import UserError
from ctfm.loading.augmentation.pipeline import Augmentation, Drawn
from ctfm.loading.augmentation.steps import Pair, Resize
from ctfm.loading.store.boxes import Box, Samples

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
    """Makes batches: in the threads of a pool on a CPU, on the current stream on a GPU.

    Args:
        samples: say how HU are scaled, and how boxes make a sample.
        augmentation: all transforms.
        device: of the batches.
        first: how many of the transforms are done by DALI.
    """

    def __init__(
        self, samples: Samples, augmentation: Augmentation, device: torch.device, first: int = 0
    ) -> None:
        self.samples = samples
        self.augmentation = augmentation
        self.device = device
        self.first = first
        sizes = [step.size for step in augmentation.steps if isinstance(step, Resize)]
        self.size = sizes[-1] if sizes else None

    def read(self, pool: Executor, boxes: Sequence[Box], drawn: Sequence[Drawn]) -> Unfinished:
        """Start a task for each box that takes it from the store to its place in the batch.

        Args:
            pool: threads.
            boxes: of all samples of the batch.
            drawn: parameters of each one's augmentation.
        """
        batch = self._memory(len(boxes), boxes[0].size, torch.uint8)

        def task(number: int) -> Pair:
            box = boxes[number]
            image = self._scaled(torch.from_numpy(box.image()), batch["image"][number, 0])
            label = (
                torch.from_numpy(self.samples.classes(box.label()))
                if self.samples.labelled
                else None
            )
            return self._finish(batch, number, image, label, drawn[number])

        return Unfinished(batch, [pool.submit(task, n) for n in range(len(boxes))], boxes)

    def take(
        self,
        pool: Executor,
        images: Sequence[Tensor],
        labels: Sequence[Tensor | None],
        boxes: Sequence[Box],
        drawn: Sequence[Drawn],
    ) -> Unfinished:
        """Take volumes over from DALI, whose memory is free afterwards.

        Args:
            pool: threads.
            images: HU, (D, H, W) each.
            labels: class ids, likewise; None where there are none.
            boxes: where they are from.
            drawn: parameters of each one's augmentation.
        """
        of_labels = torch.uint8 if labels[0] is None else labels[0].dtype
        batch = self._memory(len(images), images[0].shape, of_labels)
        volumes: list[Pair | Future[Pair]] = []
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            image = self._scaled(image, batch["image"][number, 0])
            label = label.clone() if label is not None else None
            arguments = (batch, number, image, label, drawn[number])
            if self.device.type == "cpu":
                volumes.append(pool.submit(self._finish, *arguments))
            else:
                volumes.append(self._finish(*arguments))
        return Unfinished(batch, volumes, boxes)

    def deliver(self, unfinished: Unfinished) -> dict[str, Any]:
        """The batch as `ctfm.loading.loader.StoreLoader` promises it.

        Raises:
            UserError: its samples have different sizes.
        """
        batch = unfinished.batch
        for number, volume in enumerate(unfinished.volumes):
            pair = volume.result() if isinstance(volume, Future) else volume
            for key, found in zip(("image", "label"), pair, strict=True):
                if found is not None:
                    _put(batch, key, number, found)
        shape = self.samples.shape
        if shape:
            batch = {key: torch.unflatten(value, 0, (-1, *shape)) for key, value in batch.items()}
        firsts = unfinished.boxes[:: max(1, math.prod(shape))]
        return {**batch, "id": [box.scan.entry.name for box in firsts]}

    def _memory(self, count: int, size: Sequence[int], labels: torch.dtype) -> dict[str, Tensor]:
        """Room for a batch, if the transforms leave the size alone or end in a known one."""
        batch = {"image": self._empty((count, 1, *(self.size or size)), torch.float32)}
        if self.samples.labelled:
            batch["label"] = self._empty((count, 1, *size), labels)
        return batch

    def _empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        if self.device.type != "cpu":
            return torch.empty(*shape, dtype=dtype, device=self.device)
        # numpy asks for large pages, and the kernel hands these out four times as fast
        return torch.from_numpy(np.empty(shape, str(dtype).removeprefix("torch.")))

    def _scaled(self, image: Tensor, place: Tensor) -> Tensor:
        """0..1 at its place in the batch, if it has that size already."""
        return self.samples.scaled(image, place if place.shape == image.shape else None)

    def _finish(
        self,
        batch: dict[str, Tensor],
        number: int,
        image: Tensor,
        label: Tensor | None,
        drawn: Drawn,
    ) -> Pair:
        image, label = self.augmentation.apply(image, label, drawn, self.first)
        image = _moved(image, batch["image"][number, 0])
        return image, None if label is None else _moved(label, batch["label"][number, 0])


def _moved(volume: Tensor, place: Tensor) -> Tensor:
    """At its place, if it fits there."""
    if volume.shape != place.shape or volume.data_ptr() == place.data_ptr():
        return volume
    return place.copy_(volume)


def _put(batch: dict[str, Tensor], key: str, number: int, volume: Tensor) -> None:
    """Copy a volume to its place, unless it is there; the first one tells the size."""
    if number == 0 and volume.shape != batch[key].shape[2:]:
        batch[key] = batch[key].new_empty(len(batch[key]), 1, *volume.shape)
    place = batch[key][number, 0]
    if _moved(volume, place).shape != place.shape:
        raise UserError(
            f"samples of a batch have sizes {tuple(place.shape)} and {tuple(volume.shape)}: "
            "set batch_size to 1, or let the transforms give all the same size"
        )

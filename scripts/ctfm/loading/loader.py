"""Batches by threads: what they run is compiled or in C, and does not hold Python's lock."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import ignite.distributed as idist
import torch
from monai.transforms import Transform

from ctfm.base.errors import UserError
from ctfm.loading.augmentation.pipeline import Augmentation, Drawn
from ctfm.loading.finishing import Finisher, Unfinished
from ctfm.loading.store.boxes import Box, Samples
from ctfm.loading.store.volumes import DamagedFileError

__all__ = ["AHEAD", "StoreLoader"]

#: Batches that are on their way beside the one that the trainer has.
AHEAD = 2


class StoreLoader:
    """Batches of a store's samples, augmented, on the CPU: what MONAI's trainers iterate over.

    A batch is a dict: ``image`` float32 in 0..1, (B, 1, D, H, W), or (B, crops, views, 1, D, H, W)
    for `Views`; ``label`` uint8, (B, 1, D, H, W), where there are labels; ``id``, the scans'
    names.

    Every sample is a function of seed, epoch and index. With several processes (torchrun), each
    takes its share of every batch's worth of samples; all deliver the same number of batches, but
    for `Volumes`, each of which is delivered once.

    Args:
        samples: which boxes of which scans.
        transforms: dictionary transforms of ``image`` and ``label``, as configs list them.
        batch_size: samples of a batch, in each process.
        num_workers: threads; None: as many as there are cores.
        drop_last: leave out a last batch that is not full.

    Raises:
        UserError: there is no batch.
    """

    def __init__(
        self,
        samples: Samples,
        transforms: Sequence[Transform] = (),
        batch_size: int = 1,
        num_workers: int | None = None,
        drop_last: bool = False,
    ) -> None:
        self.samples = samples
        self.dataset = samples  # what torch's loader calls it
        self.augmentation = Augmentation(transforms)
        self.batch_size = batch_size
        self.num_workers = num_workers or os.cpu_count() or 1
        self.drop_last = drop_last
        self.device = torch.device("cpu")
        self.finisher = Finisher(samples, self.augmentation, self.device)
        self.epoch = 1
        self.start = 0
        if not len(self):
            raise UserError(
                f"{len(samples)} samples make no batch of {batch_size} in each of "
                f"{idist.get_world_size()} processes"
            )

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose what the next pass draws.

        Args:
            epoch: counted from 1.
            start: batches of it to leave out, when a training resumes within an epoch.
        """
        self.epoch = epoch
        self.start = start

    def __len__(self) -> int:
        """Batches of an epoch, in each process."""
        share = full = self.batch_size * idist.get_world_size()
        left = len(self.samples)
        if self.samples.once:
            left, full = left - self.batch_size * idist.get_rank(), self.batch_size
        return int(max(0, left + share - (full if self.drop_last else 1)) // share)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The batches of the epoch that `set_epoch` chose."""
        epoch, start, self.start = self.epoch, self.start, 0
        with ThreadPoolExecutor(self.num_workers) as pool:
            try:
                yield from self.batches(pool, epoch, range(start, len(self)))
            finally:
                pool.shutdown(cancel_futures=True)

    def batches(
        self, pool: ThreadPoolExecutor, epoch: int, numbers: range
    ) -> Iterator[dict[str, Any]]:
        """These batches of an epoch; the next ones are on their way while the trainer has one."""
        left, waiting = iter(numbers), deque[tuple[int, Unfinished]]()
        while True:
            for number in islice(left, 1 + AHEAD - len(waiting)):
                waiting.append((number, self.finisher.read(pool, *self.draw(epoch, number))))
            if not waiting:
                return
            yield self._delivered(pool, epoch, *waiting.popleft())

    def _delivered(
        self, pool: ThreadPoolExecutor, epoch: int, number: int, unfinished: Unfinished
    ) -> dict[str, Any]:
        """A batch; one with a damaged scan is made again without it."""
        while True:
            try:
                return self.finisher.deliver(unfinished)
            except DamagedFileError as error:
                self.samples.skip(error)
            unfinished = self.finisher.read(pool, *self.draw(epoch, number))

    def draw(self, epoch: int, number: int) -> tuple[list[Box], list[Drawn]]:
        """The boxes of a batch, and the parameters of their augmentation."""
        while True:
            try:
                return self._drawn(epoch, number)
            except DamagedFileError as error:
                self.samples.skip(error)

    def _drawn(self, epoch: int, number: int) -> tuple[list[Box], list[Drawn]]:
        rank, world = idist.get_rank(), idist.get_world_size()
        first = (number * world + rank) * self.batch_size
        total = len(self.samples)
        last = first + self.batch_size
        # several processes need equal batches: past the end they take from the beginning, as
        # torch's DistributedSampler does
        wanted = range(first, min(last, total) if world == 1 or self.samples.once else last)
        boxes = [box for i in wanted for box in self.samples.boxes(epoch, i % total)]
        return boxes, [self.augmentation.draw(box.seed) for box in boxes]

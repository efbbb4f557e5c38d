"""What torch's loader lacks for long trainings over many files: resumable order, tolerance."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sized
from typing import Any, Protocol

import ignite.distributed as idist
from torch.utils.data import Dataset, Sampler

from ctfm.base.errors import UserError, one_line
from ctfm.loading.store.boxes import pass_order

__all__ = ["PassSampler", "TolerantDataset"]

logger = logging.getLogger(__name__)


class PassSampler(Sampler[int]):
    """Epochs of a chosen length over data of any size, in all processes together.

    All items are shown equally often, in an order of each pass's own; an epoch may be longer or
    shorter than a pass. Each process takes its share of every batch's worth of items. The order is
    a function of seed and epoch, so that a training resumes within an epoch.

    Args:
        dataset: with a length.
        iterations: batches of an epoch, in each process.
        batch_size: items of a batch, in each process.
        seed: another one gives another order.
    """

    def __init__(self, dataset: Sized, iterations: int, batch_size: int, seed: int = 0) -> None:
        self.total = len(dataset)
        self.iterations = iterations
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 1
        self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose what the next pass draws.

        Args:
            epoch: counted from 1.
            start: batches of it to leave out, when a training resumes within an epoch.
        """
        self.epoch = epoch
        self.start = start

    def __len__(self) -> int:
        """Items of an epoch, in each process."""
        return self.iterations * self.batch_size

    def __iter__(self) -> Iterator[int]:
        """Indices, batch after batch."""
        rank, world = idist.get_rank(), idist.get_world_size()
        epoch, start, self.start = self.epoch, self.start, 0
        for batch in range(start, self.iterations):
            number = ((epoch - 1) * self.iterations + batch) * world + rank
            for shown in range(number * self.batch_size, (number + 1) * self.batch_size):
                passed, place = divmod(shown, self.total)
                yield int(pass_order(self.seed, passed, self.total)[place])


class _Items(Protocol):
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Any: ...


class TolerantDataset(Dataset[Any]):
    """Skip scans that cannot be read, up to a share of all.

    In the place of such a scan comes the next one that can be read. Only what `UserError` reports
    is skipped: other exceptions are defects. Each worker process counts on its own.

    Args:
        data: dataset of the scans.
        max_damaged: share of them that may be skipped; 0 stops at the first one.
    """

    def __init__(self, data: _Items, max_damaged: float) -> None:
        self.data = data
        self.max_damaged = max_damaged
        self.damaged: set[int] = set()

    def __len__(self) -> int:
        """Scans, damaged ones included."""
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        """The item at `index`, or the next one that can be read.

        Raises:
            UserError: more are damaged than `max_damaged` allows.
        """
        while True:
            if index not in self.damaged:
                try:
                    return self.data[index]
                except Exception as error:
                    self._skip(index, error)
            index = (index + 1) % len(self)

    def _skip(self, index: int, error: Exception) -> None:
        reason = one_line(error)
        if reason is None or not self.max_damaged:
            raise error
        self.damaged.add(index)
        count, total = len(self.damaged), len(self)
        if count > self.max_damaged * total or count == total:
            raise UserError(
                f"{count} of {total} scans cannot be read, more than max_damaged="
                f"{self.max_damaged} allows: make the datalist again, or raise it (last: {reason})"
            ) from error
        logger.warning("skipped scan %d of %d: %s", count, total, reason)

"""Boxes of scans, and what all kinds of samples have in common."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ctfm.base.errors import UserError
from ctfm.base.types import Array
from ctfm.loading.store.index import Store, StoredScan
from ctfm.loading.store.volumes import DamagedFileError

__all__ = ["Box", "ClassIds", "Samples", "Shape", "pass_order"]

logger = logging.getLogger(__name__)

Shape = tuple[int, ...]
#: For each class its id in the store, or several that are one class to the network.
ClassIds = Sequence[int | Sequence[int]]


@dataclass(frozen=True)
class Box:
    """A box of a scan, and the seed of its augmentation.

    Attributes:
        scan: where it lies.
        start: first voxel (D, H, W); may be outside the scan, where there is air.
        size: voxels (D, H, W).
        seed: for `Augmentation.draw`.
    """

    scan: StoredScan
    start: Shape
    size: Shape
    seed: int

    def image(self) -> npt.NDArray[np.int16]:
        """HU."""
        return self.scan.image(self.start, self.size)

    def label(self) -> Array:
        """Class ids."""
        return self.scan.label(self.start, self.size)


class Samples(ABC):
    """The samples of an epoch.

    Args:
        store: its folder.
        split: list of the datalist.
        seed: another one gives other samples.
        spacing: mm that the network expects; a store of another one is refused. None: any.
        max_damaged: share of the scans that may turn out to be damaged during training; each of
            them is skipped, and another one taken in its place.
        fold: the fold that validates while the others train; None: the datalist's own lists.

    Raises:
        UserError: no scan in the list, or voxels of another size.

    Attributes:
        hu_window: HU that become 0 and 1; the store's own, unless a narrower one is set.
        damaged: keys of the scans that are skipped.
        labelled: whether samples have labels.
        shape: boxes of a sample, as the batch is shaped: () for one box.
        once: each counts once; otherwise processes take some twice, to get equally many.
    """

    labelled = False
    shape: Shape = ()
    once = False

    def __init__(
        self,
        store: str,
        split: str,
        seed: int = 0,
        spacing: Sequence[float] | None = None,
        max_damaged: float = 0.0,
        fold: int | None = None,
    ) -> None:
        self.scans = Store(store).scans(split, fold)
        self.recipe = self.scans[0].recipe
        self.hu_window = self.recipe.hu_window
        if spacing is not None and not np.allclose(spacing, self.recipe.spacing, atol=1e-4):
            raise UserError(
                f"{store}: holds voxels of {list(self.recipe.spacing)} mm, the network expects "
                f"{list(spacing)}: build another store with --spacing, or set spacing"
            )
        self.seed = seed
        self.max_damaged = max_damaged
        self.damaged: set[str] = set()
        self.table = np.zeros(0, np.uint8)

    @abstractmethod
    def __len__(self) -> int:
        """Samples in an epoch."""

    @abstractmethod
    def boxes(self, epoch: int, index: int) -> list[Box]:
        """The boxes of one sample; as many as `shape` says.

        Args:
            epoch: counted from 1.
            index: below ``len(self)``.
        """

    def scaled(self, image: Tensor, out: Tensor | None = None) -> Tensor:
        """HU to 0..1, float32, in `out` if it is given."""
        low, high = self.hu_window
        out = torch.empty_like(image, dtype=torch.float32) if out is None else out
        torch.mul(image, 1 / (high - low), out=out).sub_(low / (high - low))
        # voxels are clipped to the store's window when it is built
        return out if self.hu_window == self.recipe.hu_window else out.clamp_(0, 1)

    def _narrow(self, hu_window: Sequence[float]) -> None:
        """Set a window inside the store's, which has clipped the rest."""
        (low, high), (least, most) = hu_window, self.recipe.hu_window
        if not least <= low < high <= most:
            raise UserError(
                f"hu_window is {list(hu_window)}: give one inside [{least:g}, {most:g}], which is "
                "what the store holds"
            )
        self.hu_window = (float(low), float(high))

    def classes(self, label: Array) -> npt.NDArray[np.uint8]:
        """Ids of the store to those that the network counts; not for samples without labels."""
        if int(label.max(initial=0)) < self._unchanged:  # so mostly with all classes of a data set
            return label.astype(np.uint8, copy=False)
        return self.table.take(label)

    @cached_property
    def _unchanged(self) -> int:
        """Ids below this one stay as they are."""
        return int((self.table != np.arange(len(self.table))).argmax())

    def _label(self, class_ids: ClassIds, split: str) -> None:
        """Give labels, with these classes counted from 1."""
        bare = [scan.entry.name for scan in self.scans if not scan.entry.labelled]
        if bare:
            raise UserError(
                f"{len(bare)} scans of list {split!r} are stored without labels "
                f"(first: {bare[0]}): build the store from a datalist with labels"
            )
        self.table = np.zeros(1 << 16, np.uint8)
        for number, ids in enumerate(class_ids, start=1):
            self.table[ids] = number

    def generator(self, epoch: int, index: int) -> np.random.Generator:
        """Randomness of one sample."""
        return np.random.default_rng((self.seed, epoch, index))

    def scan(self, epoch: int, index: int) -> StoredScan:
        """The scan of a sample: all scans are shown equally often, in an order of each pass's own.

        An epoch may be longer or shorter than a pass over the scans. In the place of a damaged scan
        comes the next one that is sound.
        """
        total = len(self.scans)
        passed, place = divmod((epoch - 1) * len(self) + index, total)
        order = pass_order(self.seed, passed, total)
        places = (int(order[(place + step) % total]) for step in range(total))
        return next(s for i in places if (s := self.scans[i]).entry.key not in self.damaged)

    def skip(self, error: DamagedFileError) -> None:
        """Leave a damaged scan out from now on.

        Raises:
            DamagedFileError: `error`, if no scan may be damaged.
            UserError: more are damaged than `max_damaged` allows.
        """
        if not self.max_damaged:
            raise error
        key = error.path.name.partition(".")[0]
        if key in self.damaged:  # it was on its way before this was known
            return
        self.damaged.add(key)
        count, total = len(self.damaged), len(self.scans)
        if count > self.max_damaged * total or count == total:
            raise UserError(
                f"{count} of {total} scans are damaged, more than max_damaged={self.max_damaged} "
                f"allows: run `ctfm store check`, or raise it (last: {error})"
            ) from error
        logger.warning("skipped scan %d of %d: %s", count, total, error)


@lru_cache(maxsize=4)
def pass_order(seed: int, number: int, total: int) -> npt.NDArray[np.int64]:
    """The order in which a pass over all scans shows them.

    Args:
        seed: of the training.
        number: of the pass, from 0.
        total: scans.
    """
    # the fourth number keeps it apart from what samples draw
    return np.random.default_rng((seed, number, 0, 1)).permutation(total)

"""From blended features to class ids: the head and the largest logit, a cache-full at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ctfm.base.errors import UserError
from ctfm.inference.inferers.slabs import Slab

__all__ = [
    "CHUNK",
    "CHUNK_ELSEWHERE",
    "ClassChoice",
    "Labeller",
    "LogitChunks",
    "label_dtype",
    "largest",
]

#: Voxels at once, by kind of device. On CPUs the logits of 118 classes then fill 8 MB: measured on
#: two cores, 4,096 take 1.3 times as long, 1,024 twice. On a GPU launching kernels is what costs.
CHUNK = {"cpu": 1 << 14}
CHUNK_ELSEWHERE = 1 << 18


@dataclass(frozen=True)
class ClassChoice:
    """Which classes are wanted, and which ones they compete with.

    Attributes:
        subset: class ids; None: all. Background, 0, is always among them.
        compare_with: "all": a voxel is of a wanted class if its logit is the largest of all
            classes, as without a choice; those of other classes become background. "subset": only
            the rows of the head that are wanted are computed, and the largest of those wins, so
            that voxels of other classes become background or a wanted class, whichever is likelier.
            Softmax probabilities are over the same classes.

    Raises:
        UserError: compare_with is neither.
    """

    subset: tuple[int, ...] | None = None
    compare_with: str = "all"

    def __post_init__(self) -> None:
        if self.compare_with not in ("all", "subset"):
            raise UserError(f"compare_with is {self.compare_with}: give all or subset")

    def wanted(self, classes: int) -> list[int]:
        """The wanted ones of K classes, background among them.

        Raises:
            UserError: a class id is not there.
        """
        chosen = sorted({0, *(range(classes) if self.subset is None else self.subset)})
        if chosen[0] < 0 or chosen[-1] >= classes:
            wrong = [k for k in chosen if not 0 <= k < classes]
            raise UserError(
                f"class_subset has {wrong}: the network's class ids are 0..{classes - 1}"
            )
        return chosen

    def rows(self, classes: int) -> list[int]:
        """The classes whose logits are computed."""
        return self.wanted(classes) if self.compare_with == "subset" else [*range(classes)]

    def labels(self, classes: int) -> list[int]:
        """What voxels become where the logit of each of `rows` is the largest."""
        wanted = {*self.wanted(classes)}
        return [k if k in wanted else 0 for k in self.rows(classes)]


def label_dtype(classes: int) -> torch.dtype:
    """The smallest type that holds the ids of K classes."""
    return torch.uint8 if classes <= 255 else torch.int16


class Labeller:
    """Writes the labels of slabs, and sums up how sure they are.

    Args:
        choice: of classes.
        confidence: sum up, for each class, how far the largest softmax probability is above the
            second largest.
    """

    def __init__(self, choice: ClassChoice, confidence: bool = False) -> None:
        self.choice = choice
        self.confident = confidence
        self._sums: Tensor | None = None
        self._counts: Tensor | None = None

    def label(self, slab: Slab, out: Tensor) -> None:
        """Write the class ids of a slab.

        Args:
            slab: as `finished_slabs` yields it.
            out: of the whole volume (D, H, W), contiguous, of type `label_dtype` and on the
                slab's device.

        Raises:
            UserError: features are not finite.
        """
        classes = slab.classes
        rows = self.choice.rows(classes)
        ids = torch.tensor(rows, device=out.device)
        kept = torch.zeros(classes, dtype=out.dtype, device=out.device)
        wanted = torch.tensor(self.choice.wanted(classes), device=out.device)
        kept[wanted] = wanted.to(out.dtype)
        everything = kept.tolist() == [*range(classes)]
        chunks = LogitChunks(slab, rows, self.confident)
        flat = out[slab.start : slab.stop].view(-1)
        for part in chunks.parts:
            logits = chunks.logits(part)
            best = largest(logits)
            found = best if len(rows) == classes else ids[best]
            flat[part].copy_(found if everything else kept[found])
            if self.confident:
                self._sum_up(logits, best, found, chunks.weights[part] > 0, classes)

    def _sum_up(
        self, logits: Tensor, best: Tensor, found: Tensor, seen: Tensor, classes: int
    ) -> None:
        margins = _margins(logits, best)[seen]
        ids = found[seen].cpu()
        sums = torch.bincount(ids, margins.cpu().double(), minlength=classes)
        counts = torch.bincount(ids, minlength=classes)
        self._sums = sums if self._sums is None else self._sums + sums
        self._counts = counts if self._counts is None else self._counts + counts

    def confidence(self, classes: int) -> Tensor:
        """Mean top-1 minus top-2 probability over the voxels of each class, (K,), float32.

        nan for classes that are not found, or not wanted. Voxels that no window saw do not count.
        """
        means = torch.full((classes,), torch.nan)
        if self._sums is not None and self._counts is not None:
            wanted = self.choice.wanted(classes)
            means[wanted] = (self._sums / self._counts)[wanted].float()
        return means


def _margins(logits: Tensor, best: Tensor) -> Tensor:
    """Largest minus second largest softmax probability, (n,); `logits` (n, K) are overwritten."""
    logits -= logits.gather(1, best[:, None])
    total = logits.exp().sum(1)
    logits.scatter_(1, best[:, None], -torch.inf)
    return (1 - logits.amax(1).exp()) / total


class LogitChunks:
    """Logits of some voxels of a slab at a time, in buffers that are used again.

    Logits are means where probabilities are wanted, and weighted sums where only the largest is.
    """

    def __init__(self, slab: Slab, rows: Sequence[int], means: bool) -> None:
        whole = slab.features.is_contiguous()  # else the channels of a slice lie one after another
        self._planes = [f.flatten(0, -2) for f in ([slab.features] if whole else slab.features)]
        self.weights = slab.weights.flatten()
        self.means = means
        self.rows = None if len(rows) == slab.classes else [*rows]
        voxels, plane = len(self.weights), len(self._planes[0])
        size = min(CHUNK.get(self.weights.device.type, CHUNK_ELSEWHERE), plane)
        self.parts = [
            slice(first + n, first + min(n + size, plane))
            for first in range(0, voxels, plane)
            for n in range(0, plane, size)
        ]
        self.matrix: Tensor | None = None
        if slab.head is not None:
            head = slab.head if self.rows is None else slab.head.only(self.rows)
            self.matrix = head.matrix
            self._inputs = self.matrix.new_empty(size, len(self.matrix))
            self._logits = self.matrix.new_empty(size, self.matrix.shape[1])

    def logits(self, part: slice) -> Tensor:
        """Logits (n, K) of some voxels, which the next call overwrites."""
        features, weights = self._features(part), self.weights[part]
        if self.matrix is None:
            logits = features if self.rows is None else features[:, self.rows]
            logits = logits.float()
            _check_finite(logits)
            return logits / _positive(weights)[:, None] if self.means else logits
        inputs = self._inputs[: len(features)]
        inputs[:, :-1].copy_(features)
        inputs[:, -1].copy_(weights)  # times the bias
        _check_finite(inputs)
        if self.means:
            inputs /= _positive(weights)[:, None]
        return torch.mm(inputs, self.matrix, out=self._logits[: len(features)])

    def _features(self, part: slice) -> Tensor:
        size = len(self._planes[0])
        number = part.start // size
        plane: Tensor = self._planes[number]
        return plane[part.start - number * size : part.stop - number * size]


def largest(logits: Tensor) -> Tensor:
    """Index of the largest of K, (n,), int64, for logits (n, K)."""
    if logits.device.type == "cpu" and logits.dtype == torch.float32:
        # vectorised, which torch's is not: half the time, with one thread against two
        return torch.from_numpy(logits.numpy().argmax(1))
    return logits.argmax(1)


def _positive(weights: Tensor) -> Tensor:
    return weights.clamp(min=torch.finfo(torch.float32).tiny)


def _check_finite(values: Tensor) -> None:
    if not bool(values.sum().isfinite()):
        raise UserError(
            "the network's output is not finite: compute in float32 with --amp false, and check "
            "the weights"
        )

"""Labels on a finer or coarser grid than the network's: probabilities interpolated, then argmax."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from ctfm.imaging.reslice import Taps
from ctfm.inference.inferers.labels import (
    CHUNK,
    CHUNK_ELSEWHERE,
    ClassChoice,
    Labeller,
    LogitChunks,
    label_dtype,
    largest,
)
from ctfm.inference.inferers.slabs import Slab

__all__ = ["LinearLabeller", "planes_bytes"]


class LinearLabeller(Labeller):
    """Labels of trilinearly interpolated softmax probabilities, in the memory of two slices.

    As the largest of the probabilities that `Invertd(nearest_interp=False)` makes. Blending
    distributions that have the same largest class gives one that has it as well, so that only the
    voxels between different classes are interpolated.

    Args:
        choice: of classes; probabilities are over those that compete.
        confidence: as for `Labeller`, over the voxels of the network's grid.
        axes: of the grid that is labelled, along those of the volume, in the volume's order.
    """

    def __init__(self, choice: ClassChoice, confidence: bool, axes: Sequence[Taps]) -> None:
        super().__init__(choice, confidence)
        self.axes = axes
        depth, self._rows, self._columns = (taps.inside for taps in axes)
        #: Slices of the result by the last slice of the volume that they need.
        self._due: dict[int, list[int]] = {}
        taps = axes[0]
        for number in range(depth.start, depth.stop):
            self._due.setdefault(max(taps.first[number], taps.second[number]), []).append(number)
        self._needed = {*taps.first.tolist(), *taps.second.tolist()}
        self._planes: _Planes | None = None

    def label(self, slab: Slab, out: Tensor) -> None:
        """Write what is known once a slab is.

        Args:
            slab: as `finished_slabs` yields it, in order.
            out: the whole grid (D, H, W), zeros, of type `label_dtype` and on the slab's device.

        Raises:
            UserError: features are not finite.
        """
        if self._planes is None:
            self._planes = _Planes(slab, self.choice, out.dtype, self.axes[1:])
        for number in range(slab.start, slab.stop):
            if number in self._needed or self.confident:
                self._read(slab, number, self._planes)
            for target in self._due.get(number, ()):
                first, second = (int(t[target]) for t in (self.axes[0].first, self.axes[0].second))
                share = float(self.axes[0].share[target])
                out[target, self._rows, self._columns] = self._planes.between(first, second, share)

    def _read(self, slab: Slab, number: int, planes: _Planes) -> None:
        """Probabilities of a slice."""
        part = slice(number - slab.start, number - slab.start + 1)
        plane = replace(
            slab,
            start=number,
            stop=number + 1,
            features=slab.features[part],
            weights=slab.weights[part],
        )
        rows = self.choice.rows(slab.classes)
        chunks = LogitChunks(plane, rows, means=True)
        ids = torch.tensor(rows, device=chunks.weights.device)
        for within in chunks.parts:
            logits = chunks.logits(within)
            best = largest(logits)
            seen = chunks.weights[within] > 0
            planes.write(number, within, logits, best, seen)
            if self.confident:
                self._sum_up(logits, best, ids[best], seen, slab.classes)


class _Planes:
    """Softmax probabilities and largest classes of two slices, and slices of labels between them.

    Slice z lies at z modulo 2.
    """

    def __init__(
        self, slab: Slab, choice: ClassChoice, dtype: torch.dtype, axes: Sequence[Taps]
    ) -> None:
        labels = choice.labels(slab.classes)
        _, height, width = slab.weights.shape
        device = slab.weights.device
        self.labels = torch.tensor(labels, dtype=dtype, device=device)
        self.plain = labels == [*range(len(labels))] and dtype == label_dtype(len(labels))
        self.probabilities = torch.empty(2 * height * width, len(labels), device=device)
        self.best = torch.zeros(2, height, width, dtype=label_dtype(len(labels)), device=device)
        self.rows, self.columns = (taps.tensors(device) for taps in axes)

    def write(self, number: int, part: slice, logits: Tensor, best: Tensor, seen: Tensor) -> None:
        """Keep some voxels of a slice; unseen ones are background for certain."""
        size = self.best[0].numel()
        begin = number % 2 * size
        found = self.probabilities[begin + part.start : begin + part.stop]
        torch.softmax(logits, 1, out=found)
        if not bool(seen.all()):
            found[~seen] = 0
            found[~seen, 0] = 1
        self.best[number % 2].view(-1)[part] = best.to(self.best.dtype)

    def between(self, first: int, second: int, share: float) -> Tensor:
        """The labels (h, w) of a slice that lies between two slices of the volume."""
        shares = {first % 2: 1.0} if share == 0 else {first % 2: 1 - share, second % 2: share}
        rows, columns = self.rows, self.columns
        one, *other = (self.best[slot] for slot in shares)
        upper, lower = one.index_select(0, rows.first), one.index_select(0, rows.second)
        alike = upper == lower
        if other:
            same = one == other[0]
            alike &= same.index_select(0, rows.first) & same.index_select(0, rows.second)
        found = upper.index_select(1, columns.first)
        even = found == upper.index_select(1, columns.second)
        even &= alike.index_select(1, columns.first) & alike.index_select(1, columns.second)
        labels = found if self.plain else self.labels[found.long()]
        row, column = even.logical_not_().nonzero(as_tuple=True)
        size = CHUNK.get(labels.device.type, CHUNK_ELSEWHERE)
        for begin in range(0, len(row), size):
            y, x = row[begin : begin + size], column[begin : begin + size]
            labels[y, x] = self.labels[largest(self._blended(shares, y, x))]
        return labels

    def _blended(self, shares: dict[int, float], row: Tensor, column: Tensor) -> Tensor:
        """Probabilities (n, K) of n voxels: of 4 or 8 neighbours, weighted."""
        height, width = self.best.shape[1:]
        places, weights = [], []
        for slot, depth_share in shares.items():
            for y, height_share in self.rows.neighbours(row):
                for x, width_share in self.columns.neighbours(column):
                    places.append((slot * height + y) * width + x)
                    weights.append(depth_share * height_share * width_share)
        return _weighted_sums(self.probabilities, torch.stack(places, 1), torch.stack(weights, 1))


def _weighted_sums(table: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """Sums (n, K) of m rows of a table (N, K) each, `places` and `weights` (n, m)."""
    return functional.embedding_bag(places, table, per_sample_weights=weights, mode="sum")


def planes_bytes(
    target: Sequence[int], cross_section: tuple[int, int], classes: int, device: torch.device
) -> int:
    """Memory that interpolation takes, without the labels.

    Args:
        target: voxels of the grid that is labelled, in the order of the volume's axes.
        cross_section: voxels of a slice of the volume (H, W).
        classes: K.
        device: where.
    """
    planes = 2 * cross_section[0] * cross_section[1] * (4 * classes + 2)
    voxels = target[1] * target[2]
    mixed = min(voxels, CHUNK.get(device.type, CHUNK_ELSEWHERE))
    # masks, labels and the places of voxels, if all of them are mixed; what is interpolated
    return planes + voxels * 28 + mixed * (4 * classes + 8 * 12)

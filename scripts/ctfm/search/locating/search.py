"""Where in a scan is the patch that is most alike? All windows, or few of them and nearly as sure.

A window stands for the voxel ``start + patch // 2``, as in the published search. Its similarity is
the cosine of its embedding with the query's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor
from torch.nn import functional

from ctfm.base.errors import UserError
from ctfm.base.types import Array
from ctfm.embedding.embedder import Embedder
from ctfm.embedding.inferer import embed_windows
from ctfm.embedding.windows import WindowGrid
from ctfm.imaging.grids import voxels_to_mm

__all__ = ["SimilarityMap", "WindowSimilarity", "look_closer", "look_everywhere"]

#: A window at half the resolution has an eighth of the voxels, hence of the work.
HALF_COST = 1 / 8
#: Share of the work of all windows that `look_closer` takes: 1/8, and 0.175 of the windows in full.
WORK = 0.3
#: Of so many windows all are looked at.
FEW = 128
#: Windows embedded before what was learned from them is taken into account.
ROUND = 16
#: How far apart, in windows, what halving the resolution does to one tells about another.
REACH = 0.7
#: What counts as much as one window's distance does, against it.
DOUBT = 0.5


@dataclass(frozen=True)
class WindowSimilarity:
    """Cosines of windows of a scan with a query.

    Attributes:
        full: first voxels of windows (n, 3) to cosines (n,).
        half: the same, of windows and query at half the resolution.
    """

    full: Callable[[Array], Array]
    half: Callable[[Array], Array]

    @classmethod
    def of(
        cls, embedder: Embedder, patch: Tensor, image: MetaTensor, progress: bool = False
    ) -> WindowSimilarity:
        """Similarity of windows of a scan to a patch of another.

        Args:
            embedder: the encoder.
            patch: the query's window, (1, *patch), scaled.
            image: the other scan, (1, D, H, W), as `Embedder.read` gives it.
            progress: show a bar, on a terminal.
        """

        def halved(patches: Tensor) -> Tensor:
            return embedder.apply(functional.avg_pool3d(patches, 2))

        def with_query(apply: Callable[[Tensor], Tensor], batch: int) -> Callable[[Array], Array]:
            query = _unit(_embed(patch, np.zeros((1, 3), int), embedder.patch, apply, 1, False))[0]

            def cosines(starts: Array) -> Array:
                rows = _embed(image, starts, embedder.patch, apply, batch, progress)
                values: Array = _unit(rows) @ query
                return values

            return cosines

        batch = embedder.sw_batch_size
        return cls(
            full=with_query(embedder.apply, batch),
            half=with_query(halved, round(batch / HALF_COST)),
        )


@dataclass(frozen=True)
class SimilarityMap:
    """Similarity of all windows of a grid, some of them estimated.

    Attributes:
        grid: the windows.
        cosines: of each, (D', H', W'); estimates where it was not looked at in full.
        looked_at: which were, (D', H', W').
        work: what it took, as a share of embedding every window.
    """

    grid: WindowGrid
    cosines: Array
    looked_at: Array
    work: float

    def best(self, apart: int, most: int) -> list[tuple[Array, float]]:
        """The best windows that were looked at, none close to a better one.

        Args:
            apart: windows that two lie apart, along one axis at least.
            most: so many at most.

        Returns:
            First voxel (3,) and cosine of each, the best first.
        """
        left = np.where(self.looked_at, self.cosines, -np.inf)
        best_windows: list[tuple[Array, float]] = []
        while len(best_windows) < most and np.isfinite(left.max()):
            window = np.array(np.unravel_index(int(left.argmax()), left.shape))
            best_windows.append((window * self.grid.step, float(left[tuple(window)])))
            left[tuple(slice(max(0, i - apart + 1), i + apart) for i in window)] = -np.inf
        return best_windows

    def affine(self, affine: Array) -> Array:
        """(4, 4): index of a window to the location in mm that it stands for.

        Args:
            affine: of the scan as the encoder sees it.
        """
        half = np.asarray(self.grid.patch) // 2
        matrix = np.eye(4)
        matrix[:3, :3] = np.asarray(affine, float)[:3, :3] @ np.diag(self.grid.step)
        matrix[:3, 3] = voxels_to_mm(affine, half[None])[0]
        return matrix


def look_everywhere(similarity: WindowSimilarity, grid: WindowGrid) -> SimilarityMap:
    """Embed every window, as the published search does."""
    cosines = similarity.full(grid.starts()).reshape(grid.counts)
    return SimilarityMap(grid, cosines, np.ones(grid.counts, bool), 1.0)


def look_closer(
    similarity: WindowSimilarity, grid: WindowGrid, work: float = WORK
) -> SimilarityMap:
    """Look at every window at half the resolution, and closer at the most promising ones.

    Windows are looked at in rounds. What the cosines at full resolution were larger or smaller
    by than those at half of it corrects the estimates of windows nearby.

    Args:
        similarity: of windows.
        grid: of windows; where there are few, all are looked at.
        work: share of the work of embedding every window that is done, from above 1/8 to 1.

    Raises:
        UserError: that share makes no sense.
    """
    if not HALF_COST < work <= 1:
        raise UserError(f"work is {work}: give a share above {HALF_COST}, up to 1, as 0.3")
    starts = grid.starts()
    number = len(starts)
    if number <= FEW:
        return look_everywhere(similarity, grid)
    half = similarity.half(starts)
    positions = starts / np.asarray(grid.step)
    wanted = max(1, int((work - HALF_COST) * number))
    seen: Array = np.empty(0, dtype=int)
    cosines = np.empty(0)
    estimates = half.copy()
    while len(seen) < wanted:
        estimates[seen] = -np.inf
        best = np.argsort(-estimates, kind="stable")[: min(ROUND, wanted - len(seen))]
        seen = np.concatenate([seen, best])
        cosines = np.concatenate([cosines, similarity.full(starts[best])])
        estimates = half + _correction(positions, positions[seen], cosines - half[seen])
    estimates[seen] = cosines
    looked_at = np.zeros(number, dtype=bool)
    looked_at[seen] = True
    shape = grid.counts
    done = HALF_COST + len(seen) / number
    return SimilarityMap(grid, estimates.reshape(shape), looked_at.reshape(shape), done)


def _correction(positions: Array, known: Array, differences: Array) -> Array:
    """Expected differences at windows (N, 3), from those at known ones (K, 3): near ones tell."""
    mean = differences.mean()
    squares = (positions**2).sum(1)[:, None] + (known**2).sum(1) - 2 * positions @ known.T
    weights = np.exp(-squares / (2 * REACH**2))
    near: Array = mean + weights @ (differences - mean) / (weights.sum(1) + DOUBT)
    return near


@torch.inference_mode()
def _embed(
    image: Tensor,
    starts: Array,
    patch: tuple[int, ...],
    apply: Callable[[Tensor], Tensor],
    batch_size: int,
    progress: bool,
) -> Array:
    rows: Array = embed_windows(image, starts, patch, apply, batch_size, progress).numpy()
    return rows


def _unit(rows: Array) -> Array:
    """Rows (n, F) of length one, in double precision."""
    double = rows.astype(np.float64)
    length = np.linalg.norm(double, axis=1, keepdims=True)
    return np.asarray(double / np.maximum(length, np.finfo(float).tiny))

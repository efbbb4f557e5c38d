"""Look for the place of one scan in another: the window whose embedding is most alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from torch import Tensor
from torch.nn import functional

from ctfm.base.errors import UserError
from ctfm.base.types import Array
from ctfm.embedding.inferer import embed_windows
from ctfm.protocols.probing.cases import OrganCase

__all__ = ["SearchAnswers", "best_window", "chance", "search", "shared_classes"]


@dataclass(frozen=True)
class SearchAnswers:
    """One answer for each ordered pair of scans and each class that both show.

    Attributes:
        class_ids: (N,).
        queries: position of the scan that was asked from, (N,).
        distances_mm: from the answer to the centre of mass of the target's organ, (N,).
        inside: 1 where the answer lies in that organ, 0 where not, or a share of it, (N,).
    """

    class_ids: Array
    queries: Array
    distances_mm: Array
    inside: Array


def shared_classes(cases: Sequence[OrganCase]) -> Iterator[tuple[int, int, list[int]]]:
    """Positions of query and target, in all ordered pairs, and the classes that both show."""
    for query, target in permutations(range(len(cases)), 2):
        both = [i for i in cases[query].centroids if i in cases[target].centroids]
        if both:
            yield query, target, both


def search(
    cases: Sequence[OrganCase],
    apply: Callable[[Tensor], Tensor],
    batch_size: int,
    progress: bool = False,
) -> SearchAnswers:
    """Answer with an encoder: the window with the largest cosine to the query's embedding.

    Every window is embedded once, and every query.

    Args:
        cases: labelled scans.
        apply: patches (n, 1, *patch) to embeddings (n, F).
        batch_size: windows that pass the encoder together.
        progress: show a bar.

    Raises:
        UserError: no class is in two scans, or an embedding is not finite.
    """
    embedded = [_embed(case, apply, batch_size, progress) for case in cases]

    def answer(query: int, target: int, both: Sequence[int]) -> tuple[Array, Array]:
        rows = [list(cases[query].centroids).index(i) for i in both]
        similarity = embedded[query][1][rows] @ embedded[target][0].T
        return _judge(cases[target], both, similarity.argmax(dim=1).numpy())

    return _collect(cases, answer)


def best_window(cases: Sequence[OrganCase]) -> SearchAnswers:
    """What the grid of windows allows at best: the window nearest to the organ's centre."""

    def answer(_query: int, target: int, both: Sequence[int]) -> tuple[Array, Array]:
        distances = _distances(cases[target], both)
        return _judge(cases[target], both, distances.argmin(axis=1))

    return _collect(cases, answer)


def chance(cases: Sequence[OrganCase]) -> SearchAnswers:
    """What a window drawn at random gives on average."""

    def answer(_query: int, target: int, both: Sequence[int]) -> tuple[Array, Array]:
        case = cases[target]
        inside = [(case.point_ids == i).mean() for i in both]
        return _distances(case, both).mean(axis=1), np.asarray(inside)

    return _collect(cases, answer)


def _embed(
    case: OrganCase, apply: Callable[[Tensor], Tensor], batch_size: int, progress: bool
) -> tuple[Tensor, Tensor]:
    """Embeddings of all windows (N, F) and of the queries (K, F), of length one."""
    starts = np.stack([*case.grid.starts(), *case.query_starts.values()])
    embeddings = embed_windows(case.image, starts, case.grid.patch, apply, batch_size, progress)
    unit = functional.normalize(embeddings, dim=1)
    return unit[: len(case.points)], unit[len(case.points) :]


def _distances(case: OrganCase, class_ids: Sequence[int]) -> Array:
    """From each organ's centre to each window's point, mm, (classes, N)."""
    centres = np.stack([case.centroids[i] for i in class_ids])
    distances: Array = np.linalg.norm(case.points[None] - centres[:, None], axis=2)
    return distances


def _judge(case: OrganCase, class_ids: Sequence[int], windows: Array) -> tuple[Array, Array]:
    """Distance of each answer, and whether it lies inside, both (classes,)."""
    distances = _distances(case, class_ids)[np.arange(len(windows)), windows]
    return distances, (case.point_ids[windows] == np.asarray(class_ids)).astype(float)


def _collect(
    cases: Sequence[OrganCase], answer: Callable[[int, int, Sequence[int]], tuple[Array, Array]]
) -> SearchAnswers:
    parts = []
    for query, target, both in shared_classes(cases):
        parts.append((np.asarray(both), np.full(len(both), query), *answer(query, target, both)))
    if not parts:
        raise UserError(
            f"no class is in two of the {len(cases)} scans: give more scans, or other --classes"
        )
    return SearchAnswers(*map(np.concatenate, zip(*parts, strict=True)))

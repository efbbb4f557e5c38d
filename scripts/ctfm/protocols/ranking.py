"""How good the first k hits of each query are."""

from __future__ import annotations

import numpy as np

from ctfm.base.types import Array

__all__ = ["average_precision_at", "hit_at", "precision_at", "rank", "unit_rows"]


def rank(queries: Array, references: Array, k: int) -> Array:
    """The k references with the largest cosine to each query.

    Args:
        queries: (Q, F).
        references: (R, F), R at least k.
        k: how many.

    Returns:
        Indices (Q, k), the most alike first.
    """
    cosines = unit_rows(queries) @ unit_rows(references).T
    best = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(cosines, best, axis=1), axis=1, kind="stable")
    ranked: Array = np.take_along_axis(best, order, axis=1)
    return ranked


def unit_rows(vectors: Array) -> Array:
    """Rows (N, F) of length one; a row of zeros stays as it is."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Array = vectors / np.maximum(lengths, 1e-12)
    return unit


def precision_at(relevant: Array, k: int) -> Array:
    """Share of the first k hits that are relevant, (Q,); `relevant` (Q, >= k) is boolean."""
    share: Array = relevant[:, :k].mean(axis=1)
    return share


def hit_at(relevant: Array, k: int) -> Array:
    """Whether any of the first k hits is relevant, (Q,), 0 or 1."""
    hit: Array = relevant[:, :k].any(axis=1).astype(float)
    return hit


def average_precision_at(relevant: Array, k: int) -> Array:
    """Mean of the precisions at the relevant ones of the first k hits, 0 without any, (Q,).

    As CT-FM's published evaluation has it: divided by the relevant hits among the k, not by all
    relevant references.

    Example:
        >>> average_precision_at(np.array([[True, True, False, True, False]]), 5).round(2)
        array([0.92])
    """
    top = relevant[:, :k].astype(float)
    precisions = np.cumsum(top, axis=1) / np.arange(1, top.shape[1] + 1)
    hits = top.sum(axis=1)
    found: Array = (precisions * top).sum(axis=1) / np.maximum(hits, 1)
    return found

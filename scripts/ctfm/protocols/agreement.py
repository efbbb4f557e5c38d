"""How well clusters agree with labels, from tables of counts, which can be weighted by scan.

scikit-learn's figures take lists of labels; a bootstrap over scans wants the same of thousands of
weighted sums, for which tables are counted once a scan.
"""

from __future__ import annotations

import numpy as np

from ctfm.base.types import Array

__all__ = ["adjusted_rand_index", "mutual_information", "tables_by_scan"]


def tables_by_scan(scans: Array, labels: Array, clusters: Array) -> Array:
    """Counts of each label in each cluster.

    Args:
        scans: position of the scan of each point, (N,).
        labels: (N,), any values.
        clusters: (N,), any values.

    Returns:
        (scans, labels, clusters), float.
    """
    kinds = [np.unique(one, return_inverse=True) for one in (labels, clusters)]
    shape = (int(scans.max()) + 1, *(len(found) for found, _ in kinds))
    flat = np.ravel_multi_index((scans, *(places for _, places in kinds)), shape)
    counts: Array = np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape).astype(float)
    return counts


def mutual_information(tables: Array) -> Array:
    """Normalised mutual information, by the mean of both entropies, as scikit-learn has it.

    Args:
        tables: (..., labels, clusters), weights.

    Returns:
        (...): 0 where clusters tell nothing of labels, 1 where both are the same. It is not
        corrected for chance: many clusters of few points raise it.
    """
    shares = tables / tables.sum((-2, -1), keepdims=True)
    joint = _entropy(shares.reshape(*shares.shape[:-2], -1))
    of_labels, of_clusters = _entropy(shares.sum(-1)), _entropy(shares.sum(-2))
    mean = (of_labels + of_clusters) / 2
    shared = of_labels + of_clusters - joint
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Array = np.where(mean > 0, shared / mean, 1.0)
    return found


def adjusted_rand_index(tables: Array) -> Array:
    """Pairs of points on which labels and clusters agree, corrected for chance (Hubert and Arabie).

    Args:
        tables: (..., labels, clusters), counts.

    Returns:
        (...): around 0 for clusters at random, 1 where both are the same.
    """
    both = _pairs(tables).sum((-2, -1))
    of_labels, of_clusters = _pairs(tables.sum(-1)).sum(-1), _pairs(tables.sum(-2)).sum(-1)
    expected = of_labels * of_clusters / _pairs(tables.sum((-2, -1)))
    largest = (of_labels + of_clusters) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Array = np.where(
            largest == expected, 1.0, (both - expected) / (largest - expected)
        )  # one cluster of one label, or each point alone
    return found


def _entropy(shares: Array) -> Array:
    with np.errstate(divide="ignore"):
        logs = np.where(shares > 0, np.log(shares), 0)
    entropy: Array = -(shares * logs).sum(-1)
    return entropy


def _pairs(counts: Array) -> Array:
    pairs: Array = counts * (counts - 1) / 2
    return pairs

"""What an index holds, and whether it is sound."""

from __future__ import annotations

from typing import Any

import numpy as np

from ctfm.base.errors import UserError
from ctfm.search.index.index import ANN_INDEX, Index

__all__ = ["check_index", "describe_index"]

#: Rows that are looked at together.
BATCH = 50_000


def describe_index(folder: str) -> str:
    """Rows, scans, columns, encoder and recipe, in lines."""
    index = Index(folder)
    scans, patches = (index.count(f"kind = '{kind}'") for kind in ("scan", "patch"))
    recipe = ", ".join(f"{name} {value}" for name, value in index.description["recipe"].items())
    return "\n".join(
        [
            f"{index.folder}: {scans} scans, {patches} patches, {index.dimension} numbers each",
            f"encoder {index.description['encoder_sha256']}",
            f"recipe {recipe}",
            f"metadata {', '.join(index.metadata) or 'none'}",
            f"approximate index {_ann(index)}",
        ]
    )


def _ann(index: Index) -> str:
    if not index.has_ann():
        return "none: searches are exact"
    statistics = index.table.index_stats(ANN_INDEX)
    return f"of {statistics.num_indexed_rows} rows, {statistics.num_unindexed_rows} are not in it"


def check_index(folder: str) -> str:
    """Look at every row: is each there once, does each scan have its row, are all numbers finite?

    Raises:
        UserError: something is wrong; the line says what.
    """
    index = Index(folder)
    rows = index.rows(["key", "scan", "kind"])
    keys, kinds = rows["key"].to_pylist(), rows["kind"].to_pylist()
    scans = rows["scan"].to_pylist()
    whole = {scan for scan, kind in zip(scans, kinds, strict=True) if kind == "scan"}
    found: dict[str, Any] = {
        "rows that are there twice": len(keys) - len(set(keys)),
        "scans without a row of their own": len({*scans} - whole),
        "embeddings that are not finite or zero": _broken(index),
    }
    wrong = [f"{number} {what}" for what, number in found.items() if number]
    if wrong:
        raise UserError(f"{index.folder}: {', '.join(wrong)}: make the index anew")
    return f"{index.folder}: {len(keys)} rows of {len(whole)} scans are sound"


def _broken(index: Index) -> int:
    broken = 0
    for batch in index.table.search().select(["embedding"]).limit(index.count()).to_batches(BATCH):
        column = batch["embedding"]
        numbers = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, index.dimension)
        sums = np.abs(numbers.astype(np.float64)).sum(axis=1)
        broken += int((~np.isfinite(sums) | (sums == 0)).sum())
    return broken

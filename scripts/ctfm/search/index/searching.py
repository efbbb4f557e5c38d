"""What is most alike: exact over a matrix in memory, approximate above some 200,000 rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nlargest
from pathlib import Path
from typing import Any

import numpy as np

from ctfm.base.errors import UserError
from ctfm.base.optional import require
from ctfm.base.types import Array
from ctfm.embedding.embedder import Embedder
from ctfm.search.index.adding import EXACT_ROWS
from ctfm.search.index.index import AXES, PURPOSE, Index
from ctfm.search.options import SearchEncoder

__all__ = ["Hit", "Searcher", "load_encoder", "merge_hits", "open_indexes"]

#: Candidates that are compared exactly, for each hit of the approximate index: with 10 of them,
#: 57 % of the true ones were found among a million rows, with 50 of them 99.5 %.
REFINE = 50
#: Lists of it that are looked through.
PROBES = 32


@dataclass(frozen=True)
class Hit:
    """A row that is alike.

    Attributes:
        similarity: cosine.
        scan: its scan.
        point_mm: centre of the patch, RAS+; None: the whole scan.
        metadata: the user's columns.
    """

    similarity: float
    scan: str
    point_mm: tuple[float, float, float] | None
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Searcher:
    """Searches rows of one kind, of those that a condition holds for.

    Up to `EXACT_ROWS` of them are held in memory and searched exactly. More are searched by the
    approximate index, and its hits compared exactly, or one by one where there is none.

    Args:
        index: what is searched.
        kind: "scan" or "patch".
        where: SQL condition on the columns, such as ``organ = 'lung'``.

    Raises:
        UserError: the condition makes no sense, or holds for no row.
    """

    def __init__(self, index: Index, kind: str = "scan", where: str | None = None) -> None:
        self.index = index
        self.columns = ["scan", *AXES, *index.metadata]
        self.condition = f"kind = '{kind}'" + ("" if where is None else f" AND ({where})")
        self.rows = index.count(self.condition)
        if self.rows == 0:
            told = "" if where is None else f" with {where}"
            raise UserError(f"{index.folder}: no {kind}{told} in the index")
        self.exact = self.rows <= EXACT_ROWS or not index.has_ann()
        self._matrix: Array | None = None
        self._found: Any = None

    def search(self, vector: Array, k: int = 10) -> list[Hit]:
        """The k rows whose embeddings have the largest cosine to a vector.

        Args:
            vector: (F,).
            k: at most so many.

        Returns:
            By falling similarity.

        Raises:
            UserError: the vector does not fit, or k is none.
        """
        vector = np.asarray(vector, np.float32)
        if vector.shape != (self.index.dimension,) or not np.linalg.norm(vector) > 0:
            raise UserError(
                f"an embedding of {vector.shape[-1]} numbers in an index of {self.index.dimension}"
            )
        if k < 1:
            raise UserError(f"k is {k}: give a number from 1")
        if self.rows <= EXACT_ROWS:
            return self._search_matrix(vector / np.linalg.norm(vector), k)
        return self._search_table(vector, k)

    def _search_matrix(self, vector: Array, k: int) -> list[Hit]:
        if self._matrix is None:
            self._read_matrix()
        assert self._matrix is not None
        similarity = self._matrix @ vector
        best = np.argpartition(-similarity, min(k, len(similarity)) - 1)[:k]
        best = best[np.argsort(-similarity[best], kind="stable")]
        rows = self._found.take(best).to_pylist()
        return [self._hit(row, float(similarity[i])) for row, i in zip(rows, best, strict=True)]

    def _read_matrix(self) -> None:
        """Embeddings of length one, piece by piece: a copy of all of them would be one too many."""
        arrow = require("pyarrow", purpose=PURPOSE, extra="index")
        table = self.index.rows([*self.columns, "embedding"], self.condition)
        matrix = np.empty((table.num_rows, self.index.dimension), np.float32)
        first = 0
        for chunk in table["embedding"].iterchunks():
            rows = matrix[first : first + len(chunk)]
            rows[:] = chunk.flatten().to_numpy().reshape(-1, self.index.dimension)
            rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
            first += len(chunk)
        self._matrix, self._found = matrix, table.drop(["embedding"]).combine_chunks()
        del table
        arrow.default_memory_pool().release_unused()

    def _search_table(self, vector: Array, k: int) -> list[Hit]:
        query = self.index.table.search(vector).distance_type("cosine")
        query = query.where(self.condition, prefilter=True).limit(k)
        if self.exact:
            query = query.bypass_vector_index()
        else:
            query = query.nprobes(PROBES).refine_factor(REFINE)
        rows = query.select([*self.columns, "_distance"]).to_arrow().to_pylist()
        return [self._hit(row, 1 - row["_distance"]) for row in rows]

    def _hit(self, row: Mapping[str, Any], similarity: float) -> Hit:
        x, y, z = (row[axis] for axis in AXES)
        point = None if x is None else (x, y, z)
        return Hit(
            similarity, row["scan"], point, {name: row[name] for name in self.index.metadata}
        )


def merge_hits(shards: Sequence[Sequence[Hit]], k: int) -> list[Hit]:
    """The best k of several indexes' hits: an index that outgrows one disk is split into shards."""
    return nlargest(k, (hit for hits in shards for hit in hits), key=lambda hit: hit.similarity)


def open_indexes(folders: Iterable[str | Path]) -> list[Index]:
    """Open indexes that are searched as one.

    Args:
        folders: shards of one index, made with one encoder and recipe.

    Raises:
        UserError: none is given, one is no index, or they were made by different encoders.
    """
    indexes = [Index(folder) for folder in folders]
    if not indexes:
        raise UserError("no index is given: add --index DIR")
    for other in indexes[1:]:
        indexes[0].check_same(other.description)
    return indexes


def load_encoder(index: Index, encoder: SearchEncoder) -> Embedder:
    """The encoder that made an index, with the index's recipe.

    Raises:
        UserError: no checkpoint is given, or it is another encoder.
    """
    if encoder.checkpoint is None:
        raise UserError("a scan needs the index's encoder: add --checkpoint FILE")
    made_with = index.description
    embedder = Embedder.load(str(encoder.checkpoint), made_with["recipe"], encoder.device)
    index.check_same({**made_with, "encoder_sha256": embedder.fingerprint})
    return embedder

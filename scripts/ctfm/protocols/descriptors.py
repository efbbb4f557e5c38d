"""One descriptor a scan, by several encoders, kept on disk so that a stopped run goes on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from ctfm import require
from ctfm.embedding import Embedder, EmbeddingTable
from ctfm.embedding.table import table_file
from ctfm.errors import UserError, one_line
from ctfm.probing.encoders import Candidate

__all__ = ["describe_scans"]

Array = npt.NDArray[Any]


def describe_scans(
    candidates: Sequence[Candidate],
    scans: Mapping[str, str],
    recipe: Mapping[str, Any],
    folder: Path,
    device: str | None = None,
    batch_size: int = 8,
    input_check: str = "error",
    progress: bool = True,
) -> dict[str, dict[str, Array]]:
    """Embed scans by each encoder, and pool each scan's windows as the recipe says.

    A scan is read once for all encoders. Each encoder has a table of embeddings in `folder`, as the
    feature extractor writes it; what lies there is not computed again.

    Args:
        candidates: encoders.
        scans: name -> file.
        recipe: of `ctfm.embedding.make_recipe`.
        folder: of the tables.
        device: such as cuda:0; None: a GPU if there is one.
        batch_size: windows that pass an encoder together.
        input_check: what to do about values that are no CT's: error, warn or off.
        progress: show a bar, on a terminal.

    Returns:
        Encoder -> scan -> descriptor (F,), float32.

    Raises:
        UserError: scans cannot be read, in one line when all others are done; or the folder holds
            embeddings of another kind.
    """
    embedders, tables = {}, {}
    for one in candidates:
        embedders[one.name] = Embedder(
            one.network(), recipe, device=device, sw_batch_size=batch_size
        )
        where = folder / re.sub(r"[^\w.-]+", "_", one.name)
        tables[one.name] = EmbeddingTable(
            str(where), embedders[one.name].network, embedders[one.name].recipe
        )
        tables[one.name].start()
    failures = []
    for name, path in tqdm(scans.items(), "scans", disable=None if progress else True):
        waiting = [one for one in tables if not _file(tables[one], name).exists()]
        try:
            _embed(name, path, {one: (embedders[one], tables[one]) for one in waiting}, input_check)
        except UserError as error:
            failures.append(one_line(error))
    if failures:
        raise UserError(
            f"{len(failures)} of {len(scans)} scans failed (first: {failures[0]}); those of the "
            "others are kept: repair them and give the same command again"
        )
    return {
        one: {name: _descriptor(table, name) for name in scans} for one, table in tables.items()
    }


def _embed(
    name: str,
    path: str,
    waiting: Mapping[str, tuple[Embedder, EmbeddingTable]],
    input_check: str,
) -> None:
    if not waiting:
        return
    embedder, _ = next(iter(waiting.values()))
    image = embedder.read(path, input_check)
    for mine, table in waiting.values():
        table.write({"image": image, "pred": mine.window_map(image), "name": name})


def _file(table: EmbeddingTable, name: str) -> Path:
    return table_file(table.output_dir, name)


def _descriptor(table: EmbeddingTable, name: str) -> Array:
    """The row of the scan as a whole."""
    path = _file(table, name)
    arrow = require("pyarrow", purpose="read embeddings", extra="embeddings")
    parquet = require("pyarrow.parquet", purpose="read embeddings", extra="embeddings")
    try:
        rows = parquet.ParquetFile(path).read(columns=["kind", "embedding"])
        place = rows["kind"].to_pylist().index("scan")
        return np.asarray(rows["embedding"][place].as_py(), dtype=np.float32)
    except (OSError, ValueError, arrow.ArrowException) as error:
        raise UserError(f"{path}: cannot be read: delete it and run again") from error

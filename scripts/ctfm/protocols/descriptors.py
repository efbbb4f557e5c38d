"""One descriptor a scan, by several encoders, kept on disk so that a stopped run goes on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ctfm.base.errors import UserError, one_line
from ctfm.base.optional import require
from ctfm.base.types import Array
from ctfm.embedding.embedder import Embedder
from ctfm.embedding.table import EmbeddingTable, table_file
from ctfm.imaging.transforms import LoadScand
from ctfm.protocols.changes import Change
from ctfm.protocols.options import EncoderOptions, ReadingOptions
from ctfm.protocols.probing.encoders import Candidate

__all__ = ["describe_scans", "spell_changed"]


def describe_scans(
    candidates: Sequence[Candidate],
    scans: Mapping[str, str],
    recipe: Mapping[str, Any],
    folder: Path,
    encoders: EncoderOptions,
    reading: ReadingOptions,
    changes: Mapping[str, Change] | None = None,
    seed: int = 0,
) -> dict[str, dict[str, Array]]:
    """Embed scans by each encoder, and pool each scan's windows as the recipe says.

    A scan is read once for all encoders. Each encoder has a table of embeddings in `folder`, as the
    feature extractor writes it; what lies there is not computed again.

    Args:
        candidates: encoders.
        scans: name -> file.
        recipe: of `ctfm.embedding.recipes.make_recipe`.
        folder: of the tables.
        encoders: how they compute.
        reading: of the scans.
        changes: what is done to each scan besides; "SCAN, CHANGE" is what it is called then.
        seed: of the changes.

    Returns:
        Encoder -> scan -> descriptor (F,), float32.

    Raises:
        UserError: scans cannot be read, in one line when all others are done; or the folder holds
            embeddings of another kind.
    """
    embedders = encoders.embedders(candidates, recipe)
    tables = {}
    for name, one in embedders.items():
        where = folder / re.sub(r"[^\w.-]+", "_", name)
        tables[name] = EmbeddingTable(str(where), one.network, one.recipe)
        tables[name].start()
    every: dict[str | None, Change | None] = {None: None}
    for change, alter in (changes or {}).items():
        every[change] = alter
    failures = []
    for name, path in tqdm(scans.items(), "scans", disable=None if reading.progress else True):
        try:
            _embed(name, path, every, seed, (embedders, tables), reading.input_check)
        except UserError as error:
            failures.append(one_line(error))
    if failures:
        raise UserError(
            f"{len(failures)} of {len(scans)} scans failed (first: {failures[0]}); those of the "
            "others are kept: repair them and give the same command again"
        )
    names = [spell_changed(name, change) for name in scans for change in every]
    return {one: {n: _descriptor(table, n) for n in names} for one, table in tables.items()}


def spell_changed(scan: str, change: str | None) -> str:
    """What a scan is called after a change; None: after none."""
    return scan if change is None else f"{scan}, {change}"


def _embed(
    name: str,
    path: str,
    changes: Mapping[str | None, Change | None],
    seed: int,
    encoders: tuple[Mapping[str, Embedder], Mapping[str, EmbeddingTable]],
    input_check: str,
) -> None:
    """Read a scan once, if anything of it is still to be done."""
    embedders, tables = encoders
    waiting = {
        change: [one for one in tables if not _file(tables[one], spelled).exists()]
        for change in changes
        for spelled in [spell_changed(name, change)]
    }
    if not any(waiting.values()):
        return
    scan = LoadScand("image", input_check)({"image": path})["image"]
    for change, alter in changes.items():
        if not waiting[change]:
            continue
        shown = scan.clone() if alter is None else alter(scan, seed)
        image = embedders[waiting[change][0]].prepare(shown)
        for one in waiting[change]:
            data = {"image": image, "name": spell_changed(name, change)}
            tables[one].write({**data, "pred": embedders[one].window_map(image)})


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

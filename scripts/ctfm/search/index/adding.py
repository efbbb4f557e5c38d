"""Tables of embeddings into the index: each row once, whatever is added twice or was cut short."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctfm.base.columns import numbers_or_text, read_table
from ctfm.base.errors import UserError
from ctfm.base.optional import require
from ctfm.base.options import is_on
from ctfm.base.sharding import Shard, find_shard
from ctfm.embedding.table import DESCRIPTION, TABLE
from ctfm.search.index.index import AXES, PURPOSE, RESERVED, Index, quoted
from ctfm.search.index.retrying import patiently

__all__ = ["EXACT_ROWS", "add_embeddings"]

#: Rows that are written at once. A scan's rows are written together, or not at all.
BATCH = 20_000
#: Up to so many rows, the whole matrix is searched; above, an approximate index is made.
EXACT_ROWS = 200_000
#: Embeddings of a scan that is there already: rounding differs between machines, scans more.
SAME = 1e-2


def add_embeddings(
    folders: Sequence[str],
    index: str,
    metadata: str | None = None,
    prefix: str = "",
    build: bool | None = None,
    shard: int | None = None,
    shards: int | None = None,
) -> str:
    """Add tables of embeddings, as the bundles' inference writes them, to an index.

    Rows that are there already are left as they are, so that a stopped run can be repeated; what
    has been reported is on disk. Several processes may add to one index at the same time.

    Args:
        folders: with ``embeddings.parquet`` in them, or such tables themselves.
        index: folder of the index; made where there is none.
        metadata: CSV with a column ``scan``, and others that become columns of the index.
        prefix: put before the names of the scans, for data sets that use the same names.
        build: make the approximate index; None: above `EXACT_ROWS` rows, if nobody else adds.
        shard: which part of the files this process adds, from 0; None: as its launcher says.
        shards: parts in all; None: as many as processes were launched.

    Returns:
        What was done, in a line.

    Raises:
        UserError: a table or the CSV cannot be read, was made with another encoder or recipe, or
            a scan is there by that name with other embeddings.
    """
    if not folders:
        raise UserError("no embeddings are given: ctfm index add FOLDER --index DIR")
    part = find_shard(shard, shards)
    tidy = part.count == 1 if build is None else is_on("build", build)
    extra = {} if metadata is None else _read_metadata(Path(metadata).expanduser())
    opened: Index | None = None
    added = seen = 0
    for folder in folders:
        table = _table_folder(Path(folder).expanduser())
        made_with = _made_with(table)
        for batch in _batches(table, prefix, part):
            dimension = batch.schema.field("embedding").type.list_size
            if opened is None:
                opened = Index.create(index, made_with, dimension)
                _add_columns(opened, extra)
            opened.check_same({**made_with, "dimension": dimension})
            opened.refresh()
            _check_known(opened, batch)
            added += _merge(opened, batch, extra)
            seen += batch.num_rows
            print(f"{opened.folder}: {seen} rows seen, {added} of them new", flush=True)
    if opened is None:
        if part.count > 1:  # the other parts have them
            return f"{', '.join(folders)}: no scan in {part}"
        raise UserError(f"{', '.join(folders)}: no scan was embedded there")
    if tidy:
        patiently(opened.table.optimize, opened.folder)
    opened.refresh()
    if tidy and (build is not None or (opened.count() > EXACT_ROWS and added)):
        opened.build_ann()
    more = "" if part.count == 1 else f" by {part}"
    missing = _missing(opened, extra)
    remark = f"; {missing} scans of {metadata} are not in it" if missing else ""
    return f"{opened.folder}: {opened.count()} rows, {added} of them new{more}{remark}"


def _table_folder(folder: Path) -> Path:
    for table in (folder, folder / TABLE):
        if (table / DESCRIPTION).is_file():
            return table
    raise UserError(
        f"{folder}: no {TABLE} in it: give the output folder of the feature extractor's inference"
    )


def _made_with(table: Path) -> dict[str, Any]:
    try:
        found = json.loads((table / DESCRIPTION).read_text(encoding="utf-8"))
        return {"encoder_sha256": str(found["encoder_sha256"]), "recipe": dict(found["recipe"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{table / DESCRIPTION}: cannot be read: embed the scans anew") from error


def _batches(table: Path, prefix: str, part: Shard) -> Iterator[Any]:
    """Arrow tables of whole scans, of those whose files belong to a part."""
    arrow = require("pyarrow", purpose=PURPOSE, extra="index")
    parquet = require("pyarrow.parquet", purpose=PURPOSE, extra="index")
    waiting: list[Any] = []
    for path in sorted(table.rglob("*.parquet")):
        if path.is_dir() or path.name.startswith((".", "_")):
            continue
        if not part.holds(path.relative_to(table).as_posix()):
            continue
        try:
            rows = parquet.ParquetFile(path).read()
        except (OSError, arrow.ArrowException) as error:
            raise UserError(f"{path}: cannot be read: embed that scan anew") from error
        vectors = rows["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        if not np.isfinite(vectors).all():
            raise UserError(f"{path}: embeddings that are not finite: embed that scan anew")
        waiting.append(_keyed(arrow, rows, prefix))
        if sum(rows.num_rows for rows in waiting) >= BATCH:
            yield arrow.concat_tables(waiting)
            waiting = []
    if waiting:
        yield arrow.concat_tables(waiting)


def _keyed(arrow: Any, rows: Any, prefix: str) -> Any:
    """The columns of the index; a patch is known by its scan and its place to a micrometre."""
    columns = rows.to_pydict() if rows.num_rows == 0 else rows.drop(["embedding"]).to_pydict()
    scans = [prefix + scan for scan in columns["scan"]]
    points = zip(*(columns[axis] for axis in AXES), strict=True)
    keys = [
        f"{scan}|{kind}" + ("" if kind == "scan" else "|" + ",".join(f"{mm:.3f}" for mm in point))
        for scan, kind, point in zip(scans, columns["kind"], points, strict=True)
    ]
    return arrow.table(
        {
            "key": keys,
            "scan": scans,
            "kind": rows["kind"],
            **{axis: rows[axis] for axis in AXES},
            "embedding": rows["embedding"],
        }
    )


def _merge(index: Index, batch: Any, extra: Mapping[str, Mapping[str, Any]]) -> int:
    """Write a batch at once; how many rows were new."""
    merge = index.table.merge_insert("key").when_not_matched_insert_all()
    if extra:
        merge = merge.when_matched_update_all()
        scans = batch["scan"].to_pylist()
        for name in next(iter(extra.values())):
            kind = index.table.schema.field(name).type
            arrow = require("pyarrow", purpose=PURPOSE, extra="index")
            values = [extra.get(scan, {}).get(name) for scan in scans]
            batch = batch.append_column(name, arrow.array(values, kind))
    missing = [name for name in index.metadata if name not in batch.schema.names]
    for name in missing:
        arrow = require("pyarrow", purpose=PURPOSE, extra="index")
        kind = index.table.schema.field(name).type
        batch = batch.append_column(name, arrow.nulls(batch.num_rows, kind))
    schema = index.table.schema
    rows = batch.select(schema.names).cast(schema)  # keys are never null, which the index demands
    done = patiently(lambda: merge.execute(rows), index.folder)
    return int(done.num_inserted_rows)


def _check_known(index: Index, batch: Any) -> None:
    """Two scans of one name would become one."""
    scans = [i for i, kind in enumerate(batch["kind"].to_pylist()) if kind == "scan"]
    wanted = batch.take(scans)
    keys = wanted["key"].to_pylist()
    listed = ", ".join(f"'{quoted(key)}'" for key in keys)
    there = index.rows(["key", "embedding"], f"key IN ({listed})") if keys else None
    if there is None or there.num_rows == 0:
        return
    known = dict(zip(there["key"].to_pylist(), there["embedding"].to_pylist(), strict=True))
    for key, vector in zip(keys, wanted["embedding"].to_pylist(), strict=True):
        if key in known and not _alike(np.array(vector), np.array(known[key])):
            scan = key.removesuffix("|scan")
            raise UserError(
                f"{index.folder}: a scan called {scan} is there with other embeddings: for another "
                "data set that uses the same names add --prefix NAME/"
            )


def _alike(first: Any, second: Any) -> bool:
    scale = max(float(np.abs(first).max()), 1e-12)
    return bool(np.abs(first - second).max() <= SAME * scale)


def _read_metadata(path: Path) -> dict[str, dict[str, Any]]:
    """The user's columns of each scan; a column is of numbers where each cell is spelled as one."""
    table = read_table(path)
    if "scan" not in table.columns:
        raise UserError(f"{path}: no column scan: it names the scans as the embeddings do")
    scans = table.column("scan", "--metadata")
    twice = [name for name, count in Counter(scans).items() if count > 1]
    if twice:
        raise UserError(
            f"{path}: scan {twice[0]} comes {scans.count(twice[0])} times: keep one row"
        )
    columns: dict[str, list[Any]] = {}
    for name in table.columns:
        if name == "scan":
            continue
        if name in RESERVED or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name or ""):
            raise UserError(f"{path}: column {name!r}: give it another name, as age_years")
        columns[name] = numbers_or_text(table.column(name, "--metadata"), f"{path}: column {name}")
    rows = zip(*columns.values(), strict=True) if columns else ([] for _ in scans)
    return {
        scan: dict(zip(columns, row, strict=True)) for scan, row in zip(scans, rows, strict=True)
    }


def _add_columns(index: Index, extra: Mapping[str, Mapping[str, Any]]) -> None:
    """Columns that the index lacks; those that it has keep their type."""
    if not extra:
        return
    for name in next(iter(extra.values())):
        values = [row[name] for row in extra.values()]
        kind = "string" if any(isinstance(value, str) for value in values) else "double"
        if name not in index.metadata:
            _add_column(index, name, kind)
        if str(index.table.schema.field(name).type) != kind:
            raise UserError(
                f"{index.folder}: column {name} is {index.table.schema.field(name).type}, and "
                f"{kind} in the CSV: give it another name"
            )


def _add_column(index: Index, name: str, kind: str) -> None:
    try:
        index.table.add_columns({name: f"cast(null as {kind})"})
    except (RuntimeError, ValueError, OSError):
        index.refresh()
        if name not in index.metadata:  # no other process has added it meanwhile
            raise


def _missing(index: Index, extra: Mapping[str, Any]) -> int:
    """Scans of the CSV that are not in the index."""
    known = index.rows(["scan"], "kind = 'scan'")["scan"].to_pylist() if extra else []
    return len(extra.keys() - {*known})

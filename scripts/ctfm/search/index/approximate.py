"""The approximate index, made by one process, or by many: each its segment, and one makes it known.

Segments are made of fragments, the files that `ctfm index add` wrote batch by batch. A segment's
note in the index's folder says that it is there; whoever finds the notes of all adds the segments
to the index at once. Nobody waits, and a part that was killed is made again.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ctfm.base.errors import UserError
from ctfm.base.files import atomic_path
from ctfm.base.optional import require
from ctfm.base.sharding import Shard, find_shard
from ctfm.search.index.index import ANN_INDEX, LEAST_ROWS, PURPOSE, TABLE, Index, ann_parameters
from ctfm.search.index.retrying import patiently

__all__ = ["build_index"]

#: Folder of the notes.
SEGMENTS = "segments"


def build_index(folder: str, shard: int | None = None, shards: int | None = None) -> str:
    """Make the approximate index anew, over all rows.

    Args:
        folder: of the index.
        shard: which part of the rows this process takes, from 0; None: as its launcher says.
        shards: parts in all; None: as many as processes were launched. 1: all rows in one, with
            small files put together before.

    Returns:
        What was done, in a line.

    Raises:
        UserError: there is no index, it has too few rows, or pylance is missing for several parts.
    """
    part, index = find_shard(shard, shards), Index(folder)
    start = time.perf_counter()
    if part.count > 1:
        return _build_part(index, part)
    patiently(index.table.optimize, index.folder)
    index.build_ann()
    took = f"in {time.perf_counter() - start:.1f} s"
    return f"{index.folder}: approximate index of {index.count()} rows {took}"


def _build_part(index: Index, part: Shard) -> str:
    lance = require("lance", purpose="make an index in several parts", extra="index-shards")
    dataset = lance.dataset(str(index.folder / f"{TABLE}.lance"))
    rows = {one.fragment_id: one.count_rows() for one in dataset.get_fragments()}
    mine = sorted(rows)[part.index :: part.count]
    note = _note(index, part)
    if _read(note) is None or _read(note)["fragments"] != mine:
        segment = _make(dataset, index, mine, sum(rows[number] for number in mine))
        document = {"fragments": mine, "segment": segment}
        with atomic_path(note) as temporary:
            temporary.write_text(json.dumps(document), encoding="utf-8")
    done = f"{index.folder}: {part}, {sum(rows[number] for number in mine)} rows"
    notes = [_read(_note(index, Shard(i, part.count))) for i in range(part.count)]
    there = [one for one in notes if one is not None and {*one["fragments"]} <= rows.keys()]
    if len(there) < part.count:
        return f"{done}; {len(there)} of {part.count} parts are there, the last one ends the build"
    _publish(dataset, [one["segment"] for one in there if one["segment"]], index)
    for number in range(part.count):
        with suppress(OSError):  # two that are last at the same moment
            _note(index, Shard(number, part.count)).unlink()
    with suppress(OSError):
        (index.folder / SEGMENTS).rmdir()
    index.refresh()
    index.build_kinds()
    return f"{done}; it was the last: the approximate index is there"


def _make(dataset: Any, index: Index, fragments: list[int], rows: int) -> dict[str, Any] | None:
    """Make a segment; None: too few rows, which are then searched exactly."""
    if rows < LEAST_ROWS:
        return None
    parameters = ann_parameters(rows, index.dimension)
    metric = parameters.pop("distance_type")
    made = dataset.create_index_uncommitted(
        "embedding",
        "IVF_PQ",
        name=ANN_INDEX,
        metric=metric,
        replace=True,
        fragment_ids=fragments,
        max_iters=10,
        **parameters,
    )
    kind, details = made.index_details
    return {
        "uuid": made.uuid,
        "name": made.name,
        "fields": list(made.fields),
        "dataset_version": made.dataset_version,
        "fragment_ids": [int(number) for number in made.fragment_ids],
        "index_version": made.index_version,
        "files": [{"path": file.path, "size_bytes": file.size_bytes} for file in made.files],
        "index_details": [kind, base64.b64encode(details).decode("ascii")],
    }


def _publish(dataset: Any, segments: list[Mapping[str, Any]], index: Index) -> None:
    if not segments:
        raise UserError(
            f"{index.folder}: too few rows for an approximate index: searches are exact without it"
        )
    kinds = require("lance.dataset", purpose=PURPOSE, extra="index-shards")
    found = []
    for one in segments:
        kind, details = one["index_details"]
        files = [kinds.IndexFile(**file) for file in one["files"]]
        rest = {"files": files, "index_details": (kind, base64.b64decode(details))}
        found.append(kinds.Index(**{**one, **rest}))
    patiently(
        lambda: dataset.commit_existing_index_segments(ANN_INDEX, "embedding", found), index.folder
    )


def _note(index: Index, part: Shard) -> Path:
    return index.folder / SEGMENTS / f"{part.index}-of-{part.count}.json"


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None

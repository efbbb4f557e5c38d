"""`ctfm search`: scans like a scan, or places like a place, as table, JSON and pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctfm.base.errors import UserError
from ctfm.base.tables import align, write_json, write_records
from ctfm.base.types import Array
from ctfm.embedding.embedder import Embedder
from ctfm.imaging.grids import world
from ctfm.imaging.scans import find_scans, read_scan
from ctfm.pictures.sheet import Tile, draw_sheet
from ctfm.search.index.index import Index
from ctfm.search.index.searching import Hit, Searcher, merge_hits

__all__ = ["search_scan"]

#: Hits that are drawn.
DRAWN = 6


def search_scan(
    query: str,
    index: Sequence[str],
    k: int = 10,
    where: str | None = None,
    point: Any = None,
    voxel: Any = None,
    checkpoint: str | None = None,
    scans: str | None = None,
    out: str = "search",
    same_scan: bool = False,
    device: str | None = None,
    input_check: str = "error",
) -> str:
    """Find scans like a scan, or patches like the one around a place.

    Args:
        query: a scan file or DICOM series, or the name of a scan that is in the index.
        index: folders of indexes made with one encoder and recipe: shards of one.
        k: hits.
        where: SQL condition on the columns of the index.
        point: x,y,z in mm, RAS+: similar places are looked for.
        voxel: the same, i,j,k of the stored array.
        checkpoint: the index's encoder, for a query that is a file.
        scans: folder of the scans in the index, for pictures of the hits.
        out: folder for hits.csv, hits.json and hits.png.
        same_scan: hits of the query's own scan count, where it is in the index.
        device: such as cuda:0; None: a GPU if there is one.
        input_check: what to do about values that are no CT's: error, warn or off.

    Returns:
        The hits as a table.

    Raises:
        UserError: the query, an index or an option is not usable.
    """
    opened = [Index(folder) for folder in index]
    if not opened:
        raise UserError("no index is given: add --index DIR")
    for other in opened[1:]:
        opened[0].check_same(other.description)
    vector, place, own = _embed(query, opened, (point, voxel), checkpoint, device, input_check)
    kind = "scan" if place is None else "patch"
    wanted = _conditions(where, None if same_scan else own)
    hits = merge_hits([_hits(one, kind, wanted, vector, k) for one in opened], k)
    if not hits:
        raise UserError(f"{', '.join(index)}: no {kind} in the index but the query's own")
    folder = Path(out).expanduser()
    _write(folder, hits, query, place)
    drawn = _draw(folder, hits, query, place, scans)
    lines = [["scan", "similarity", "x mm", "y mm", "z mm"], *map(_line, hits)]
    return "\n".join([*align(lines), f"written to {folder}{drawn}"])


def _embed(
    query: str,
    indexes: Sequence[Index],
    places: tuple[Any, Any],
    checkpoint: str | None,
    device: str | None,
    input_check: str,
) -> tuple[Array, Array | None, str | None]:
    """Embedding, place in mm if one is given, and the name of the scan if it is in the index."""
    given = [one for one in places if one is not None]
    if Path(query).expanduser().exists():
        if checkpoint is None:
            raise UserError("a scan needs the index's encoder: add --checkpoint FILE")
        embedder = Embedder.load(str(checkpoint), indexes[0].description["recipe"], device)
        made_with = {**indexes[0].description, "encoder_sha256": embedder.fingerprint}
        indexes[0].check_same(made_with)
        image = embedder.read(query, input_check)
        if not given:
            return embedder.pooled(embedder.windows(image)[0]), None, None
        place = _place(query, *places)
        return embedder.at(image, place[None])[0], place, None
    if given:
        raise UserError(f"{query}: no such file: a place needs the scan itself")
    name = query.replace("'", "''")
    for one in indexes:
        rows = one.rows(["embedding"], f"kind = 'scan' AND scan = '{name}'")
        if rows.num_rows:
            return np.array(rows["embedding"].to_pylist()[0], np.float32), None, query
    raise UserError(
        f"{query}: neither a file nor a scan of the index: `ctfm index info` tells more"
    )


def _place(query: str, point: Any, voxel: Any) -> Array:
    if point is not None and voxel is not None:
        raise UserError("point and voxel are given: choose one")
    value = point if point is not None else voxel
    numbers = value if isinstance(value, list | tuple) else [value]
    if len(numbers) != 3 or not all(isinstance(n, int | float) for n in numbers):
        raise UserError(f"the place is {value}: give three numbers with commas, as 10,-20,300")
    place = np.asarray(numbers, dtype=float)
    if voxel is None:
        return place
    affine = np.asarray(read_scan(query).affine, dtype=float)
    there: Array = world(affine, place[None])[0]
    return there


def _conditions(where: str | None, own: str | None) -> str | None:
    name = (own or "").replace("'", "''")
    parts = [f"({where})"] if where else []
    parts += [f"scan <> '{name}'"] if own else []
    return " AND ".join(parts) or None


def _hits(index: Index, kind: str, where: str | None, vector: Array, k: int) -> list[Hit]:
    condition = f"kind = '{kind}'" + (f" AND ({where})" if where else "")
    if index.count(condition) == 0:  # a shard may have none
        return []
    return Searcher(index, kind, where).search(vector, k)


def _line(hit: Hit) -> list[str]:
    place = hit.point_mm or ("", "", "")
    return [hit.scan, f"{hit.similarity:.4f}", *(f"{v:.1f}" if v != "" else "" for v in place)]


def _write(folder: Path, hits: Sequence[Hit], query: str, place: Array | None) -> None:
    rows = [
        {
            "scan": hit.scan,
            "similarity": hit.similarity,
            **dict(zip(("x_mm", "y_mm", "z_mm"), hit.point_mm or (None,) * 3, strict=True)),
            **hit.metadata,
        }
        for hit in hits
    ]
    write_records(folder / "hits.csv", rows)
    document = {"query": query, "point_mm": None if place is None else place.tolist(), "hits": rows}
    write_json(folder / "hits.json", document)


def _draw(
    folder: Path, hits: Sequence[Hit], query: str, place: Array | None, scans: str | None
) -> str:
    """Draw the query and the hits whose files are found; what to say of it."""
    if scans is None:
        return "; --scans FOLDER adds a picture"
    paths = {row["name"]: row["image"] for row in find_scans(scans)}
    tiles = []
    first = query if Path(query).expanduser().exists() else paths.get(query)
    if first is not None:
        tiles.append(Tile("query", str(first), place))
    for hit in hits[:DRAWN]:
        path = paths.get(hit.scan) or paths.get(re.sub(r"^[^/]*/", "", hit.scan))
        if path is not None:
            point = None if hit.point_mm is None else np.asarray(hit.point_mm)
            tiles.append(Tile(f"{hit.scan}   {hit.similarity:.4f}", path, point))
    if not tiles:
        return f"; no picture, for no scan of {scans} is called as a hit is"
    draw_sheet(tiles, folder / "hits.png")
    return ""

"""`ctfm search`: scans like a scan, or places like a place, as table, JSON and pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ctfm.base.errors import UserError
from ctfm.base.tables import align, write_json, write_records
from ctfm.base.types import Array
from ctfm.imaging.grids import voxels_to_mm
from ctfm.imaging.listing import find_scans
from ctfm.pictures.sheet import Tile, draw_sheet
from ctfm.search.index.index import AXES, Index, quoted
from ctfm.search.index.searching import Hit, Searcher, load_encoder, merge_hits, open_indexes
from ctfm.search.locating.locations import PreparedScan, read_prepared, triple
from ctfm.search.options import PointOptions, SearchEncoder

__all__ = ["search_scan"]

#: Hits that are drawn.
DRAWN = 6
LOCATION, ENCODER = PointOptions(), SearchEncoder()


def search_scan(
    query: str,
    index: Sequence[str],
    k: int = 10,
    where: str | None = None,
    location: PointOptions = LOCATION,
    encoder: SearchEncoder = ENCODER,
    scans: str | None = None,
    out: str = "search",
    same_scan: bool = False,
) -> str:
    """Find scans like a scan, or patches like the one around a place.

    Args:
        query: a scan file or DICOM series, or the name of a scan that is in the index.
        index: folders of indexes made with one encoder and recipe: shards of one.
        k: hits.
        where: SQL condition on the columns of the index.
        location: where it is given, similar places are looked for.
        encoder: the index's, for a query that is a file.
        scans: folder of the scans in the index, for pictures of the hits.
        out: folder for hits.csv, hits.json and hits.png.
        same_scan: hits of the query's own scan count, where it is in the index.

    Returns:
        The hits as a table.

    Raises:
        UserError: the query, an index or an option is not usable.
    """
    opened = open_indexes(index)
    vector, point, own = _embed(query, opened, location, encoder)
    kind = "scan" if point is None else "patch"
    condition = _conditions(where, None if same_scan else own)
    hits = merge_hits([_hits(one, kind, condition, vector, k) for one in opened], k)
    if not hits:
        raise UserError(f"{', '.join(index)}: no {kind} in the index but the query's own")
    folder = Path(out).expanduser()
    _write(folder, hits, query, point)
    drawn = _draw(folder, hits, query, point, scans)
    lines = [["scan", "similarity", "x mm", "y mm", "z mm"], *map(_line, hits)]
    return "\n".join([*align(lines), f"written to {folder}{drawn}"])


def _embed(
    query: str, indexes: Sequence[Index], location: PointOptions, encoder: SearchEncoder
) -> tuple[Array, Array | None, str | None]:
    """Embedding, location in mm if one is given, and the scan's name if it is in the index."""
    located = location != LOCATION
    if Path(query).expanduser().exists():
        embedder = load_encoder(indexes[0], encoder)
        scan = read_prepared(embedder, query, None, encoder.input_check)
        if not located:
            return embedder.pooled(embedder.windows(scan.image)[0]), None, None
        point = _point(scan, location)
        return embedder.at(scan.image, point[None])[0], point, None
    if located:
        raise UserError(f"{query}: no such file: a place needs the scan itself")
    for one in indexes:
        rows = one.rows(["embedding"], f"kind = 'scan' AND scan = '{quoted(query)}'")
        if rows.num_rows:
            return np.array(rows["embedding"].to_pylist()[0], np.float32), None, query
    raise UserError(
        f"{query}: neither a file nor a scan of the index: `ctfm index info` tells more"
    )


def _point(scan: PreparedScan, location: PointOptions) -> Array:
    """In mm; it may lie beyond the scan's edge, where windows reach too."""
    if location.point is not None and location.voxel is not None:
        raise UserError("point and voxel are given: choose one")
    if location.voxel is None:
        return triple(location.point)
    point: Array = voxels_to_mm(scan.affine, triple(location.voxel)[None])[0]
    return point


def _conditions(where: str | None, own: str | None) -> str | None:
    parts = [f"({where})"] if where else []
    parts += [f"scan <> '{quoted(own)}'"] if own else []
    return " AND ".join(parts) or None


def _hits(index: Index, kind: str, where: str | None, vector: Array, k: int) -> list[Hit]:
    condition = f"kind = '{kind}'" + (f" AND ({where})" if where else "")
    if index.count(condition) == 0:  # a shard may have none
        return []
    return Searcher(index, kind, where).search(vector, k)


def _line(hit: Hit) -> list[str]:
    point = hit.point_mm or ("", "", "")
    return [hit.scan, f"{hit.similarity:.4f}", *(f"{v:.1f}" if v != "" else "" for v in point)]


def _write(folder: Path, hits: Sequence[Hit], query: str, point: Array | None) -> None:
    rows = [
        {
            "scan": hit.scan,
            "similarity": hit.similarity,
            **dict(zip(AXES, hit.point_mm or (None,) * 3, strict=True)),
            **hit.metadata,
        }
        for hit in hits
    ]
    write_records(folder / "hits.csv", rows)
    document = {"query": query, "point_mm": None if point is None else point.tolist(), "hits": rows}
    write_json(folder / "hits.json", document)


def _draw(
    folder: Path, hits: Sequence[Hit], query: str, point: Array | None, scans: str | None
) -> str:
    """Draw the query and the hits whose files are found; what to say of it."""
    if scans is None:
        return "; --scans FOLDER adds a picture"
    paths = {row["name"]: row["image"] for row in find_scans(scans)}
    tiles = []
    first = query if Path(query).expanduser().exists() else paths.get(query)
    if first is not None:
        tiles.append(Tile("query", str(first), point))
    for hit in hits[:DRAWN]:
        path = paths.get(hit.scan) or paths.get(re.sub(r"^[^/]*/", "", hit.scan))
        if path is not None:
            centre = None if hit.point_mm is None else np.asarray(hit.point_mm)
            tiles.append(Tile(f"{hit.scan}   {hit.similarity:.4f}", path, centre))
    if not tiles:
        return f"; no picture, for no scan of {scans} is called as a hit is"
    draw_sheet(tiles, folder / "hits.png")
    return ""

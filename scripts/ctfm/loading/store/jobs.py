"""The work of a build: which scans, which files, and what their content is."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctfm.base.errors import UserError
from ctfm.base.files import sha256
from ctfm.datalists.datalist import PARTS
from ctfm.imaging.listing import find_scans
from ctfm.loading.store.index import Entry
from ctfm.loading.store.recipe import StoreRecipe

__all__ = ["Job", "Source", "content_key", "find_jobs", "sources_of"]

#: Size in bytes, modification time in ns, SHA-256.
Source = tuple[int, int, str]

#: Line of a header that names the file with the voxels; LOCAL: they follow in the same file.
VOXEL_FILE = re.compile(rb"^(?:ElementDataFile\s*=|data ?file:)[ \t]*(.+?)\s*$", re.I | re.M)


@dataclass(frozen=True)
class Job:
    """A scan to convert.

    Attributes:
        name: what it is called: its path in the datalist.
        split: list that it is in.
        image: file or DICOM folder.
        label: file; None: none.
        known: source file -> size, modification time and hash, as the last build noted them.
        extra: other values of its row.
    """

    name: str
    split: str
    image: str
    label: str | None
    known: Mapping[str, Source]
    extra: Mapping[str, Any]


def find_jobs(
    source: str, base_dir: str | None, out: Path, entries: Mapping[tuple[str, str], Entry]
) -> Iterator[Job]:
    """The scans of a datalist, a folder, a file or a pattern.

    Args:
        source: datalist (JSON), or what `ctfm.imaging.scans.find_scans` takes.
        base_dir: folder that the datalist's paths are relative to; None: its own.
        out: folder of the store; nothing in it is taken for a scan.
        entries: rows of an earlier build, by list and name.

    Raises:
        UserError: no datalist, or nothing is found.
    """
    seen: dict[tuple[str, str], dict[str, Any]] = {}
    for split, name, row in _rows(source, base_dir, out):
        if seen.setdefault((split, name), row) != row:
            raise UserError(f"{source}: {name} is listed twice in {split}, not alike: keep one row")
        known = entries.get((split, name))
        label = row.get("label")
        is_file = isinstance(label, str)
        yield Job(
            name=name,
            split=split,
            image=row["image"],
            label=label if is_file else None,
            known=known.sources if known else {},
            extra={k: v for k, v in row.items() if k != "image" and not (k == "label" and is_file)},
        )


def _rows(
    source: str, base_dir: str | None, out: Path
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """List, name and row of each scan; paths are absolute, names as the datalist has them."""
    path = Path(source)
    if path.suffix != ".json":
        for row in find_scans(source, output_dir=str(out)):
            yield "training", row["name"], {"image": str(Path(row["image"]).absolute())}
        return
    base = Path(base_dir if base_dir is not None else path.parent).absolute()
    content = _datalist(path)
    for split in PARTS:
        for listed in content.get(split) or ():
            row = {"image": listed} if isinstance(listed, str) else listed
            paths = {
                k: str(base / row[k]) for k in ("image", "label") if isinstance(row.get(k), str)
            }
            yield split, row["image"], {**row, **paths}


def _datalist(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such datalist: make one with `ctfm datalist`")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for split in PARTS:
            if not isinstance(content.get(split) or [], list):
                raise TypeError(split)
            for row in content.get(split) or ():
                if not isinstance(row if isinstance(row, str) else row["image"], str):
                    raise TypeError(row)
    except (ValueError, AttributeError, LookupError, TypeError) as error:
        raise UserError(
            f"{path}: not a datalist: lists {', '.join(PARTS)} of objects with an image, one path"
        ) from error
    return dict(content)


def sources_of(job: Job) -> dict[str, Source]:
    """Each source file of a scan with its content's hash.

    Raises:
        UserError: a file is missing.
    """
    return {path: _source(path, job.known.get(path)) for path in _files(job)}


def _files(job: Job) -> list[str]:
    """Source files: the image's, all of a DICOM folder's, and the label's."""
    paths = [Path(path) for path in (job.image, job.label) if path]
    return [str(file) for path in paths for file in _parts(path)]


def _parts(path: Path) -> list[Path]:
    """A file, with the voxels that its header keeps elsewhere; or the files of a folder."""
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.is_file())
    if path.suffix.lower() not in (".mhd", ".nhdr") or not path.is_file():
        return [path]
    named = VOXEL_FILE.search(path.read_bytes()[:100_000])
    if not named or named[1].upper() == b"LOCAL":
        return [path]
    voxels = path.parent / named[1].decode(errors="surrogateescape")
    if voxels.is_file():
        return [path, voxels]
    others = (p for p in path.parent.iterdir() if p.is_file() and p != path)
    return [path, *sorted(others)]  # a file a slice, by a pattern or a list


def _source(path: str, known: Source | None) -> Source:
    """Size, time and hash; the hash is taken over where size and time are as they were."""
    try:
        stat = Path(path).stat()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: check the datalist and --base_dir") from error
    if known and known[:2] == (stat.st_size, stat.st_mtime_ns):
        return known
    return stat.st_size, stat.st_mtime_ns, sha256(path)


def content_key(job: Job, sources: Mapping[str, Source], made_by: StoreRecipe) -> str:
    """The same for the same content, whatever the files are called."""
    hashes = [sources[path][2] for path in _files(job)]
    text = json.dumps([made_by.digest, hashes, job.label is not None])
    return hashlib.sha256(text.encode()).hexdigest()[:32]

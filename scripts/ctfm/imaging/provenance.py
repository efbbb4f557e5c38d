"""What made a result, so that a finished one is known by more than its name."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ctfm.base.files import sha256, walk_folders
from ctfm.imaging.file_names import RESULT_SUFFIX
from ctfm.imaging.listing import REFUSED

__all__ = ["MADE_BY", "Provenance", "made_by", "select", "source_identity", "unfinished"]

logger = logging.getLogger(__name__)

#: Key of a result's JSON under which its provenance stands.
MADE_BY = "made_by"
Record = dict[str, Any]


class Provenance:
    """The weights and settings that make a run's results.

    Args:
        checkpoint: file of the weights; None: there is none.
        settings: what decides the results, as JSON has it.
        outputs: further files that are written where True, such as {"preview": True}.
        loaded: False: the network keeps its random weights, whatever `checkpoint` is.
    """

    def __init__(
        self,
        checkpoint: str | None = None,
        settings: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
        loaded: bool = True,
    ) -> None:
        self.checkpoint = checkpoint if loaded else None
        self.settings = json.loads(json.dumps(dict(settings or {}), default=str))
        self.outputs = {name: bool(value) for name, value in (outputs or {}).items()}

    @cached_property
    def weights(self) -> Record | None:
        """Name and sha256 of the weights; None where there are none."""
        if self.checkpoint is None or not Path(self.checkpoint).is_file():
            return None
        return {"file": Path(self.checkpoint).name, "sha256": sha256(self.checkpoint)}

    def of(self, source: str) -> Record:
        """What a result of this scan records.

        Args:
            source: file, or folder of a DICOM series.
        """
        return {
            "source": source_identity(source),
            "weights": self.weights,
            "settings": self.settings,
            "outputs": self.outputs,
        }

    def made(self, record: Mapping[str, Any]) -> bool:
        """Whether a result was made with these weights and settings, and has all outputs."""
        digests = [one and one.get("sha256") for one in (record.get("weights"), self.weights)]
        there = record.get("outputs", {})
        return (
            digests[0] == digests[1]
            and record.get("settings") == self.settings
            and all(there.get(name) for name, on in self.outputs.items() if on)
        )


def source_identity(source: str) -> Record:
    """Where a scan lies, how large it is, and when it was changed.

    Args:
        source: file, or folder of a DICOM series.
    """
    path = Path(source).resolve()
    files = [path]
    if path.is_dir():
        files = [path / name for _, names in [next(walk_folders(path))] for name in names]
    states = [file.stat() for file in files]
    return {
        "path": str(path),
        "bytes": sum(state.st_size for state in states),
        "modified_ns": max((state.st_mtime_ns for state in states), default=0),
    }


def made_by(path: Path) -> Record | None:
    """The provenance that a result's JSON records; None where there is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8")).get(MADE_BY)
    except (OSError, ValueError, AttributeError):
        return None
    return record if isinstance(record, dict) else None


def unfinished(
    scans: Sequence[Mapping[str, Any]],
    provenance: Provenance,
    output_dir: str,
    overwrite: bool = False,
    result_suffix: str = RESULT_SUFFIX,
    record_suffix: str = "_seg.json",
) -> list[Record]:
    """The scans that a run has to process: a `_target_` for configs, see `select`.

    Args:
        scans: rows of `ctfm.imaging.find_scans`.
        provenance: of the run.
        output_dir: folder of the results.
        overwrite: process all scans, whatever lies there.
        result_suffix: what the file that is written last is called after NAME.
        record_suffix: the same of the JSON that records what made it.
    """

    def look(name: str) -> tuple[Path, Record | None]:
        base = Path(output_dir) / name
        record = made_by(base.with_name(f"{base.name}{record_suffix}"))
        return base.with_name(f"{base.name}{result_suffix}"), record

    return select(scans, provenance, look, overwrite)


def select(
    scans: Sequence[Mapping[str, Any]],
    provenance: Provenance,
    look: Callable[[str], tuple[Path, Record | None]],
    overwrite: bool = False,
    key: str = "image",
) -> list[Record]:
    """The scans that a run has to process.

    A result counts as finished where the same source, weights and settings made it. One of other
    weights or settings, or of a source that has changed since, is made again. One of another
    source, or of a source that is not known, is left alone: the row has the item `REFUSED`.

    Args:
        scans: rows of `ctfm.imaging.find_scans`.
        provenance: of the run.
        look: from a name to the result, and what it records.
        overwrite: process all scans, whatever lies there.
        key: item with the scan's path.
    """
    if overwrite:
        return [dict(row) for row in scans]
    rows, again = [], 0
    for row in scans:
        file, record = look(str(row["name"]))
        if REFUSED in row or not file.exists():
            rows.append(dict(row))
            continue
        reason = _another_source(record, str(row[key]), file)
        if reason is not None:
            rows.append({**row, REFUSED: reason})
        elif record is None or not _is_current(record, provenance, str(row[key])):
            again += 1
            rows.append(dict(row))
    if again:
        logger.info("%d finished scans are done again: other weights, settings or outputs", again)
    return rows


def _another_source(record: Record | None, source: str, file: Path) -> str | None:
    """Why a result must not be replaced."""
    remedy = "choose another output folder, or replace it by --overwrite true"
    if record is None:
        return f"{file} is there, and does not say which scan it was made of: {remedy}"
    there, here = record["source"], source_identity(source)
    moved = (there.get("bytes"), there.get("modified_ns")) == (here["bytes"], here["modified_ns"])
    if there.get("path") == here["path"] or moved:
        return None
    return f"{file} was made of another scan, {there.get('path')}: {remedy}"


def _is_current(record: Record, provenance: Provenance, source: str) -> bool:
    there, here = record["source"], source_identity(source)
    same = all(there.get(name) == here[name] for name in ("bytes", "modified_ns"))
    return same and provenance.made(record)

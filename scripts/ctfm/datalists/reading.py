"""Datalists as configs read them: absolute paths, checked before a training starts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from ctfm.datalists.datalist import nested_subset
from ctfm.errors import UserError

__all__ = ["few_shot", "read_datalist"]

Row = dict[str, Any]
PATHS = ("image", "label")


def read_datalist(path: str, split: str, base_dir: str) -> list[Row]:
    """One list of a datalist in the Decathlon layout, its paths made absolute.

    Args:
        path: datalist (JSON).
        split: "training", "validation" or "test".
        base_dir: folder that the datalist's paths are relative to.

    Raises:
        UserError: the datalist is missing or no datalist, has no such list, or files that it
            names are not there.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(
            f"{path}: no such datalist: make one with `ctfm datalist totalsegmentator --root DIR "
            f"--out {path}`, or pass --datalist FILE and --dataset_dir DIR"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        rows = content[split]
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    except (KeyError, TypeError):
        lists = [k for k, v in content.items() if isinstance(v, list)] if content else []
        raise UserError(
            f"{path}: has no list {split!r} (it has {', '.join(lists) or 'none'}): "
            "make it again with these cases, or choose another split"
        ) from None
    found = [_absolute(row, Path(base_dir)) for row in rows]
    missing = [row[k] for row in found for k in PATHS if k in row and not Path(row[k]).exists()]
    if missing:
        raise UserError(
            f"{path}: {len(missing)} files of list {split!r} are not there (first: {missing[0]}): "
            "pass --dataset_dir, the folder that the datalist's paths are relative to"
        )
    return found


def _absolute(row: Mapping[str, Any], base: Path) -> Row:
    return {**row, **{key: str(base / row[key]) for key in PATHS if key in row}}


def few_shot(rows: Sequence[Row], scans: float, seed: int = 0) -> list[Row]:
    """Some of the rows, so that a smaller choice lies within every larger one.

    Args:
        rows: a training list.
        scans: how many (20), or below 1 which share (0.05).
        seed: another seed gives another choice.

    Raises:
        UserError: more rows are asked for than there are.
    """
    names = _subjects(rows)
    if isinstance(scans, float) and scans < 1:
        chosen = nested_subset(names, fraction=scans, seed=seed)
    else:
        chosen = nested_subset(names, scans=int(scans), seed=seed)
    return [names[name] for name in chosen]


def _subjects(rows: Sequence[Row]) -> dict[str, Row]:
    """Name the rows as `ctfm datalist` does, by folder where each scan has its own."""
    paths = [PurePath(row["image"]) for row in rows]
    folders = [path.parent.name for path in paths]
    names = folders if len(set(folders)) == len(rows) else ["/".join(p.parts[-2:]) for p in paths]
    return dict(zip(names, rows, strict=True))

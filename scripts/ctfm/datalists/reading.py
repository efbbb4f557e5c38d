"""Datalists as configs read them: absolute paths, checked before a training starts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from ctfm.base.errors import UserError
from ctfm.datalists.datalist import nested_subset

__all__ = ["Row", "few_shot", "read_datalist", "read_lists", "with_absolute_paths"]

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
    lists = read_lists(path)
    if split not in lists:
        raise UserError(
            f"{path}: has no list {split!r} (it has {', '.join(lists) or 'none'}): "
            "make it again with these cases, or choose another split"
        )
    return with_absolute_paths(lists[split], path, split, Path(base_dir).absolute())


def read_lists(path: str) -> dict[str, list[Row]]:
    """All lists of a datalist that hold something, by their names.

    Raises:
        UserError: the datalist is missing or no datalist.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(
            f"{path}: no such datalist: make one with `ctfm datalist` (ct for any scans, "
            "totalsegmentator, …), or pass --datalist FILE and --dataset_dir DIR"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UserError(f"{path}: not a datalist: it holds {kind}, not an object with lists")
    return {name: rows for name, rows in content.items() if rows and isinstance(rows, list)}


def with_absolute_paths(rows: Sequence[Any], path: str, split: str, base: Path) -> list[Row]:
    """Rows with absolute paths, once all files are there; a label may also be a number.

    Args:
        rows: of a list.
        path: of the datalist, for messages.
        split: name of the list, for messages.
        base: folder that the rows' paths are relative to.

    Raises:
        UserError: a row has no image, or a file is not there.
    """
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not row.get("image") or not isinstance(row["image"], str):
            raise UserError(
                f"{path}: entry {number} of list {split!r} is {row!r}: give an object with the "
                "path of an image"
            )
    files = [{key: str(base / row[key]) for key in PATHS if _is_path(row, key)} for row in rows]
    missing = [file for row in files for file in row.values() if not Path(file).exists()]
    if missing:
        raise UserError(
            f"{path}: {len(missing)} files of list {split!r} are not there (first: {missing[0]}): "
            "pass --dataset_dir, the folder that the datalist's paths are relative to "
            "(commands of ctfm call it --base_dir)"
        )
    return [{**row, **paths} for row, paths in zip(rows, files, strict=True)]


def _is_path(row: Row, key: str) -> bool:
    return isinstance(row.get(key), str)


def few_shot(rows: Sequence[Row], scans: float, seed: int = 0) -> list[Row]:
    """Some of the rows, so that a smaller choice lies within every larger one.

    Args:
        rows: a training list.
        scans: how many (20), or below 1 which share (0.05).
        seed: another seed gives another choice.

    Raises:
        UserError: more rows are asked for than there are, or an image is listed twice.
    """
    names = _subjects(rows)
    if isinstance(scans, float) and scans < 1:
        chosen = nested_subset(names, fraction=scans, seed=seed)
    else:
        whole: Any = int(scans) if scans == int(scans) else scans  # 2.5 scans are refused
        chosen = nested_subset(names, scans=whole, seed=seed)
    return [names[name] for name in chosen]


def _subjects(rows: Sequence[Row]) -> dict[str, Row]:
    """Name the rows as `ctfm datalist` does, by folder where each scan has its own.

    Otherwise by file and as many folders above it as tell the scans apart.
    """
    paths = [PurePath(row["image"]) for row in rows]
    depths = range(2, max([2, *(len(path.parts) for path in paths)]) + 1)
    by_file = (["/".join(path.parts[-depth:]) for path in paths] for depth in depths)
    for names in ([path.parent.name for path in paths], *by_file):
        if len(set(names)) == len(rows):
            return dict(zip(names, rows, strict=True))
    twice = next(path for path in paths if paths.count(path) > 1)
    raise UserError(f"{twice} is listed twice: make the datalist again")

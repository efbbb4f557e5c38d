"""Lists of labelled scans in folds, and whether their labels are those that a task has."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctfm.base.errors import UserError
from ctfm.base.workers import in_processes
from ctfm.datalists.datalist import PARTS, list_of, refuse
from ctfm.datalists.pairs import Pair, examine_pair
from ctfm.datalists.reading import Row, read_lists, with_absolute_paths
from ctfm.imaging.file_names import NIFTI

__all__ = ["check_labels", "read_fold"]

#: What torchrun tells each process: one alone has to look at the labels.
RANK = "RANK"


def read_fold(
    path: str,
    split: str,
    base_dir: str,
    fold: int | None = None,
    class_names: Sequence[str] | None = None,
) -> list[Row]:
    """One list of a datalist with folds: one fold validates, the others train.

    Where no row is in a fold, the datalist's own lists are taken.

    Args:
        path: datalist (JSON), such as `ctfm datalist msd` writes.
        split: "training", "validation" or "test".
        base_dir: folder that the datalist's paths are relative to.
        fold: the fold that validates; None: the datalist's own lists.
        class_names: of the label values 1, 2, …; a datalist of other classes is refused. None: it
            is not looked at.

    Returns:
        Rows with absolute paths, each with a label.

    Raises:
        UserError: the datalist is missing or no datalist, has other classes, no such fold or no
            rows in the list, or files that it names are not there.
    """
    lists = read_lists(path)
    if class_names is not None:
        _check_classes(path, class_names)
    rows = [(part, row) for part in PARTS for row in lists.get(part, ())]
    folds = sorted({mark for _, row in rows if (mark := _fold_of(row)) is not None})
    if fold is not None and folds and fold not in folds:
        raise UserError(
            f"{path}: no scan is in fold {fold!r} (there are {', '.join(map(str, folds))}): choose "
            "one of these"
        )
    chosen = [row for part, row in rows if list_of(part, _fold_of(row), fold) == split]
    if not chosen:
        raise UserError(
            f"{path}: has no list {split!r} (it has {', '.join(lists) or 'none'}, and "
            f"{len(folds) or 'no'} folds): make it again with folds, or choose another split"
        )
    found = with_absolute_paths(chosen, path, split, Path(base_dir).absolute())
    if bare := [row["image"] for row in found if not isinstance(row.get("label"), str)]:
        raise UserError(
            f"{path}: {len(bare)} scans of list {split!r} have no label (first: {bare[0]}): choose "
            "a list with labels; scans without are for inference"
        )
    return found


def _fold_of(row: Any) -> int | None:
    """Also of what is no row at all, which is refused where its paths are read."""
    mark = row.get("fold") if isinstance(row, Mapping) else None
    return mark if isinstance(mark, int) else None


def _check_classes(path: str, class_names: Sequence[str]) -> None:
    """Hold the datalist's classes, if it states them, against those of the task."""
    stated = json.loads(Path(path).read_text(encoding="utf-8")).get("labels")
    if not isinstance(stated, Mapping):
        return
    listed = {str(key): str(name) for key, name in stated.items() if str(key) != "0"}
    wanted = {str(number): str(name) for number, name in enumerate(class_names, start=1)}
    if {k: v.casefold() for k, v in listed.items()} != {k: v.casefold() for k, v in wanted.items()}:
        raise UserError(
            f"{path} is of another task: its classes are {_spelled(listed)}, and class_names are "
            f"{_spelled(wanted)}: add the overlay of its task, or set class_names"
        )


def _spelled(classes: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {name}" for key, name in classes.items()) or "none"


def check_labels(
    lists: Mapping[str, Sequence[Row]],
    class_names: Sequence[str],
    workers: int | None = None,
    enabled: bool = True,
) -> None:
    """Read every label before a training starts: its grid, its values, and who has which class.

    Labels that are no NIfTI files are left to the training, which refuses them one by one. Of
    several processes of torchrun the first one looks.

    Args:
        lists: name of a list, such as "training" -> its rows with absolute paths.
        class_names: of the label values 1, 2, …
        workers: processes; None: as many as there are cores.
        enabled: False: nothing is looked at.

    Raises:
        UserError: labels lie on another grid than their scan, hold other values, or no scan of a
            list has one of the classes.
    """
    if not enabled or os.environ.get(RANK, "0") != "0":
        return
    classes = dict(enumerate(class_names, start=1))
    pairs = {part: [*_pairs(rows, frozenset({0, *classes}))] for part, rows in lists.items()}
    every = [pair for part in pairs.values() for pair in part]
    found = in_processes(examine_pair, every, workers, task="checking labels")
    refuse(
        [problem for problems, _ in found for problem in problems],
        "nothing was trained",
        "Correct these labels, or make the datalist again with `ctfm datalist`",
    )
    values = {pair.name: held for pair, (_, held) in zip(every, found, strict=True)}
    for part, rows in lists.items():
        held = frozenset[float]().union(*(values[pair.name] for pair in pairs[part]))
        lacking = [f"{number} ({name})" for number, name in classes.items() if number not in held]
        if lacking and len(pairs[part]) == len(rows):
            raise UserError(
                f"none of the {len(rows)} scans of list {part!r} has class {', '.join(lacking)}: "
                "choose another fold, or make the datalist again with fewer folds"
            )


def _pairs(rows: Sequence[Mapping[str, Any]], ids: frozenset[int]) -> Iterator[Pair]:
    for row in rows:
        image, label = str(row["image"]), str(row["label"])
        if image.endswith(NIFTI) and label.endswith(NIFTI):
            yield Pair(label, Path(), image, label, ids, named_by="class_names")

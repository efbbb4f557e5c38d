"""The Medical Segmentation Decathlon's ``dataset.json``: what a task holds, and if it is CT."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ctfm.base.errors import UserError
from ctfm.contract.tumors import DECATHLON_TUMORS

__all__ = ["DATASET", "TASKS", "Task", "case_name", "read_task"]

DATASET = "dataset.json"
LICENCE = "CC BY-SA 4.0 (http://medicaldecathlon.com)"
NO_LICENCE = "not stated in dataset.json"
#: Folders of the Decathlon's own tasks; other data in its layout is somebody else's.
OFFICIAL = frozenset(
    {
        "Task01_BrainTumour",
        "Task02_Heart",
        "Task03_Liver",
        "Task04_Hippocampus",
        "Task05_Prostate",
        "Task06_Lung",
        "Task07_Pancreas",
        "Task08_HepaticVessel",
        "Task09_Spleen",
        "Task10_Colon",
    }
)
TASKS = DECATHLON_TUMORS


@dataclass(frozen=True)
class Task:
    """One task of the Decathlon; paths are relative to its folder.

    Attributes:
        name: of the task's folder, such as "Task06_Lung".
        folder: where its ``dataset.json`` lies.
        title: of the data set; the Decathlon's only for its own tasks.
        licence: as the file states it; the Decathlon's for its own tasks.
        labels: id -> name, without the background.
        pairs: scan and label of each labelled case, in the file's order.
        unlabelled: the scans of the file's ``test`` list.
    """

    name: str
    folder: Path
    title: str
    licence: str
    labels: Mapping[int, str]
    pairs: tuple[tuple[str, str], ...]
    unlabelled: tuple[str, ...]


def case_name(path: str) -> str:
    """The case that a file belongs to: its name without ``.nii.gz``."""
    return PurePosixPath(path).name.removesuffix(".gz").removesuffix(".nii")


def read_task(root: Path, task: str | None) -> Task:
    """Read a task's ``dataset.json``.

    Files that macOS left in the archives (``._lung_001.nii.gz``) are passed over.

    Args:
        root: the folder that holds the task's folder, or the task's folder itself.
        task: name of the task's folder; None: `root` is that folder.

    Raises:
        UserError: there is no such task, its dataset.json cannot be read or has another format,
            or its scans are not CT.
    """
    folder = _folder(root, task)
    content = _read(folder / DATASET)
    name = folder.resolve().name
    _refuse_other_modalities(folder / DATASET, name, content)
    rows, tests = (_list(folder / DATASET, content, key) for key in ("training", "test"))
    pairs = [_pair(folder / DATASET, number, row) for number, row in enumerate(rows, start=1)]
    images = [_unlabelled(folder / DATASET, row) for row in tests]
    return Task(
        name=name,
        folder=folder,
        title=f"Medical Segmentation Decathlon, {name}" if name in OFFICIAL else name,
        licence=str(content.get("licence") or (LICENCE if name in OFFICIAL else NO_LICENCE)),
        labels=_labels(folder / DATASET, name, content),
        pairs=tuple(pair for pair in pairs if not _is_left_over(pair[0])),
        unlabelled=tuple(path for path in images if not _is_left_over(path)),
    )


def _folder(root: Path, task: str | None) -> Path:
    below = root / task if task else root
    for folder in (below, root):
        if (folder / DATASET).is_file() and (folder == below or root.resolve().name == task):
            return folder
    there = sorted(path.parent.name for path in root.glob(f"*/{DATASET}"))
    hint = f"there: {', '.join(there)}" if there else f"unpacked tasks such as {', '.join(TASKS)}"
    wanted = f"task {task}" if task else "task"
    raise UserError(f"{root}: no {wanted} with a {DATASET} in this folder: give --task ({hint})")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): unpack the task again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {type(content).__name__}, not an object: unpack it again")
    return content


def _refuse_other_modalities(path: Path, name: str, content: Mapping[str, Any]) -> None:
    stated = content.get("modality")
    if stated is None and name in TASKS:
        return
    channels = list(stated.values()) if isinstance(stated, dict) else [stated]
    if [str(channel).strip().upper() for channel in channels] != ["CT"]:
        found = ", ".join(map(str, channels)) if stated else "not stated"
        raise UserError(
            f"{name}: its modality is {found} in {path}, and CT-FM reads CT alone: choose a task "
            f"on CT, such as {', '.join(TASKS)}"
        )


def _list(path: Path, content: Mapping[str, Any], key: str) -> list[Any]:
    rows = content.get(key, [])
    if not isinstance(rows, list):
        raise UserError(f"{path}: {key} is {type(rows).__name__}, not a list")
    if key == "training" and not rows:
        raise UserError(f"{path}: its list 'training' is empty: unpack the task again")
    return rows


def _pair(path: Path, number: int, row: Any) -> tuple[str, str]:
    files = [row.get(key) for key in ("image", "label")] if isinstance(row, dict) else []
    paths = [_clean(file) for file in files if isinstance(file, str) and file]
    if len(paths) != 2:
        raise UserError(
            f"{path}: entry {number} of training is {row!r}: expected the paths of an image and "
            "of its label"
        )
    return paths[0], paths[1]


def _unlabelled(path: Path, row: Any) -> str:
    image = row.get("image") if isinstance(row, dict) else row
    if not isinstance(image, str) or not image:
        raise UserError(f"{path}: an entry of test is {row!r}: expected the path of an image")
    return _clean(image)


def _clean(path: str) -> str:
    """``./imagesTr/a.nii.gz`` as ``imagesTr/a.nii.gz``."""
    return PurePosixPath(path).as_posix()


def _is_left_over(path: str) -> bool:
    return PurePosixPath(path).name.startswith("._")


def _labels(path: Path, name: str, content: Mapping[str, Any]) -> dict[int, str]:
    stated = content.get("labels")
    if stated is None and name in TASKS:
        return dict(TASKS[name])
    try:
        labels = {int(key): str(value) for key, value in dict(stated or {}).items()}
    except (TypeError, ValueError):
        labels = {}
    named = {key: value for key, value in labels.items() if key != 0}
    if not named or min(named) < 0:
        raise UserError(
            f"{path}: labels is {stated!r}: expected ids with names, as {{'1': 'cancer'}}"
        )
    return named

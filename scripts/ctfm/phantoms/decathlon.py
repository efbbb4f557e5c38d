"""Phantoms with tumours, laid out as a task of the Medical Segmentation Decathlon."""

from __future__ import annotations

import json
import re
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctfm.base.errors import UserError
from ctfm.base.files import atomic_path
from ctfm.base.types import Array
from ctfm.contract.classes import TOTALSEGMENTATOR_V2
from ctfm.contract.tumors import DECATHLON_TUMORS, TUMORS
from ctfm.imaging.grids import spacing_of
from ctfm.phantoms.drawing import draw_torso, write_volume

__all__ = ["TASKS", "write_dataset"]

Triple = tuple[float, float, float]

#: Most tumours in a scan.
MOST_TUMORS = 3


#: The task's folder -> how its scans are drawn.
TASKS = dict(sorted((task.decathlon, task.drawing) for task in TUMORS.values()))


def write_dataset(
    root: str | PathLike[str],
    task: str = "Task06_Lung",
    subjects: int = 8,
    tests: int = 2,
    spacing: Triple = (3.0, 3.0, 3.0),
    seed: int = 0,
    margin: float | None = 15.0,
) -> Path:
    """Write torsos with tumours as the Decathlon is unpacked, ``dataset.json`` last.

    That is scans in ``imagesTr`` with labels in ``labelsTr``, and scans without labels in
    ``imagesTs``. Each scan has one to three tumours, as far as its organ has room.

    Args:
        root: folder in which the task's folder is made, or the task's folder itself.
        task: which organ has tumours, and which labels there are: one of `TASKS`.
        subjects: number of scans with labels.
        tests: number of scans without.
        spacing: mm along x, y and z.
        seed: the first patient; each scan is another.
        margin: mm of surroundings that are kept about the organ; None: all of the region.

    Returns:
        The task's folder.

    Raises:
        UserError: an argument is out of its range, or a file cannot be written.
    """
    _check(task, subjects, tests, seed, margin)
    folder = Path(root) if Path(root).name == task else Path(root) / task
    stem = _title(task).lower()
    names = [f"{stem}_{number:03d}.nii.gz" for number in range(1, subjects + tests + 1)]
    for number, name in enumerate(names):
        image, label, affine = _scan(task, seed + number, spacing, margin)
        part = "Tr" if number < subjects else "Ts"
        write_volume(image, affine, folder / f"images{part}" / name)
        if part == "Tr":
            write_volume(label, affine, folder / "labelsTr" / name)
    text = json.dumps(_contents(task, names[:subjects], names[subjects:]), indent=4)
    with atomic_path(folder / "dataset.json") as path:
        path.write_text(text + "\n", encoding="utf-8")
    return folder


def _check(task: str, subjects: int, tests: int, seed: int, margin: float | None) -> None:
    if task not in TASKS:
        raise UserError(f"no task is called {task!r}: choose one of {', '.join(TASKS)}")
    if subjects < 1 or tests < 0:
        raise UserError(f"subjects is {subjects}, tests {tests}: give at least 1 and at least 0")
    if seed < 0:
        raise UserError(f"seed is {seed}: give a whole number, 0 or more")
    if margin is not None and not 0 <= margin < np.inf:
        raise UserError(f"margin is {margin}: give mm, 0 or more, or None for the whole region")


def _scan(
    task: str, seed: int, spacing: Triple, margin: float | None
) -> tuple[Array, Array, Array]:
    """HU, labels and affine of a patient."""
    drawing = TASKS[task]
    wanted = int(np.random.default_rng([seed, 2]).integers(1, MOST_TUMORS + 1))
    for tumors in range(wanted, 0, -1):
        try:
            phantom = draw_torso(
                seed,
                spacing,
                region=drawing.region,
                tumors=tumors,
                hosts=drawing.hosts,
                contrast=drawing.contrast,
            )
            break
        except UserError:
            # a small organ may have no room for as many
            if tumors == 1:
                raise
    label = phantom.lesion * np.uint8(max(DECATHLON_TUMORS[task]))
    if drawing.organ is not None:
        label[(label == 0) & _mask(phantom.label, drawing.organ)] = 1
    if margin is None:
        return phantom.image, label, phantom.affine
    window, affine = _around(
        _mask(phantom.label, drawing.hosts) | (label > 0), margin, phantom.affine
    )
    return phantom.image[window], label[window], affine


def _title(task: str) -> str:
    """The name in a task's folder: Lung of Task06_Lung; a folder without a number is the name."""
    return task.partition("_")[2] or task


def _mask(label: Array, pattern: str) -> npt.NDArray[np.bool_]:
    ids = [number for number, name in TOTALSEGMENTATOR_V2.items() if re.fullmatch(pattern, name)]
    return np.isin(label, ids)


def _around(
    mask: npt.NDArray[np.bool_], margin: float, affine: Array
) -> tuple[tuple[slice, ...], Array]:
    """The box of a mask with a margin in mm, and the affine of what is cut out by it."""
    voxels = np.argwhere(mask)
    pad = np.ceil(margin / spacing_of(affine)).astype(int)
    low = (voxels.min(0) - pad).clip(0)
    high = voxels.max(0) + 1 + pad
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ low
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True)), moved


def _contents(task: str, names: list[str], test_names: list[str]) -> dict[str, Any]:
    """What the Decathlon's ``dataset.json`` says of a task."""
    return {
        "name": _title(task),
        "description": "phantoms with tumours, drawn by ctfm phantom msd",
        "reference": "none: drawn bodies",
        "licence": "CC0",
        "release": "1.0",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background", **{str(i): n for i, n in DECATHLON_TUMORS[task].items()}},
        "numTraining": len(names),
        "numTest": len(test_names),
        "training": [
            {"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names
        ],
        "test": [f"./imagesTs/{name}" for name in test_names],
    }

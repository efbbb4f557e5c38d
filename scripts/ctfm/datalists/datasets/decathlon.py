"""A CT task of the Medical Segmentation Decathlon to a datalist with folds."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctfm import __version__
from ctfm.base.errors import UserError
from ctfm.base.files import sha256
from ctfm.datalists.datalist import PARTS, assign_folds, write_datalist
from ctfm.datalists.datasets.decathlon_json import DATASET, TASKS, Task, case_name, read_task
from ctfm.datalists.pairs import Pair, check_all
from ctfm.datalists.splits import Split, read_split_file

__all__ = ["msd"]

FOLDS = 5
DESCRIPTION = "CT with labels; paths are relative to the task's folder (the one of dataset.json)"

AnyPath = str | os.PathLike[str]


def msd(
    root: AnyPath,
    out: AnyPath,
    *,
    task: str | None = None,
    folds: int | None = None,
    fold: int | None = None,
    splits: AnyPath | None = None,
    patient: str | None = None,
    seed: int = 0,
    workers: int | None = None,
    skip_bad: bool = False,
) -> Path:
    """Check a task's scans and labels, deal its patients out to folds, and write a datalist.

    Each training row has its ``fold``, which is what Auto3DSeg reads. With `fold`, the rows of
    that fold are the list "validation" instead, which is what the bundles read. The test list
    holds the task's own scans without labels, or what the split file holds out.

    Folds are dealt out before anything is left out, so that a damaged file moves no other case.

    Args:
        root: the folder that holds the task's folder, or the task's folder itself.
        out: JSON file to write. The same arguments give the same bytes.
        task: name of the task's folder, such as "Task06_Lung"; None: `root` is that folder.
        folds: how many folds; None: five. Their sizes differ by one patient at most.
        fold: the fold that validates; None: the split file's validation list, if it has one.
        splits: split file in VISTA3D's format, in place of folds of our own.
        patient: regular expression whose group is the patient in a case's name, where patients
            have several scans; None: each case is a patient, as in the Decathlon.
        seed: of the folds; a patient's place depends on it and on the patients' names alone.
        workers: processes that check; None: as many as there are cores.
        skip_bad: leave out cases that have a problem, and list them, instead of refusing.

    Returns:
        `out`.

    Raises:
        UserError: the task is not there or not CT, an argument is out of range, or cases have
            problems: all are listed on stderr, and no datalist is written.
    """
    found = read_task(Path(root), task)
    _note(found)
    if fold is not None and (isinstance(fold, bool) or not isinstance(fold, int)):
        raise UserError(f"fold is {fold!r}: give a whole number, the fold that validates")
    if splits is None:
        split = _split(found, FOLDS if folds is None else folds, fold, patient, seed)
    elif folds is None and patient is None:
        split = _read_split(found, Path(splits), fold)
    else:
        raise UserError(f"--folds and --patient with --splits {splits}: the file has the folds")
    pairs = _pairs(found, split)
    bad = split.settle(
        check_all(list(pairs.values()), workers),
        skip_bad,
        "no datalist was written",
        "Unpack the task again, or leave these cases out with --skip_bad",
    )
    kept = {part: [pairs[n] for n in split.parts[part] if n not in bad] for part in PARTS}
    if not kept["training"]:
        raise UserError(f"no training case is left in {found.folder}: no datalist was written")
    _write(Path(out), found, split, kept, bad)
    numbers = ", ".join(f"{len(some)} {part}" for part, some in kept.items())
    _say(f"{out}: {found.name}, {numbers}, {len(set(split.folds.values()))} folds")
    return Path(out)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _note(task: Task) -> None:
    """What is odd and yet no reason to refuse."""
    published = TASKS.get(task.name)
    if published is not None and dict(published) != dict(task.labels):
        _say(f"note: labels are {dict(task.labels)}, where {task.name} has {dict(published)}")
    listed = {Path(image).name for image, _ in task.pairs}
    there = {path.name for path in (task.folder / "imagesTr").glob("[!.]*.nii*")}
    if unlisted := there - listed:
        _say(f"note: {len(unlisted)} files of imagesTr are not in {DATASET} ({min(unlisted)}, …)")


def _split(task: Task, folds: int, fold: int | None, patient: str | None, seed: int) -> Split:
    """The task's own lists, with folds by a hash of the patients' names."""
    names = [case_name(image) for image, _ in task.pairs]
    patients = _patients(names, patient)
    dealt = assign_folds(patients.values(), folds, seed)
    if fold is not None and fold not in range(folds):
        raise UserError(f"fold is {fold!r}: give a whole number from 0 to {folds - 1}")
    split = Split(folds={name: dealt[patients[name]] for name in names})
    for name in names:
        split.add("validation" if split.folds[name] == fold else "training", name)
    for image in task.unlabelled:
        split.add("test", case_name(image))
    split.provenance = {
        "split": DATASET,
        "split_sha256": sha256(task.folder / DATASET),
        "validation": "none" if fold is None else f"fold {fold}",
        "test": "scans without labels",
        "folds": folds,
        "seed": seed,
        "patient": patient,
    }
    return split


def _patients(names: Sequence[str], pattern: str | None) -> dict[str, str]:
    if pattern is None:
        return {name: name for name in names}
    try:
        expression = re.compile(str(pattern))
    except re.error as error:
        raise UserError(f"patient is {pattern!r}, no regular expression: {error}") from error
    found = {name: expression.search(name) for name in names}
    missed = [name for name, match in found.items() if not match]
    if expression.groups != 1 or missed:
        shown = f"; {missed[0]} does not match" if missed else ""
        raise UserError(
            f"patient is {pattern!r}: give a regular expression with one group that finds the "
            f"patient in each case's name, such as '^(.+)_scan'{shown}"
        )
    return {name: match.group(1) or "" for name, match in found.items() if match}


def _read_split(task: Task, path: Path, fold: int | None) -> Split:
    """A public split of the labelled cases; those without labels are then left aside."""
    split = read_split_file(path, fold, subject_of=_listed_case, draw=False)
    labelled = {case_name(image) for image, _ in task.pairs}
    listed = {name for part in PARTS for name in split.parts[part]}
    for name in listed - labelled:
        split.problems[name].append(f"listed in {path.name}, and not in the task's {DATASET}")
    if unlisted := labelled - listed:
        _say(f"note: {len(unlisted)} cases are not in the split ({min(unlisted)}, …)")
    split.provenance["test"] = "what the split file holds out"
    return split


def _listed_case(path: Path, entry: Mapping[str, Any]) -> str:
    image = entry.get("image")
    if not isinstance(image, str) or not case_name(image):
        raise UserError(f"{path}: an entry has the image {image!r}: expected imagesTr/a.nii.gz")
    return case_name(image)


def _pairs(task: Task, split: Split) -> dict[str, Pair]:
    """The files of each case of the split that the task has."""
    ids = frozenset({0, *task.labels})
    labelled = {case_name(image): (image, label) for image, label in task.pairs}
    unlabelled = {case_name(image): (image, None) for image in task.unlabelled}
    files: dict[str, tuple[str, str | None]] = {**unlabelled, **labelled}
    names = [name for part in PARTS for name in split.parts[part] if name not in split.problems]
    return {name: Pair(name, task.folder, *files[name], ids) for name in names}


def _entry(pair: Pair, folds: Mapping[str, int]) -> dict[str, Any]:
    entry: dict[str, Any] = {"image": pair.image}
    if pair.label is not None:
        entry["label"] = pair.label
    return entry | ({"fold": folds[pair.name]} if pair.name in folds else {})


def _write(
    out: Path, task: Task, split: Split, kept: Mapping[str, Sequence[Pair]], left_out: set[str]
) -> None:
    write_datalist(
        out,
        {part: [_entry(pair, split.folds) for pair in some] for part, some in kept.items()},
        name=task.title,
        description=DESCRIPTION,
        licence=task.licence,
        labels=task.labels,
        provenance={
            "tool": "ctfm datalist msd",
            "version": __version__,
            "task": task.name,
            "dataset_sha256": sha256(task.folder / DATASET),
            **split.provenance,
            "counts": {part: len(some) for part, some in kept.items()},
            "left_out": sorted(left_out),
        },
    )

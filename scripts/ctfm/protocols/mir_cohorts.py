"""3D-MIR's own tables: splits and annotations of each cohort, and the decathlon's files."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ctfm.base.errors import UserError

__all__ = ["FLAGS", "Cohort", "find_files", "read_cohorts"]

COHORTS = ("liver", "colon", "pancreas", "lung")
TASKS = "Task03_Liver, Task06_Lung, Task07_Pancreas and Task10_Colon"
#: Names that articles use -> columns of the annotation tables.
FLAGS = {"lesion flag": "cancer_flag", "lesion group": "lesion_group"}


@dataclass(frozen=True)
class Cohort:
    """One cohort's split, and what its scans show.

    Attributes:
        name: of the organ.
        queries: scans of the test split.
        references: scans of the training split.
        flags: flag -> scan -> value; equal values are relevant to each other.
    """

    name: str
    queries: list[str]
    references: list[str]
    flags: dict[str, dict[str, str]]


def read_cohorts(data: Path) -> list[Cohort]:
    """Splits and annotations, wherever they lie below a folder.

    Raises:
        UserError: a table is missing, or says nothing of a scan.
    """
    cohorts = []
    for name in COHORTS:
        test = _column(_one(data, f"{name}_full_test_split.csv"), "testing")
        train = _column(_one(data, f"{name}_full_train_split.csv"), "training")
        if shared := {*test} & {*train}:
            raise UserError(f"{data}: {min(shared)} of {name} is in both splits: download it again")
        path = _one(data, f"{name}_labels_and_captions.csv")
        cohorts.append(Cohort(name, test, train, _read_flags(path, name, [*test, *train])))
    return cohorts


def _one(data: Path, name: str) -> Path:
    found = sorted(data.rglob(name)) if data.is_dir() else []
    if len(found) != 1:
        raise UserError(
            f"{data}: {len(found)} files {name} below it: give the folder Data of 3D-MIR's "
            "repository (github.com/abachaa/3D-MIR)"
        )
    return found[0]


def _read(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # two of them begin with a mark
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error}): download it again") from error


def _column(path: Path, name: str) -> list[str]:
    """A split's scans, each once."""
    rows = _read(path)
    if not rows or name not in rows[0]:
        raise UserError(f"{path}: no column {name}: download it again")
    return list(dict.fromkeys(row[name] for row in rows))


def _read_flags(path: Path, organ: str, wanted: Sequence[str]) -> dict[str, dict[str, str]]:
    """Flags of a cohort; the article's own tables put the organ before the column's name."""
    rows = _read(path)
    columns = {*(rows[0] if rows else ())}
    scan = next((c for c in ("name", "file_name") if c in columns), None)
    flags = {}
    for flag, column in FLAGS.items():
        mine = next((c for c in (column, f"{organ}_{column}") if c in columns), None)
        if scan is None or mine is None:
            raise UserError(f"{path}: no column name or {column}: download it again")
        flags[flag] = {row[scan]: row[mine].strip() for row in rows}
    missing = [name for name in wanted if any(not each.get(name) for each in flags.values())]
    if missing:
        raise UserError(f"{path}: says nothing of {missing[0]}: download it again")
    return flags


def find_files(folder: Path, names: set[str]) -> dict[str, str]:
    """The scans by their names; the decathlon calls a scan's labels by the same name.

    Raises:
        UserError: some are not there, or twice.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.nii.gz")):
        inside = path.relative_to(folder).parts[:-1]
        if path.name in names and not any(part.startswith("labels") for part in inside):
            found.setdefault(path.name, []).append(str(path))
    if missing := sorted(names - found.keys()):
        raise UserError(
            f"{folder}: {len(missing)} of {len(names)} scans are not below it (first: "
            f"{missing[0]}): give the folder with {TASKS}"
        )
    twice = [name for name, paths in found.items() if len(paths) > 1]
    if twice:
        raise UserError(f"{folder}: {twice[0]} is there {len(found[twice[0]])} times: keep one")
    return {name: found[name][0] for name in sorted(names)}

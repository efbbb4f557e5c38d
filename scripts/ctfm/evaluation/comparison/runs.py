"""The scores of a run, case by case and class by class, as an evaluation has written them."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ctfm.base.errors import UserError

__all__ = ["METRICS", "Metric", "Run", "check_same", "read_run"]

CASES = "metrics_cases.csv"
LESIONS = "lesions_cases.csv"
REFERENCE = "reference_ml"
#: References may differ by so much, relatively: the tables hold six digits.
SAME_VOLUME = 1e-4
SHOWN = 5  # names that a message repeats

Key = tuple[str, int]


@dataclass(frozen=True)
class Metric:
    """How a metric reads.

    Attributes:
        title: as a sentence calls a difference of it.
        digits: after the point.
        higher_is_better: Dice is, a distance is not.
        table: the file that has it, with a row for each case and class, or for each case alone.
    """

    title: str
    digits: int
    higher_is_better: bool
    table: str = CASES

    @property
    def by_class(self) -> bool:
        """Whether the table has a row for each class of a case."""
        return self.table == CASES


METRICS: Mapping[str, Metric] = {
    "dice": Metric("Dice", 3, True),
    "nsd": Metric("NSD", 3, True),
    "asd_mm": Metric("mm ASD", 2, False),
    "hd95_mm": Metric("mm HD95", 2, False),
    "sensitivity": Metric("sensitivity to lesions", 3, True, LESIONS),
    "false_positives": Metric("false positives a scan", 2, False, LESIONS),
}


@dataclass(frozen=True)
class Run:
    """The scores of one run.

    Attributes:
        source: the file they were read from.
        metric: key of `METRICS`.
        values: (case, class id) -> score; nan: there is none.
        reference_ml: (case, class id) -> volume in the reference, where the file states it.
        names: class id -> name.
    """

    source: Path
    metric: str
    values: Mapping[Key, float]
    reference_ml: Mapping[Key, float]
    names: Mapping[int, str]

    @property
    def cases(self) -> list[str]:
        """Case names, in the file's order."""
        return list(dict.fromkeys(case for case, _ in self.values))


def read_run(path: Path, metric: str) -> Run:
    """Read `metrics_cases.csv`, or `lesions_cases.csv` for a metric of lesions.

    Args:
        path: the file, or a folder that holds it, at any depth.
        metric: the column to read.

    Raises:
        UserError: there is no such file, or more than one, or it has another form.
    """
    how = METRICS[metric]
    source = _find(path, how.table)
    values: dict[Key, float] = {}
    volumes: dict[Key, float] = {}
    names: dict[int, str] = {}
    for line, row in enumerate(_rows(source, metric), start=2):
        try:
            class_id, name = (
                (int(row["class_id"]), row["class"]) if how.by_class else (1, "lesions")
            )
            value, volume = _number(row[metric]), _number(row.get(REFERENCE))
        except (TypeError, ValueError) as error:
            raise UserError(f"{source} line {line}: {error}: write the table again") from error
        key = (row["case"], class_id)
        if key in values:
            raise UserError(f"{source} line {line}: case {key[0]}, class {class_id} comes twice")
        values[key], names[class_id] = value, name
        if not math.isnan(volume):
            volumes[key] = volume
    if not values:
        raise UserError(f"{source}: holds no cases: evaluate again")
    return Run(source, metric, values, volumes, names)


def _find(path: Path, table: str) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder: give {table} of an evaluation")
    direct = path / table
    found = [direct] if direct.is_file() else sorted(path.rglob(table))
    if len(found) == 1:
        return found[0]
    if not found:
        raise UserError(f"{path}: no {table} in this folder: give the output folder of evaluate")
    raise UserError(
        f"{path}: holds {len(found)} files {table} (first: {found[0]}, {found[1]}): give one"
    )


def _rows(source: Path, metric: str) -> list[dict[str, str]]:
    try:
        with open(source, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{source} cannot be read: {error}") from error
    how = METRICS[metric]
    needed = ("case", *(("class_id", "class") if how.by_class else ()), metric)
    if missing := [name for name in needed if name not in columns]:
        there = ", ".join(columns) or "none"
        raise UserError(f"{source}: no column {missing[0]}; it has {there}: give {how.table}")
    return rows


def _number(text: str | None) -> float:
    return float(text) if text else math.nan


def check_same(a: Run, b: Run) -> None:
    """Refuse runs that are not of the same cases, classes and references.

    Raises:
        UserError: it names what differs.
    """
    _check_sets("cases", a.cases, b.cases, "evaluate both runs on the same list of cases")
    for class_id in a.names.keys() & b.names.keys():
        if a.names[class_id] != b.names[class_id]:
            raise UserError(
                f"class {class_id} is {a.names[class_id]} in A and {b.names[class_id]} in B: "
                "evaluate both runs with the same classes"
            )
    in_a, in_b = ([f"{case} {run.names[i]}" for case, i in run.values] for run in (a, b))
    _check_sets("classes", in_a, in_b, "evaluate both runs with the same classes")
    for key in a.reference_ml.keys() & b.reference_ml.keys():
        volumes = a.reference_ml[key], b.reference_ml[key]
        if not math.isclose(*volumes, rel_tol=SAME_VOLUME):
            raise UserError(
                f"case {key[0]}, {a.names[key[1]]}: the reference has {volumes[0]:g} ml in A and "
                f"{volumes[1]:g} ml in B: evaluate both runs against the same labels"
            )


def _check_sets(what: str, a: Collection[str], b: Collection[str], advice: str) -> None:
    parts = [
        f"{len(names)} only in {run} ({_some(names)})"
        for run, names in (("A", sorted(set(a) - set(b))), ("B", sorted(set(b) - set(a))))
        if names
    ]
    if parts:
        raise UserError(f"the runs are not of the same {what}: {', '.join(parts)}: {advice}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")

"""Labels and scores of a classifier, read from a table and checked before anything is computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from ctfm.base.columns import Table, binary_labels, has_decimal_comma, read_table
from ctfm.base.errors import UserError
from ctfm.base.types import Array

__all__ = [
    "MIN_CASES",
    "MIN_OF_CLASS",
    "Predictions",
    "Scores",
    "check_labels",
    "predictions_of",
    "read_predictions",
]

#: Below so many cases, an interval says nothing.
MIN_CASES = 10
#: DeLong's variance needs two of each class.
MIN_OF_CLASS = 2


@dataclass(frozen=True)
class Scores:
    """One score of each case.

    Attributes:
        name: of the column.
        ranks: (N,), as they were given; cases are ordered by these, since the probabilities of
            large logits are all 1.
        probabilities: (N,), of the positive class.
    """

    name: str
    ranks: Array
    probabilities: Array


@dataclass(frozen=True)
class Predictions:
    """Labels and scores of the same cases.

    Attributes:
        labels: (N,), 0 or 1.
        scores: one, or two that are compared.
        subjects: (N,), a number for each subject, from 0; None: each case is one of its own.
    """

    labels: Array
    scores: tuple[Scores, ...]
    subjects: Array | None = None

    @property
    def cases(self) -> int:
        """How many cases there are."""
        return len(self.labels)

    @property
    def positives(self) -> int:
        """How many of them are positive."""
        return int(self.labels.sum())


def read_predictions(
    path: Path,
    label: str,
    scores: Sequence[str],
    *,
    positive: str | None = None,
    subject: str | None = None,
    id: str | None = None,
    logits: bool = False,
    temperature: float = 1.0,
) -> Predictions:
    """Read a table with a row for each case.

    Args:
        path: CSV, CSV.gz or Parquet.
        label: column of the labels, as `ctfm.base.columns.binary_labels` takes them.
        scores: columns of the scores.
        positive: the label that counts as 1.
        subject: column that names the subject; None: each row is one.
        id: column that names the case, where no name may come twice.
        logits: the scores are logits.
        temperature: logits are divided by it.

    Raises:
        UserError: a column is missing, or cells are not what they should be.
    """
    table = read_table(path)
    if id is not None:
        _check_ids(table, id)
    cells = table.column(label, "--label")
    labels = binary_labels(cells, table.rows, f"{path}: column {label}", positive)
    numbers = {name: _numbers(table, name) for name in scores}
    names = None if subject is None else _subjects(table, subject)
    return predictions_of(
        labels, numbers, names, logits=logits, temperature=temperature, source=str(path)
    )


def _check_ids(table: Table, column: str) -> None:
    counts = Counter(table.column(column, "--id"))
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise UserError(
            f"{table.source}: column {column}: {len(twice)} ids come more than once (first: "
            f"{twice[0]!r}, {counts[twice[0]]} times): keep one row a case, or pass --subject "
            f"{column} if these are several scans of one subject"
        )


def _subjects(table: Table, column: str) -> list[str]:
    names = table.column(column, "--subject")
    if missing := [row for row, name in zip(table.rows, names, strict=True) if not name]:
        raise UserError(
            f"{table.source}: column {column}: {len(missing)} rows name no subject (first: "
            f"{missing[0]}): fill them in"
        )
    return names


def _numbers(table: Table, column: str) -> list[float]:
    numbers: list[float] = []
    for row, cell in zip(table.rows, table.column(column, "--score"), strict=True):
        try:
            numbers.append(float(cell or "nan"))
        except ValueError:
            if has_decimal_comma(cell):
                raise UserError(
                    f"{table.source} {row}: column {column} holds {cell}, with a decimal comma: "
                    "write the table with points"
                ) from None
            raise UserError(
                f"{table.source} {row}: column {column} holds {cell!r}, which is no number: "
                "name the column of the scores by --score"
            ) from None
    return numbers


def predictions_of(
    labels: Any,
    scores: Mapping[str, Any],
    subjects: Sequence[str] | None = None,
    *,
    logits: bool = False,
    temperature: float = 1.0,
    source: str = "predictions",
) -> Predictions:
    """Labels and scores that are in memory, checked.

    Args:
        labels: (N,), 0 or 1.
        scores: name -> (N,), probabilities, or logits.
        subjects: (N,), names; None: each case is a subject.
        logits: the scores are logits.
        temperature: logits are divided by it.
        source: where they come from, for messages.

    Raises:
        UserError: lengths differ, a class is missing, there are too few cases, or a score is no
            number or out of range.
    """
    truth = check_labels(labels, source)
    lengths = {"labels": len(truth), **{name: np.size(some) for name, some in scores.items()}}
    if subjects is not None:
        lengths["subjects"] = len(subjects)
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise UserError(f"{source}: lengths differ ({found}): give one of each for every case")
    columns = tuple(
        _scores(name, np.asarray(some, dtype=float).ravel(), logits, temperature, source)
        for name, some in scores.items()
    )
    codes = None if subjects is None else np.unique(list(subjects), return_inverse=True)[1]
    return Predictions(truth, columns, codes)


def check_labels(labels: Any, source: str, least: int = MIN_CASES) -> Array:
    """Labels as (N,) of 0 and 1, of both classes and enough of them.

    Raises:
        UserError: they are not.
    """
    truth = np.asarray(labels).ravel()
    if not np.isin(truth, (0, 1)).all():
        raise UserError(f"{source}: labels are not all 0 or 1: write them so")
    truth = truth.astype(int)
    if len(truth) < least:
        raise UserError(f"{source}: {len(truth)} cases, and {least} are the least: give more")
    positives = int(truth.sum())
    fewest = min(positives, len(truth) - positives)
    if fewest < MIN_OF_CLASS:
        raise UserError(
            f"{source}: {positives} of {len(truth)} cases are positive, and at least "
            f"{MIN_OF_CLASS} of each class are needed: add cases of the other class, or check "
            "which label counts as positive"
        )
    return truth


def _scores(name: str, values: Array, logits: bool, temperature: float, source: str) -> Scores:
    bad = ~np.isfinite(values)
    if bad.any():
        raise UserError(
            f"{source}: score {name}: {bad.sum()} of {len(values)} are missing or no finite number "
            f"(first: case {int(bad.argmax()) + 1}): predict these cases again, or leave them out "
            "and say so"
        )
    if logits:
        return Scores(name, values, expit(values / temperature))
    outside = (values < 0) | (values > 1)
    if outside.any():
        raise UserError(
            f"{source}: score {name}: {outside.sum()} of {len(values)} lie outside 0..1 (from "
            f"{values.min():.4g} to {values.max():.4g}): pass --logits if they are logits; any "
            "other scale has to be made probabilities first"
        )
    return Scores(name, values, values)

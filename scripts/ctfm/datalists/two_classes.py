"""Datalists whose labels are 0 and 1: rows, subjects, the table of what is left out."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctfm import __version__
from ctfm.base.errors import UserError
from ctfm.base.tables import write_table
from ctfm.datalists.datalist import PARTS, write_datalist
from ctfm.datalists.selection import Exclusion, count_reasons, in_words

__all__ = ["Case", "subject_number", "write_classified", "write_excluded"]


@dataclass(frozen=True)
class Case:
    """A scan with its label.

    Attributes:
        image: path below the data set's folder: a file, or the folder of a DICOM series.
        label: 0 or 1.
        subject: name; scans of one subject stay in one list.
        part: "training", "validation" or "test".
    """

    image: str
    label: int
    subject: str
    part: str


def subject_number(name: str) -> int:
    """A number that stands for a subject, the same in every datalist.

    Rows hold no strings apart from paths: MONAI takes a string for a path if a folder is called
    so, and the folders of many data sets are called as the subjects are. 48 bits survive JSON.
    """
    return int(hashlib.sha256(name.encode()).hexdigest()[:12], 16)


def write_excluded(out: Path, excluded: Iterable[Exclusion]) -> Path:
    """Write the table of what is left out, beside the datalist, as ``.excluded.csv``."""
    rows = sorted((one.name, one.reason, one.detail) for one in excluded)
    return write_table(out.with_suffix(".excluded.csv"), ("image", "reason", "detail"), rows)


def write_classified(
    out: Path,
    cases: Sequence[Case],
    excluded: Sequence[Exclusion],
    *,
    command: str,
    name: str,
    description: str,
    licence: str,
    classes: tuple[str, str],
    options: Mapping[str, Any],
) -> Path:
    """Write the datalist and the table of what is left out, and say the counts on stderr.

    Args:
        out: JSON file.
        cases: what is taken.
        excluded: what is not.
        command: of `ctfm datalist`, for the provenance row.
        name: of the data set.
        description: one or two sentences.
        licence: of the images and labels.
        classes: names of 0 and 1.
        options: for the provenance row.

    Raises:
        UserError: no case is left, a subject is in two lists, or a file cannot be written.
    """
    table = write_excluded(out, excluded)
    if not cases:
        raise UserError(
            f"none of {len(excluded)} scans is taken ({in_words(excluded)}): see {table}; no "
            "datalist was written"
        )
    _check_subjects(cases)
    parts = {part: [case for case in cases if case.part == part] for part in PARTS}
    counts = {part: _counts(some, classes) for part, some in parts.items() if some}
    write_datalist(
        out,
        {part: [_row(case) for case in some] for part, some in parts.items()},
        name=name,
        description=description,
        licence=licence,
        labels=dict(enumerate(classes)),
        provenance={
            "tool": f"ctfm datalist {command}",
            "version": __version__,
            **options,
            "counts": counts,
            "left_out": count_reasons(excluded),
        },
    )
    numbers = ", ".join(
        f"{some['scans']} {part} ({some[classes[1]]} {classes[1]})" for part, some in counts.items()
    )
    print(
        f"{out}: {numbers}; {len(excluded)} left out ({in_words(excluded) or 'none'}), listed in "
        f"{table}",
        file=sys.stderr,
    )
    return out


def _row(case: Case) -> dict[str, Any]:
    return {
        "image": case.image,
        "label": case.label,
        "subject": subject_number(case.subject),
    }


def _counts(cases: Sequence[Case], classes: tuple[str, str]) -> dict[str, int]:
    return {
        "scans": len(cases),
        "subjects": len({case.subject for case in cases}),
        classes[0]: sum(case.label == 0 for case in cases),
        classes[1]: sum(case.label == 1 for case in cases),
    }


def _check_subjects(cases: Sequence[Case]) -> None:
    parts: dict[str, str] = {}
    for case in cases:
        before = parts.setdefault(case.subject, case.part)
        if before != case.part:
            raise UserError(
                f"subject {case.subject} is in two lists, {before} and {case.part}: put all scans "
                "of a subject into one"
            )
    numbers: dict[int, str] = {}
    for subject in parts:
        same = numbers.setdefault(subject_number(subject), subject)
        if same != subject:  # once in 2 ** 48 pairs
            raise UserError(f"subjects {same} and {subject} get the same number: rename one")

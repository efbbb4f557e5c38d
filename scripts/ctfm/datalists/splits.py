"""Who trains, validates and tests on TotalSegmentator: its own meta.csv, or a public split file."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ctfm.base.errors import UserError
from ctfm.base.files import sha256
from ctfm.datalists.datalist import PARTS, refuse

__all__ = ["Split", "ct_fm_validation", "read_meta", "read_split_file"]

META_PARTS = dict(zip(("train", "val", "test"), PARTS, strict=True))

#: Validation : training subjects in release 2.0.1's meta.csv. CT-FM's published code draws the
#: same share from the training list of VISTA3D's split, with scikit-learn's random state 42.
CT_FM_SHARE = 57 / 1082
CT_FM_RANDOM_STATE = 42

_SUBJECT = re.compile(r"(?<![A-Za-z0-9])s\d+(?![A-Za-z0-9])")


@dataclass
class Split:
    """Who trains, validates and tests.

    Attributes:
        parts: "training", "validation", "test" -> subjects, in the source's order.
        problems: subject, or place in the source -> what is wrong with it.
        folds: subject -> fold number, where the source has folds.
        provenance: where this comes from, for the datalist's provenance row.
    """

    parts: dict[str, list[str]] = field(default_factory=lambda: {part: [] for part in PARTS})
    problems: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    folds: dict[str, int] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    _listed: dict[str, str] = field(default_factory=dict, repr=False)

    def add(self, part: str, subject: str) -> None:
        """List a subject, or note that it is listed already."""
        before = self._listed.setdefault(subject, part)
        if before != part:
            self.problems[subject].append(f"listed in two splits, {before} and {part}")
        elif subject in self.parts[part]:
            self.problems[subject].append(f"listed twice in {part}")
        else:
            self.parts[part].append(subject)

    def settle(
        self, found: Mapping[str, Sequence[str]], skip_bad: bool, outcome: str, advice: str
    ) -> set[str]:
        """Subjects to leave out, if the user wants that; otherwise any problem ends the run.

        Args:
            found: subject -> what was found to be wrong with its files.
            skip_bad: list the problems on stderr and go on.
            outcome: as `refuse` takes it.
            advice: as `refuse` takes it.

        Raises:
            UserError: there are problems, and they are not to be left out.
        """
        for subject, texts in found.items():
            if texts:
                self.problems[subject].extend(texts)
        lines = self.lines()
        if not skip_bad:
            refuse(lines, outcome, advice)
        for line in lines:
            print(f"left out: {line}", file=sys.stderr)
        return set(self.problems)

    def lines(self) -> list[str]:
        """The problems, one line each."""
        return [
            f"{where}: {text}" for where in sorted(self.problems) for text in self.problems[where]
        ]


def read_meta(path: Path) -> Split:
    """Read the split column of the release's ``meta.csv`` (train, val, test).

    Raises:
        UserError: the file cannot be read, or has no columns ``image_id`` and ``split``.
    """
    try:
        # the release's file starts with a byte order mark
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): put the release's own there, or name a "
            "split file with --splits"
        ) from error
    reader = csv.DictReader(text.splitlines(), delimiter=";")
    _check_columns(path, list(reader.fieldnames or ()))
    split = Split(provenance=_provenance(path, "the split column"))
    for number, row in enumerate(reader, start=2):
        subject, part = (row["image_id"] or "").strip(), (row["split"] or "").strip()
        if not subject:
            split.problems[f"{path.name} line {number}"].append("image_id is empty")
        elif part not in META_PARTS:
            known = ", ".join(META_PARTS)
            split.problems[subject].append(f"split is {part!r} in {path.name}, not one of {known}")
        else:
            split.add(META_PARTS[part], subject)
    return split


def _check_columns(path: Path, found: list[str]) -> None:
    if {"image_id", "split"} <= set(found):
        return
    comma = len(found) == 1 and "," in found[0]
    hint = " (separated by ',', not by ';'): " if comma else ": "
    raise UserError(
        f"{path} needs the columns image_id and split, separated by ';', and has "
        f"{', '.join(found) or 'none'}{hint}put the release's own meta.csv back"
    )


def read_split_file(
    path: Path,
    fold: int | None = None,
    subject_of: Callable[[Path, Mapping[str, Any]], str] | None = None,
    draw: bool = True,
) -> Split:
    """Read a split file in the format of VISTA3D's: ``training`` (with ``fold``) and ``testing``.

    Args:
        path: the JSON file. Entries name a subject by their image, such as ``s0011/ct.nii.gz``.
        fold: the fold of the training entries that validates; None: the file's ``validation``
            list, or, without one, the subjects that `ct_fm_validation` draws.
        subject_of: the subject that an entry of this file names; None: TotalSegmentator's.
        draw: False: without a fold and a validation list, none validates.

    Raises:
        UserError: the file is missing or has another format, or there is no such fold.
    """
    content = _read_json(path)
    lists = {
        "training": _entries(path, content, "training"),
        "validation": _entries(path, content, "validation"),
        "test": _entries(path, content, "testing") or _entries(path, content, "test"),
    }
    split = Split()
    name = subject_of or _subject
    pairs = [(part, name(path, e), e) for part, rows in lists.items() for e in rows]
    split.folds = {subject: int(e["fold"]) for _, subject, e in pairs if "fold" in e}
    training = list(dict.fromkeys(subject for part, subject, _ in pairs if part == "training"))
    listed = bool(lists["validation"])
    validating, how = _validation(path, training, split.folds, fold, listed, draw)
    for part, subject, _ in pairs:
        moved = part == "training" and subject in validating
        split.add("validation" if moved else part, subject)
    split.provenance = _provenance(path, how)
    return split


def _validation(
    path: Path,
    training: list[str],
    folds: Mapping[str, int],
    fold: int | None,
    listed: bool,
    draw: bool,
) -> tuple[set[str], str]:
    """The training subjects that validate, and in words which ones they are."""
    if fold is not None:
        chosen = {subject for subject in training if folds.get(subject) == fold}
        if not chosen:
            there = ", ".join(map(str, sorted(set(folds.values())))) or "none"
            raise UserError(f"{path} has no training entry of fold {fold}; folds there: {there}")
        return chosen, f"fold {fold}"
    if listed:
        return set(), "the validation list"
    if not draw:
        return set(), "none"
    return ct_fm_validation(training), "the draw of CT-FM's published code"


def ct_fm_validation(training: list[str]) -> set[str]:
    """Draw the validation subjects as CT-FM's published code does.

    The result equals that of scikit-learn's ``train_test_split(training, test_size=57/1082,
    random_state=42)``. On VISTA3D's file these are 52 of 980 subjects.

    Args:
        training: the training subjects in the order of the file, on which the draw depends.
    """
    count = math.ceil(CT_FM_SHARE * len(training))
    order = np.random.RandomState(CT_FM_RANDOM_STATE).permutation(len(training))
    return {training[i] for i in order[:count]}


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"the split file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"the split file {path} is not JSON: {error}") from error
    if not isinstance(content, dict) or not content.get("training"):
        found = ", ".join(content) if isinstance(content, dict) else type(content).__name__
        raise UserError(f"the split file {path} needs a list 'training', and has {found or 'none'}")
    return content


def _entries(path: Path, content: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    rows = content.get(key, [])
    if not isinstance(rows, list):
        raise UserError(f"{path}: {key} is not a list")
    return [row if isinstance(row, dict) else {"image": row} for row in rows]


def _subject(path: Path, entry: Mapping[str, Any]) -> str:
    found: Iterable[str] = set(_SUBJECT.findall(str(entry.get("image"))))
    try:
        (subject,) = found
    except ValueError:
        raise UserError(
            f"{path}: {entry.get('image')!r} does not name one subject of the release; "
            "expected an image such as s0011/ct.nii.gz"
        ) from None
    return subject


def _provenance(path: Path, validation: str) -> dict[str, Any]:
    return {"split": path.name, "split_sha256": sha256(path), "validation": validation}

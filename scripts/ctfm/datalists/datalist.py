"""What every data set's datalist needs: nested subsets, problems told at once, one JSON layout."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ctfm.base.errors import UserError
from ctfm.base.files import atomic_path

__all__ = [
    "PARTS",
    "assign_folds",
    "draw_order",
    "list_of",
    "nested_subset",
    "refuse",
    "write_datalist",
]

#: Lists of a datalist, under the keys that `monai.data.load_decathlon_datalist` is asked for.
PARTS = ("training", "validation", "test")

SHOWN = 5  # problems that the one-line error repeats


def nested_subset(
    subjects: Iterable[str], fraction: float = 1.0, scans: int | None = None, seed: int = 0
) -> list[str]:
    """Draw some of the subjects, so that a smaller draw lies within every larger one.

    Subjects are ordered by a hash of seed and name. The order of two subjects depends on nothing
    else: not on the platform, and not on which other subjects there are.

    Args:
        subjects: names, in any order.
        fraction: share of the subjects, in (0, 1]; rounded, at least one.
        scans: exactly that many instead of a share; None: `fraction` decides.
        seed: another seed gives another draw.

    Returns:
        The names drawn, sorted.

    Raises:
        UserError: `fraction` or `scans` is out of range, or both are given.
    """
    names = sorted(subjects)
    if (
        isinstance(fraction, bool)
        or not isinstance(fraction, (int, float))
        or not 0 < fraction <= 1
    ):
        raise UserError(
            f"fraction is {fraction!r}: give a number above 0 and up to 1 (0.05 is 5 %)"
        )
    if scans is not None and fraction != 1:
        raise UserError(f"fraction {fraction} and scans {scans} are both given: choose one of them")
    if scans is not None and not (isinstance(scans, int) and 0 < scans <= len(names)):
        raise UserError(
            f"scans is {scans!r}: give a whole number from 1 to {len(names)}, all of them"
        )
    count = scans or min(len(names), max(1, round(fraction * len(names))))
    return sorted(sorted(names, key=lambda name: draw_order(seed, name))[:count])


def draw_order(seed: int, name: str) -> str:
    """What subjects are sorted by before the first ones are drawn."""
    return hashlib.sha256(f"{seed} {name}".encode()).hexdigest()


def assign_folds(patients: Iterable[str], folds: int, seed: int = 0) -> dict[str, int]:
    """Deal patients out to folds whose sizes differ by one at most.

    Patients are ordered as `nested_subset` orders them, and dealt out in turn.

    Args:
        patients: names, in any order; a name that comes twice is one patient.
        folds: how many folds.
        seed: another seed gives other folds.

    Returns:
        Patient -> fold, from 0.

    Raises:
        UserError: `folds` is below 2, or above the number of patients.
    """
    names = set(patients)
    whole = isinstance(folds, int) and not isinstance(folds, bool)
    if not whole or not 2 <= folds <= len(names):
        raise UserError(
            f"folds is {folds!r}: give a whole number from 2 to {len(names)}, as many as patients"
        )
    ordered = sorted(names, key=lambda name: draw_order(seed, name))
    return {name: place % folds for place, name in enumerate(ordered)}


def list_of(part: str, marked: object, fold: int | None) -> str:
    """The list that a row belongs to, if one fold validates and the others train.

    Args:
        part: the list in which it stands.
        marked: the row's own fold; None: it has none, and stays where it stands.
        fold: the fold that validates; None: every row stays where it stands.
    """
    if fold is None or marked is None or part not in ("training", "validation"):
        return part
    return "validation" if marked == fold else "training"


def refuse(problems: Sequence[str], outcome: str, advice: str) -> None:
    """Print each problem on a line of its own to stderr, then end in one line that sums them up.

    Args:
        problems: what is wrong, one line each; with none of them nothing happens.
        outcome: what this means for the results, e.g. "no datalist was written".
        advice: what to do, as a sentence without its full stop.

    Raises:
        UserError: there is a problem; it repeats the first five and says how many there are.
    """
    if not problems:
        return
    for problem in problems:
        print(problem, file=sys.stderr)
    shown = "; ".join(problems[:SHOWN])
    more = f"; and {len(problems) - SHOWN} more, listed above" if len(problems) > SHOWN else ""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise UserError(f"{count}, {outcome}: {shown}{more}. {advice}")


def write_datalist(
    out: str | os.PathLike[str],
    parts: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    name: str,
    description: str,
    licence: str,
    labels: Mapping[int, str] | None,
    provenance: Mapping[str, Any],
) -> Path:
    """Write a datalist in the layout of the Medical Segmentation Decathlon.

    The same arguments give the same bytes. A list without entries is left out, because MONAI
    then says which list is missing instead of validating on nothing.

    Args:
        out: JSON file to write.
        parts: "training", "validation", "test" -> entries. Each has ``image``, a path relative to
            the data set's folder, and what else the data set has: ``label``, ``fold``. Apart from
            paths, values must not be strings: MONAI joins a string to the folder if a file or
            folder of that name is there.
        name: of the data set.
        description: one or two sentences.
        licence: of the images and labels.
        labels: label value -> class name; 0, the background, is added. None: images alone.
        provenance: tool, version, checksums, options, counts: one row.

    Returns:
        `out`.

    Raises:
        UserError: a path is absolute, an image is listed twice, or the file cannot be written.
    """
    entries = {part: sorted(parts.get(part, ()), key=lambda e: str(e["image"])) for part in PARTS}
    _check(entries)
    content = {
        "name": name,
        "description": description,
        "licence": licence,
        "modality": {"0": "CT"},
        **({} if labels is None else {"labels": _label_names(labels)}),
        "provenance": dict(provenance),
        **{part: list(rows) for part, rows in entries.items() if rows},
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    with atomic_path(out) as temporary:
        temporary.write_bytes(text.encode())
    return Path(out)


def _label_names(labels: Mapping[int, str]) -> dict[str, str]:
    return {"0": "background", **{str(i): labels[i] for i in sorted(labels)}}


def _check(entries: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    listed: dict[str, str] = {}
    for part, rows in entries.items():
        for row in rows:
            image = str(row["image"])
            if image in listed:
                raise UserError(f"{image} is listed twice, in {listed[image]} and in {part}")
            listed[image] = part
            for path in (image, str(row.get("label", "label"))):
                if PurePosixPath(path).is_absolute():
                    raise UserError(f"{path} is absolute: paths in a datalist are relative")

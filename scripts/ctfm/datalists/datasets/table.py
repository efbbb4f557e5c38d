"""Any table of scans with labels of two classes to a datalist."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctfm.base.columns import Table, binary_labels, read_table
from ctfm.base.errors import UserError
from ctfm.contract.tasks import HEAD_CT_TRIAGE
from ctfm.datalists.datalist import PARTS, nested_subset, refuse
from ctfm.datalists.selection import Exclusion, Reason
from ctfm.datalists.two_classes import Case, write_classified

__all__ = ["SPLIT_NAMES", "classification", "stratified_split"]

AnyPath = str | os.PathLike[str]

#: What a split column may say, in lower case.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "tr"), "training"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "tune"), "validation"),
    **dict.fromkeys(("test", "testing", "ts"), "test"),
}
DESCRIPTION = "Scans with labels of two classes; paths are relative to the folder of the scans"


def classification(
    csv: AnyPath,
    root: AnyPath,
    out: AnyPath,
    image: Any,
    label: Any,
    *,
    subject: Any = None,
    split: Any = None,
    positive: Any = None,
    shares: Sequence[float] = HEAD_CT_TRIAGE.split,
    seed: int = 0,
    skip_bad: bool = False,
) -> Path:
    """List the scans of a table with a row for each of them.

    Args:
        csv: CSV, CSV.gz or Parquet.
        root: folder that the paths in the table are relative to.
        out: JSON file to write; what is left out stands beside it (.excluded.csv).
        image: column of the scans: files, or folders of a DICOM series.
        label: column of the labels, as `ctfm.base.columns.binary_labels` takes them.
        subject: column of the subjects, whose scans stay in one list; None: each scan is one.
        split: column that says train, val or test; None: subjects are drawn.
        positive: the label that counts as 1.
        shares: of the subjects that train, validate and test, where they are drawn; of either
            class as many.
        seed: of the draw.
        skip_bad: leave out scans that are not there, and list them, instead of refusing.

    Returns:
        `out`.

    Raises:
        UserError: the table has another form, scans are not there, a subject is in two lists, or
            an option is out of range.
    """
    source, root, out = Path(csv), Path(root), Path(out)
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: give the folder that the scans' paths start from")
    table = read_table(source)
    labels = binary_labels(
        table.column(str(label), "--label"),
        table.rows,
        f"{source}: column {label}",
        None if positive is None else _text(positive),
    )
    images = _images(table, str(image), root)
    subjects = images if subject is None else _subjects(table, str(subject))
    drawn = split is None
    parts = _drawn(subjects, labels, shares, seed) if drawn else _parts(table, str(split))
    missing = _missing(images, root, skip_bad)
    rows = zip(images, labels, subjects, parts, strict=True)
    cases = [Case(*row) for row in rows if row[0] not in missing]
    excluded = [Exclusion(one, Reason.UNREADABLE, "no such file or folder") for one in missing]
    options = {
        "table": source.name,
        "image": str(image),
        "label": str(label),
        "subject": subject,
        "split": split,
        "positive": positive,
        "shares": list(shares) if drawn else None,
        "seed": seed,
    }
    return write_classified(
        out,
        cases,
        excluded,
        command="classification",
        name=root.resolve().name,
        description=DESCRIPTION,
        licence="as the data set's",
        classes=("negative", "positive") if positive is None else ("other", _text(positive)),
        options=options,
    )


def _drawn(
    subjects: Sequence[str], labels: Sequence[int], shares: Sequence[float], seed: int
) -> list[str]:
    """The list of each scan, all scans of a subject in one."""
    drawn = stratified_split(_classes(subjects, labels), shares, seed)
    return [drawn[one] for one in subjects]


def _missing(images: Sequence[str], root: Path, skip_bad: bool) -> set[str]:
    """Scans that are not there, which are left out where that is asked for."""
    missing = {one for one in images if not (root / one).exists()}
    if not skip_bad:
        refuse(
            [f"{one}: no such file or folder below {root}" for one in sorted(missing)],
            "no datalist was written",
            "Correct the table or --root, or leave these scans out by --skip_bad",
        )
    return missing


def _text(value: Any) -> str:
    """As it was typed: the command line makes a tuple of "0,1"."""
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _images(table: Table, column: str, root: Path) -> list[str]:
    """Paths relative to the root, each once."""
    found: dict[str, str] = {}
    for row, cell in zip(table.rows, table.column(column, "--image"), strict=True):
        path = Path(cell)
        if path.is_absolute():
            try:
                path = path.relative_to(root.absolute())
            except ValueError:
                raise UserError(
                    f"{table.source} {row}: {cell} is not below {root}: give --root a folder that "
                    "holds all scans"
                ) from None
        name = path.as_posix()
        if not cell:
            raise UserError(f"{table.source} {row}: column {column} is empty: fill it in")
        if name in found:
            raise UserError(f"{table.source} {row}: {name} comes twice, first in {found[name]}")
        found[name] = row
    return list(found)


def _subjects(table: Table, column: str) -> list[str]:
    names = table.column(column, "--subject")
    for row, name in zip(table.rows, names, strict=True):
        if not name:
            raise UserError(f"{table.source} {row}: column {column} is empty: fill it in")
    return names


def _parts(table: Table, column: str) -> list[str]:
    parts = []
    for row, cell in zip(table.rows, table.column(column, "--split"), strict=True):
        if cell.lower() not in SPLIT_NAMES:
            known = ", ".join(SPLIT_NAMES)
            raise UserError(
                f"{table.source} {row}: column {column} is {cell!r}, not one of {known}"
            )
        parts.append(SPLIT_NAMES[cell.lower()])
    return parts


def _classes(subjects: Sequence[str], labels: Sequence[int]) -> dict[str, int]:
    """Subject -> 1 if any of its scans is positive."""
    classes: dict[str, int] = {}
    for subject, label in zip(subjects, labels, strict=True):
        classes[subject] = max(classes.get(subject, 0), label)
    return classes


def stratified_split(
    classes: Mapping[str, int], shares: Sequence[float], seed: int
) -> dict[str, str]:
    """Draw lists for subjects, from either class in the same shares.

    Subjects are ordered as `ctfm.datalists.datalist.nested_subset` orders them: a subject's place
    among the others of its class depends on nothing but the seed and its name.

    Args:
        classes: subject -> 0 or 1.
        shares: of training, validation and test; they add up to 1.
        seed: another seed gives another draw.

    Raises:
        UserError: the shares are no such numbers.
    """
    numbers = isinstance(shares, tuple | list) and len(shares) == len(PARTS)
    if not numbers or any(isinstance(s, bool | str) or not 0 <= s <= 1 for s in shares):
        raise UserError(f"shares is {shares!r}: give three numbers, such as 0.8,0.1,0.1")
    if abs(sum(shares) - 1) > 1e-6:
        raise UserError(f"shares {shares!r} add up to {sum(shares):g}: they have to add up to 1")
    found: dict[str, str] = {}
    for label in (0, 1):
        names = [name for name, one in classes.items() if one == label]
        ends = (round(part * len(names)) for part in (shares[0], shares[0] + shares[1]))
        first, second = (
            set(nested_subset(names, scans=end, seed=seed)) if end else set() for end in ends
        )
        for name in names:
            found[name] = PARTS[(name not in first) + (name not in second)]
    return found

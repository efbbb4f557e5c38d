"""Lists of scans with a label of two classes: read for training, and a few subjects of them."""

from __future__ import annotations

from collections.abc import Sequence

from ctfm.base.errors import UserError
from ctfm.datalists.datalist import draw_order, nested_subset
from ctfm.datalists.reading import Row, read_datalist

__all__ = ["SUBJECT_KEYS", "few_subjects", "read_labelled", "subject_of"]

#: Items of a row that may name its subject, the first that is there.
SUBJECT_KEYS = ("subject", "patient")


def read_labelled(
    path: str,
    split: str,
    base_dir: str,
    both_classes: bool = True,
    share: float = 1.0,
    seed: int = 0,
) -> list[Row]:
    """One list of a datalist whose labels are 0 and 1, its paths made absolute.

    Args:
        path: datalist (JSON).
        split: "training", "validation" or "test".
        base_dir: folder that the datalist's paths are relative to.
        both_classes: refuse a list with one class alone: no AUROC exists there.
        share: of the subjects, as `few_subjects` chooses them.
        seed: of that choice.

    Raises:
        UserError: the datalist is missing or no datalist, has no such list, files that it names
            are not there, a label is not 0 or 1, or a class is missing.
    """
    rows = read_datalist(path, split, base_dir)
    for number, row in enumerate(rows, start=1):
        label = row.get("label")
        if isinstance(label, str | bool) or label not in (0, 1):
            raise UserError(
                f"{path}: entry {number} of list {split!r} has label {label!r}: give 0 (normal) or "
                "1 (abnormal)"
            )
    found = {int(row["label"]) for row in rows}
    if both_classes and len(found) < 2:
        raise UserError(
            f"{path}: all {len(rows)} scans of list {split!r} have label {found.pop()}: give scans "
            "of both classes"
        )
    return rows if share == 1 else few_subjects(rows, share, seed)


def few_subjects(rows: Sequence[Row], share: float, seed: int = 0) -> list[Row]:
    """The scans of some subjects, so that a smaller choice lies within every larger one.

    Subjects are ordered by a hash of seed and name (`nested_subset`). The first one of either
    class comes first, so that every choice has both; two subjects are the least.

    Args:
        rows: a training list; without the item ``subject`` or ``patient`` each scan is a subject.
        share: of the subjects, above 0 and up to 1: 0.02, 0.05, 0.1.
        seed: another seed gives another choice.

    Raises:
        UserError: the share is out of range, or all labels are the same.
    """
    classes: dict[str, set[int]] = {}
    for row in rows:
        classes.setdefault(subject_of(row), set()).add(int(row["label"]))
    count = max(2, len(nested_subset(classes, fraction=share, seed=seed)))
    ordered = _ordered(list(classes), seed)
    firsts: list[str] = []
    for label in (0, 1):
        first = next((name for name in ordered if label in classes[name]), None)
        if first is None:
            raise UserError(f"no scan has label {label}: a training needs both classes")
        firsts.append(first)
    leading = sorted(set(firsts), key=ordered.index)
    chosen = set([*leading, *(name for name in ordered if name not in leading)][:count])
    return [row for row in rows if subject_of(row) in chosen]


def subject_of(row: Row) -> str:
    """The subject that a scan is of; without one, the scan's path."""
    named = (row[key] for key in SUBJECT_KEYS if row.get(key) is not None)
    return str(next(named, row["image"]))


def _ordered(names: list[str], seed: int) -> list[str]:
    """In the order in which `nested_subset` draws them."""
    return sorted(names, key=lambda name: draw_order(seed, name))

"""CQ500: head CTs read by three radiologists, to a datalist for an external test."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ctfm.base.columns import Table, binary_labels, read_table
from ctfm.base.errors import UserError
from ctfm.datalists.datasets.finding import Candidate, find_candidates
from ctfm.datalists.datasets.head_series import HeadReason, Wanted
from ctfm.datalists.datasets.sinoct import CLASSES, bone_kernel_only, choose_all
from ctfm.datalists.selection import Exclusion
from ctfm.datalists.two_classes import Case, write_classified

__all__ = ["FINDINGS", "READERS", "RULES", "cq500"]

AnyPath = str | os.PathLike[str]

READS = "reads.csv"
READERS = ("R1", "R2", "R3")
#: Columns of reads.csv, once for each reader: "R1:ICH", …
FINDINGS = (
    "ICH",
    "IPH",
    "IVH",
    "SDH",
    "EDH",
    "SAH",
    "BleedLocation-Left",
    "BleedLocation-Right",
    "ChronicBleed",
    "Fracture",
    "CalvarialFracture",
    "OtherFracture",
    "MassEffect",
    "MidlineShift",
)
RULES = ("any", "majority")
DESCRIPTION = "Head CT, normal or abnormal (any finding); paths are relative to the data folder"
LICENCE = "CC BY-NC-SA 4.0, and the end user licence agreement of CQ500"

#: "CQ500CT0 CQ500CT0" as unpacked, "CQ500-CT-0" as reads.csv and the archives are called.
_STUDY = re.compile(r"CQ500-?CT-?(\d+)", re.IGNORECASE)


def cq500(
    root: AnyPath,
    out: AnyPath,
    *,
    rule: str = "any",
    reads: AnyPath | None = None,
    thickness: float | None = 5.0,
    min_slices: int = 16,
    min_extent: float = 100.0,
    contrast: bool = False,
    workers: int | None = None,
) -> Path:
    """List CQ500's scans, one series of each study, all in the list "test".

    Args:
        root: folder of the unpacked studies ("CQ500CT0 CQ500CT0", …), at any depth.
        out: JSON file to write; what is left out stands beside it (.excluded.csv).
        rule: "any", as published with CT-FM: abnormal if any reader saw any finding; "majority": if
            two of the three readers saw the same finding, which is CQ500's own standard.
        reads: ``reads.csv``; None: that of `root`.
        thickness: of several series, the one whose slices are nearest to this, in mm; 0: the
            thinnest.
        min_slices: fewest slices of a series.
        min_extent: fewest mm along the body's axis.
        contrast: take series with a contrast agent, too.
        workers: processes; None: as many as there are cores.

    Returns:
        `out`.

    Raises:
        UserError: reads.csv is missing or has another form, no scan is found, or an option is out
            of range.
    """
    root, out = Path(root), Path(out)
    if rule not in RULES:
        raise UserError(f"rule is {rule!r}: choose from {', '.join(RULES)}")
    wanted = Wanted(thickness or None, min_slices, min_extent, bool(contrast))
    labels = _read_labels(Path(reads) if reads else root / READS, rule)
    candidates, unread = find_candidates(root)
    studies: defaultdict[str, list[Candidate]] = defaultdict(list)
    excluded = list(unread)
    for one in candidates:
        study = _STUDY.search(one.name)
        name = f"CQ500-CT-{int(study[1])}" if study else ""
        if name in labels:
            studies[name].append(one)
        else:
            detail = f"{name} is not in {READS}" if study else "no folder names the study"
            excluded.append(Exclusion(one.name, HeadReason.NO_LABEL, detail))
    for missing in sorted(labels.keys() - studies.keys()):
        excluded.append(Exclusion(missing, HeadReason.NO_SCAN, f"in {READS}, and no folder"))
    chosen = choose_all(root, studies, wanted, workers)
    excluded += [one for study in chosen for one in study.excluded]
    cases = [
        Case(study.taken.name, labels[study.subject], study.subject, "test")
        for study in chosen
        if study.taken
    ]
    return write_classified(
        out,
        cases,
        excluded,
        command="cq500",
        name="CQ500",
        description=DESCRIPTION,
        licence=LICENCE,
        classes=CLASSES,
        options={**asdict(wanted), "rule": rule, "bone_kernel_only": bone_kernel_only(chosen)},
    )


def _read_labels(path: Path, rule: str) -> dict[str, int]:
    """Study -> 0 or 1."""
    table = read_table(path)
    names = [
        _named(table, row, cell)
        for row, cell in zip(table.rows, table.column("name", "the studies"), strict=True)
    ]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path}: {twice} comes twice: keep one row a study")
    votes = [[_votes(table, f"{reader}:{finding}") for reader in READERS] for finding in FINDINGS]
    needed = 1 if rule == "any" else 2
    return {
        name: int(any(sum(reader[place] for reader in finding) >= needed for finding in votes))
        for place, name in enumerate(names)
    }


def _named(table: Table, row: str, cell: str) -> str:
    study = _STUDY.fullmatch(cell)
    if not study:
        raise UserError(f"{table.source} {row}: name is {cell!r}, not such as CQ500-CT-0")
    return f"CQ500-CT-{int(study[1])}"


def _votes(table: Table, column: str) -> Sequence[int]:
    cells = table.column(column, "a reader's finding")
    return binary_labels(cells, table.rows, f"{table.source}: column {column}")

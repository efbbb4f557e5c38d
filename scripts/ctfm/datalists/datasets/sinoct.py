"""SinoCT: head CTs, normal or abnormal, to a datalist with the published split."""

from __future__ import annotations

import os
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path, PurePosixPath

from ctfm.base.columns import binary_labels, read_table
from ctfm.base.errors import UserError
from ctfm.base.optional import require
from ctfm.base.workers import in_processes
from ctfm.contract.tasks import HEAD_CT_TRIAGE
from ctfm.datalists.datalist import PARTS
from ctfm.datalists.datasets.finding import Candidate, find_candidates
from ctfm.datalists.datasets.head_series import HeadReason, Study, Wanted, choose_series
from ctfm.datalists.selection import Exclusion
from ctfm.datalists.two_classes import Case, write_classified

__all__ = ["bone_kernel_only", "choose_all", "published_split", "sinoct"]

AnyPath = str | os.PathLike[str]

LABELS = "labels.csv"
CLASSES = ("normal", "abnormal")
DESCRIPTION = "Head CT, normal or abnormal; paths are relative to the folder of labels.csv"
LICENCE = "as the data set's (Stanford AIMI)"
#: Scans of the release; the published test list follows from the draw over all of them.
PUBLISHED = 9779


def sinoct(
    root: AnyPath,
    out: AnyPath,
    *,
    thickness: float | None = 5.0,
    min_slices: int = 16,
    min_extent: float = 100.0,
    contrast: bool = False,
    seed: int = HEAD_CT_TRIAGE.split_seed,
    workers: int | None = None,
) -> Path:
    """List SinoCT's scans: one series of each patient, 80/10/10 by patient as published.

    Patients are drawn as CT-FM's published code does: the ids of ``labels.csv`` sorted, shuffled by
    Python's ``random`` with seed 0, and cut. For ``series_0`` to ``series_9778`` this gives the
    published test list, all 978 of it. A patient's place depends on nothing that is left out.

    Args:
        root: folder with ``labels.csv`` (patient_id; label: "1,0" normal, "0,1" abnormal) and a
            folder for each patient, of DICOM series or of NIfTI, NRRD or MHA files.
        out: JSON file to write; what is left out stands beside it (.excluded.csv).
        thickness: of several series, the one whose slices are nearest to this, in mm; 0: the
            thinnest.
        min_slices: fewest slices of a series.
        min_extent: fewest mm along the body's axis.
        contrast: take series with a contrast agent, too.
        seed: of the split.
        workers: processes; None: as many as there are cores.

    Returns:
        `out`.

    Raises:
        UserError: labels.csv is missing or has another form, no scan is found, or an option is out
            of range.
    """
    root, out = Path(root), Path(out)
    wanted = Wanted(thickness or None, min_slices, min_extent, bool(contrast))
    labels = _read_labels(root)
    parts = published_split(list(labels), seed)
    candidates, unread = find_candidates(root)
    by_patient: defaultdict[str, list[Candidate]] = defaultdict(list)
    for one in candidates:
        by_patient[PurePosixPath(one.name).parts[0]].append(one)
    known = {name: some for name, some in by_patient.items() if name in labels}
    studies = choose_all(root, known, wanted, workers)
    excluded = [*unread, *(one for study in studies for one in study.excluded)]
    for missing in sorted(labels.keys() - by_patient.keys()):
        excluded.append(Exclusion(missing, HeadReason.NO_SCAN, "in labels.csv, and no folder"))
    for name in sorted(by_patient.keys() - labels.keys()):
        excluded.append(Exclusion(name, HeadReason.NO_LABEL, "not in labels.csv"))
    cases = [
        Case(study.taken.name, labels[study.subject], study.subject, parts[study.subject])
        for study in studies
        if study.taken
    ]
    split = "as published" if len(labels) == PUBLISHED and seed == 0 else "drawn as published"
    return write_classified(
        out,
        cases,
        excluded,
        command="sinoct",
        name="SinoCT",
        description=DESCRIPTION,
        licence=LICENCE,
        classes=CLASSES,
        options={
            **asdict(wanted),
            "seed": seed,
            "patients": len(labels),
            "split": split,
            "bone_kernel_only": bone_kernel_only(studies),
        },
    )


def bone_kernel_only(studies: Sequence[Study]) -> int:
    """How many studies had no series of a soft kernel that would do."""
    return sum(study.taken is not None and study.taken.sharp for study in studies)


def _read_labels(root: Path) -> dict[str, int]:
    """Patient -> 0 or 1."""
    table = read_table(root / LABELS)
    names = table.column("patient_id", "the patients")
    values = binary_labels(
        table.column("label", "the labels"), table.rows, f"{table.source}: column label"
    )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"{table.source}: patient_id {twice[0]} comes twice: keep one row each")
    return dict(zip(names, values, strict=True))


def published_split(patients: Sequence[str], seed: int) -> dict[str, str]:
    """Patient -> list, as CT-FM's published code draws them.

    Raises:
        UserError: a list would be empty, or the seed is no whole number.
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise UserError(f"seed is {seed!r}: give a whole number")
    order = sorted(patients)
    random.Random(seed).shuffle(order)
    training, validation, _ = HEAD_CT_TRIAGE.split
    ends = int(training * len(order)), int((training + validation) * len(order))
    if not 0 < ends[0] < ends[1] < len(order):
        raise UserError(f"{len(order)} patients are too few to split: give 10 or more")
    lists = order[: ends[0]], order[ends[0] : ends[1]], order[ends[1] :]
    return {name: part for part, some in zip(PARTS, lists, strict=True) for name in some}


def choose_all(
    root: Path,
    studies: Mapping[str, Sequence[Candidate]],
    wanted: Wanted,
    workers: int | None,
) -> list[Study]:
    """Choose a series of each study, in several processes.

    Raises:
        UserError: `workers` is out of range, or what reads DICOM is not installed.
    """
    if any(one.is_series for some in studies.values() for one in some):
        require("pydicom", purpose="read DICOM", extra="dicom")
    judge = partial(choose_series, root, wanted)
    return in_processes(judge, sorted(studies.items()), workers, task="reading headers")

"""A tree of CTs, of any layout, to a datalist for self-supervised pretraining."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from ctfm import __version__
from ctfm.base.errors import UserError
from ctfm.base.optional import require
from ctfm.base.tables import write_table
from ctfm.base.workers import in_processes
from ctfm.datalists.datalist import nested_subset, write_datalist
from ctfm.datalists.datasets.dicom_series import inspect_series
from ctfm.datalists.datasets.finding import Candidate, find_candidates
from ctfm.datalists.datasets.volume_headers import inspect_file
from ctfm.datalists.selection import Exclusion, Selection, count_reasons, in_words

__all__ = ["archive"]

AnyPath = str | os.PathLike[str]

DESCRIPTION = "CT for self-supervised pretraining; paths are relative to the folder of the archive"
#: Files are handed to a process in such lots: a header takes less than a millisecond.
LOT = 16


@dataclass(frozen=True)
class Judged:
    """What became of a candidate: `patient` groups scans; `excluded` is None where it is taken."""

    name: str
    patient: str
    excluded: Exclusion | None


def archive(
    root: AnyPath,
    out: AnyPath,
    *,
    validation: float = 0.0,
    patient_level: int | None = None,
    pattern: str = "*",
    min_thickness: float = 1.0,
    max_thickness: float = 5.0,
    min_slices: int = 51,
    check_values: bool = False,
    seed: int = 0,
    workers: int | None = None,
) -> Path:
    """List the CTs below a folder that pass the selection CT-FM was pretrained on.

    NIfTI, NRRD and MHA/MHD files are scans, and folders of DICOM files. Only headers are read. Of a
    DICOM series all of them: modality CT, thickness, slices, one position a slice, no localizer.
    A file's header knows no modality; the distance of its slices stands for their thickness.

    Every scan that is left out is a row, with its reason, of the table beside `out`. Every path in
    the datalist is relative to `root`; load it with
    ``monai.data.load_decathlon_datalist(out, True, "training", base_dir=root)``.

    Args:
        root: folder of the archive; hidden files and folders are passed over.
        out: JSON file to write; the table is called like it, with ``.excluded.csv``. The same
            arguments on the same files give the same bytes.
        validation: share of the patients whose scans become the list "validation", below 1.
        patient_level: a patient is the folder so many levels below `root`, or a file that lies
            above it; None: DICOM's PatientID where there is one, and level 1.
        pattern: only scans whose path below `root` matches, such as "*/ct.nii.gz".
        min_thickness: mm, of every slice.
        max_thickness: mm, of every slice.
        min_slices: fewest slices.
        check_values: read slices of files, too, and leave out what is not in Hounsfield units.
        seed: of the draw of patients; those of a smaller share lie within those of a larger one.
        workers: processes; None: as many as there are cores.

    Returns:
        `out`.

    Raises:
        UserError: there is no such folder, it holds no scan, no scan passes, or an argument is
            out of range.
    """
    root, out = Path(root), Path(out)
    selection = Selection(min_thickness, max_thickness, min_slices)
    _check_options(validation, patient_level)
    options = {
        **asdict(selection),
        **{"pattern": str(pattern), "check_values": bool(check_values)},
        **{"validation": float(validation), "patient_level": patient_level, "seed": seed},
    }
    candidates, unread = find_candidates(root, str(pattern))
    if any(one.is_series for one in candidates):
        require("pydicom", purpose="read DICOM", extra="dicom")
    judge = partial(_judge, root, selection, bool(check_values), patient_level)
    judged = in_processes(judge, candidates, workers, task="reading headers", chunk=LOT)
    excluded = [*unread, *(one.excluded for one in judged if one.excluded is not None)]
    table = _write_excluded(out, excluded)
    taken = {one.name: one.patient for one in judged if one.excluded is None}
    if not taken:
        raise UserError(
            f"{root}: none of {len(excluded)} scans is taken ({in_words(excluded)}): see {table}; "
            "no datalist was written"
        )
    parts = _split(taken, validation, seed)
    _write(root, out, parts, options, excluded)
    numbers = ", ".join(f"{len(names)} {part}" for part, names in parts.items())
    print(
        f"{out}: {numbers}, of {len(taken) + len(excluded)} scans; {len(excluded)} are left out "
        f"({in_words(excluded) or 'none'}), listed in {table}",
        file=sys.stderr,
    )
    return out


def _check_options(validation: Any, patient_level: Any) -> None:
    if isinstance(validation, bool | str) or not 0 <= validation < 1:
        raise UserError(
            f"validation is {validation!r}: give a share from 0 up to below 1 (0.05 is 5 %)"
        )
    if patient_level is None:
        return
    if isinstance(patient_level, bool) or not isinstance(patient_level, int) or patient_level < 1:
        raise UserError(f"patient_level is {patient_level!r}: give a whole number from 1")


def _judge(
    root: Path, selection: Selection, check_values: bool, level: int | None, one: Candidate
) -> Judged:
    patient = ""
    if one.is_series:
        patient, excluded = inspect_series(root, one.name, selection)
    else:
        judged = inspect_file(root, one.name, selection, check_values)
        excluded = judged if isinstance(judged, Exclusion) else None
    folder = "/".join(PurePosixPath(one.name).parts[: level or 1])
    return Judged(one.name, folder if level else patient or folder, excluded)


def _write_excluded(out: Path, excluded: Iterable[Exclusion]) -> Path:
    rows = sorted((one.name, one.reason, one.detail) for one in excluded)
    return write_table(out.with_suffix(".excluded.csv"), ("image", "reason", "detail"), rows)


def _split(taken: Mapping[str, str], validation: float, seed: int) -> dict[str, list[str]]:
    """Scans of each list; all scans of a patient are in the same one."""
    if not validation:
        return {"training": list(taken)}
    patients = defaultdict(list)
    for name, patient in taken.items():
        patients[patient].append(name)
    held = round(validation * len(patients))
    if not 0 < held < len(patients):
        raise UserError(
            f"validation {validation:g} of {len(patients)} patients is {held} of them: give "
            "another share, or --patient_level N where patients' folders lie N below --root"
        )
    drawn = set(nested_subset(patients, fraction=float(validation), seed=seed))
    parts: dict[str, list[str]] = {"training": [], "validation": []}
    for name, patient in taken.items():
        parts["validation" if patient in drawn else "training"].append(name)
    return parts


def _write(
    root: Path,
    out: Path,
    parts: Mapping[str, Sequence[str]],
    options: Mapping[str, Any],
    excluded: Sequence[Exclusion],
) -> None:
    write_datalist(
        out,
        {part: [{"image": name} for name in names] for part, names in parts.items()},
        name=root.resolve().name,
        description=DESCRIPTION,
        licence="as the archive's",
        labels=None,
        provenance={
            "tool": "ctfm datalist ct",
            "version": __version__,
            **options,
            "counts": {part: len(names) for part, names in parts.items()},
            "left_out": count_reasons(excluded),
        },
    )

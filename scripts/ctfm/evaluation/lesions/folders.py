"""Label maps in folders: which prediction goes with which reference, and their lesions."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctfm.base.errors import UserError
from ctfm.base.workers import in_processes
from ctfm.evaluation.lesions.detection import LesionScore, lesion_score, summarise_lesions
from ctfm.evaluation.lesions.lesion_report import format_lesions, write_lesions
from ctfm.imaging.file_names import NIFTI
from ctfm.imaging.grids import AFFINE_TOLERANCE_MM, farthest_corner_mm, spacing_of
from ctfm.imaging.nifti import opened_image

__all__ = ["score_lesions"]

#: What inference adds to the name of the scan.
RESULT = "_seg"

AnyPath = str | os.PathLike[str]


def score_lesions(
    predictions: AnyPath,
    references: AnyPath,
    *,
    out: AnyPath | None = None,
    class_id: int | None = None,
    min_overlap: float = 0.0,
    seed: int = 0,
    resamples: int = 1000,
    workers: int | None = None,
) -> str:
    """Detection of lesions in label maps of NIfTI files, matched by their names.

    ``case_seg.nii.gz``, as inference writes it, or ``case.nii.gz`` goes with ``case.nii.gz`` of the
    references. References without a prediction are left aside and counted.

    Args:
        predictions: a folder, searched with its subfolders, or one file.
        references: the same.
        out: folder for `lesions.csv`, `lesions_cases.csv` and `lesions.json`; None: no files.
        class_id: the id of tumour, such as 2 in Task03_Liver; None: every voxel above 0.
        min_overlap: share of its voxels that the other mask must have, from 0 to 1; 0: any voxel.
        seed: of the bootstrap.
        resamples: of the bootstrap.
        workers: processes; None: as many as there are cores.

    Returns:
        The table for the terminal.

    Raises:
        UserError: nothing is there, a prediction has no reference, or two maps do not belong
            together.
    """
    pairs = _matched(Path(predictions), Path(references))
    score = partial(_score, class_id=class_id, min_overlap=min_overlap)
    scores = in_processes(score, pairs, workers, task="finding lesions")
    cases = {case: score for (case, _, _), score in zip(pairs, scores, strict=True)}
    summary = summarise_lesions(cases, seed=seed, resamples=resamples)
    if out is not None:
        settings = {
            "predictions": str(predictions),
            "references": str(references),
            "class_id": class_id,
            "min_overlap": min_overlap,
        }
        write_lesions(cases, out, summary, settings)
    return format_lesions(summary)


def _matched(predictions: Path, references: Path) -> list[tuple[str, Path, Path]]:
    """Case, prediction and reference, by the cases' names."""
    if predictions.is_file() and references.is_file():
        return [(_stem(references), predictions, references)]
    found, expected = _files(predictions), _files(references)
    by_case = {_case(name, expected): path for name, path in found.items()}
    if alone := sorted(str(found[name]) for name in found if _case(name, expected) not in expected):
        raise UserError(
            f"{len(alone)} predictions have no reference in {references} (first: {alone[0]}): "
            "give the folder of their references, called as the scans are"
        )
    if len(by_case) < len(found):
        raise UserError(f"{predictions}: a case has two predictions: give the folder of one run")
    if unpredicted := len(expected) - len(by_case):
        print(f"note: {unpredicted} references have no prediction", file=sys.stderr)
    return [(case, by_case[case], expected[case]) for case in sorted(by_case)]


def _files(path: Path) -> dict[str, Path]:
    """Label maps by their names, in a folder and its subfolders."""
    if path.is_file():
        return {_stem(path): path}
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    files = [p for p in sorted(path.rglob("[!.]*")) if p.name.endswith(NIFTI) and p.is_file()]
    if not files:
        raise UserError(f"{path}: no label map in this folder ({', '.join(reversed(NIFTI))})")
    names: dict[str, Path] = {}
    for file in files:
        before = names.setdefault(_stem(file), file)
        if before != file:
            raise UserError(f"{before} and {file} have the same name: give one folder of them")
    return names


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _case(name: str, expected: dict[str, Path]) -> str:
    return name if name in expected else name.removesuffix(RESULT)


def _score(pair: tuple[str, Path, Path], class_id: int | None, min_overlap: float) -> LesionScore:
    case, *files = pair
    (prediction, affine), (reference, other) = (_read(file) for file in files)
    if prediction.shape == reference.shape:
        distance = farthest_corner_mm(reference.shape, affine, other)
        if not distance <= AFFINE_TOLERANCE_MM:
            raise UserError(
                f"{files[0]}: its voxels lie up to {distance:.3g} mm from those of {files[1]}: "
                "give a prediction on the grid of its reference"
            )
    try:
        return lesion_score(
            prediction, reference, spacing_of(other).tolist(), class_id, min_overlap
        )
    except UserError as error:
        raise UserError(f"{case}: {error}") from error


def _read(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    try:
        with opened_image(path) as image:
            return np.asanyarray(image.dataobj), np.asarray(image.affine, dtype=float)
    except Exception as error:  # a damaged file may make the reader raise anything
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: cannot be read ({type(error).__name__}: {reason})") from error

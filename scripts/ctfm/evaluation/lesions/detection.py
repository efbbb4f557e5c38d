"""Are the lesions found? Detection counted lesion by lesion, in a case and over cases.

A lesion is a connected component of a mask, voxels touching by a face, an edge or a corner
(26-connected). By default, a reference lesion is detected if the prediction has any of its voxels,
and a predicted lesion is a false positive if the reference has none of its voxels. That is the
rule behind the false negative and false positive volumes of autoPET (Gatidis et al. 2022,
doi:10.1038/s41597-022-01718-3, https://github.com/lab-midas/autoPET), whose evaluation takes
components that touch by a face or an edge. A stricter rule asks for a share of the lesion's
voxels. Nothing is matched one to one: a prediction that covers two lesions detects both, and a
lesion covered in two pieces is detected once, with no false positive.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import ndimage

from ctfm.base.errors import UserError
from ctfm.base.types import Array
from ctfm.evaluation.intervals import Estimate, estimate_mean, estimate_ratio
from ctfm.imaging.label_maps import Volume, label_map_pair

__all__ = [
    "SIZES_MM",
    "Lesion",
    "LesionRow",
    "LesionScore",
    "LesionSummary",
    "lesion_score",
    "summarise_lesions",
]

#: Where size classes end, as diameters of balls of the lesions' volume: 10 mm is the smallest
#: measurable lesion of RECIST 1.1 (Eisenhauer et al. 2009, doi:10.1016/j.ejca.2008.10.026).
SIZES_MM = (10.0, 20.0)
#: A share exactly at the limit counts, however it is rounded.
ROUNDING = 1e-9
NAN = float("nan")


@dataclass(frozen=True)
class Lesion:
    """A connected component of one mask, seen from the other.

    Attributes:
        volume_ml: its volume.
        overlap: share of its voxels that the other mask has, 0 to 1.
        found: the overlap is enough: detected, or for a predicted lesion no false positive.
    """

    volume_ml: float
    overlap: float
    found: bool

    @property
    def diameter_mm(self) -> float:
        """Diameter of the ball that has its volume."""
        return float(np.cbrt(6000 * self.volume_ml / math.pi))


@dataclass(frozen=True)
class LesionScore:
    """The lesions of one case, each list from the largest to the smallest."""

    reference: tuple[Lesion, ...]
    predicted: tuple[Lesion, ...]

    @property
    def detected(self) -> int:
        """Reference lesions that were found."""
        return sum(lesion.found for lesion in self.reference)

    @property
    def false_positives(self) -> int:
        """Predicted lesions that are none."""
        return sum(not lesion.found for lesion in self.predicted)

    @property
    def sensitivity(self) -> float:
        """Share of the reference's lesions that were found; nan without any."""
        return self.detected / len(self.reference) if self.reference else NAN

    @property
    def missed_ml(self) -> float:
        """Volume of the reference lesions that were not found."""
        return math.fsum(lesion.volume_ml for lesion in self.reference if not lesion.found)

    @property
    def false_positive_ml(self) -> float:
        """Volume of the predicted lesions that are none."""
        return math.fsum(lesion.volume_ml for lesion in self.predicted if not lesion.found)


@dataclass(frozen=True)
class LesionRow:
    """Lesions of one size class, or all of them, over the cases.

    Attributes:
        name: "all lesions", or such as "10 to 20 mm".
        lesions: in the references.
        detected: how many of those were found.
        sensitivity: detected by lesions, over all lesions together; resampled by cases.
        predicted: lesions in the predictions.
        false_positives: how many of those are none.
        false_positives_per_scan: mean over all scans, also those without a lesion.
        precision: predicted lesions that are lesions, by predicted lesions.
    """

    name: str
    lesions: int
    detected: int
    sensitivity: Estimate
    predicted: int
    false_positives: int
    false_positives_per_scan: Estimate
    precision: Estimate


@dataclass(frozen=True)
class LesionSummary:
    """What `summarise_lesions` found, and with which settings.

    Attributes:
        cases: scans.
        cases_with_lesions: scans whose reference has a lesion.
        overall: all lesions.
        sizes: lesions by the diameter of a ball of their volume, from small to large.
        missed_ml: volume of the lesions that were not found, mean over scans.
        false_positive_ml: volume of what is no lesion, mean over scans.
        seed: of the resampling.
        resamples: for each interval.
    """

    cases: int
    cases_with_lesions: int
    overall: LesionRow
    sizes: list[LesionRow]
    missed_ml: Estimate
    false_positive_ml: Estimate
    seed: int
    resamples: int


def lesion_score(
    prediction: Volume,
    reference: Volume,
    spacing: Sequence[float],
    class_id: int | None = None,
    min_overlap: float = 0.0,
) -> LesionScore:
    """Find the lesions of one case and count which of them the other mask has.

    Args:
        prediction: mask or label map `(D, H, W)`.
        reference: the same, of the same shape on the same grid.
        spacing: voxel size in mm, in the order of the array's axes.
        class_id: the id of tumour in the label maps; None: every voxel above 0.
        min_overlap: share of its voxels that the other mask must have, from 0 to 1; 0: any voxel.

    Raises:
        UserError: the shapes differ, the maps are not label maps, the spacing is not
            three positive numbers, or an argument is out of range.
    """
    maps, voxel = label_map_pair(prediction, reference, spacing)
    if class_id is not None and (isinstance(class_id, bool | str) or class_id < 1):
        raise UserError(f"class_id is {class_id!r}: give the id of tumour, from 1")
    if isinstance(min_overlap, bool | str) or not 0 <= min_overlap <= 1:
        raise UserError(f"min_overlap is {min_overlap!r}: give a share from 0 (any voxel) to 1")
    masks = _cut(*(m > 0 if class_id is None else m == class_id for m in maps))
    voxel_ml = math.prod(voxel) / 1000
    return LesionScore(
        reference=_lesions(masks[1], masks[0], voxel_ml, min_overlap),
        predicted=_lesions(masks[0], masks[1], voxel_ml, min_overlap),
    )


def _cut(prediction: Array, reference: Array) -> tuple[Array, Array]:
    """Both masks inside the smallest box around them: labelling takes as long as its volume."""
    either = prediction | reference
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        (places,) = np.nonzero(either.any(axis=others))
        box.append(slice(places[0], places[-1] + 1) if places.size else slice(0, 0))
    return prediction[tuple(box)], reference[tuple(box)]


def _lesions(mask: Array, other: Array, voxel_ml: float, min_overlap: float) -> tuple[Lesion, ...]:
    if not mask.size:
        return ()
    numbered, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    voxels = np.bincount(numbered[mask], minlength=count + 1)[1:]
    shared = np.bincount(numbered[mask & other], minlength=count + 1)[1:]
    lesions = []
    for count_here, count_shared in zip(voxels.tolist(), shared.tolist(), strict=True):
        overlap = count_shared / count_here
        found = overlap > 0 and overlap >= min_overlap - ROUNDING
        lesions.append(Lesion(count_here * voxel_ml, overlap, found))
    return tuple(sorted(lesions, key=lambda lesion: (-lesion.volume_ml, -lesion.overlap)))


def summarise_lesions(
    cases: Mapping[str, LesionScore],
    sizes_mm: Sequence[float] = SIZES_MM,
    seed: int = 0,
    resamples: int = 1000,
) -> LesionSummary:
    """Sensitivity and false positives over cases, with bootstrap intervals.

    Args:
        cases: case name -> its lesions.
        sizes_mm: where size classes end, ascending diameters.
        seed: of the resampling; the intervals are the same on every run.
        resamples: bootstrap resamples for each interval (percentile method, over cases).

    Raises:
        UserError: there are no cases, or the sizes are not ascending.
    """
    if not cases:
        raise UserError("there are no cases to summarise: give at least one")
    if any(not low < high for low, high in pairwise((0.0, *sizes_mm))):
        raise UserError(f"sizes_mm is {list(sizes_mm)}: give ascending diameters above 0 mm")
    scores = list(cases.values())
    rows = [
        _row(name, scores, low, high, seed, resamples) for name, low, high in _classes(sizes_mm)
    ]
    return LesionSummary(
        cases=len(scores),
        cases_with_lesions=sum(bool(score.reference) for score in scores),
        overall=rows[0],
        sizes=rows[1:],
        missed_ml=estimate_mean([s.missed_ml for s in scores], seed, resamples),
        false_positive_ml=estimate_mean([s.false_positive_ml for s in scores], seed, resamples),
        seed=seed,
        resamples=resamples,
    )


def _classes(sizes_mm: Sequence[float]) -> list[tuple[str, float, float]]:
    """Name, least diameter and the diameter that is too large; all lesions first."""
    ends = [0.0, *sizes_mm, math.inf]
    classes = [("all lesions", 0.0, math.inf)]
    for low, high in pairwise(ends if sizes_mm else []):
        name = f"below {high:g} mm" if low == 0 else f"{low:g} to {high:g} mm"
        classes.append((name if high < math.inf else f"from {low:g} mm", low, high))
    return classes


def _row(
    name: str, scores: Sequence[LesionScore], low: float, high: float, seed: int, resamples: int
) -> LesionRow:
    def count(lesions: Sequence[Lesion]) -> tuple[int, int]:
        mine = [lesion.found for lesion in lesions if low <= lesion.diameter_mm < high]
        return len(mine), sum(mine)

    there, detected = zip(*(count(score.reference) for score in scores), strict=True)
    predicted, right = zip(*(count(score.predicted) for score in scores), strict=True)
    wrong = [n - good for n, good in zip(predicted, right, strict=True)]
    return LesionRow(
        name=name,
        lesions=sum(there),
        detected=sum(detected),
        sensitivity=estimate_ratio(detected, there, seed, resamples),
        predicted=sum(predicted),
        false_positives=sum(wrong),
        false_positives_per_scan=estimate_mean(wrong, seed, resamples),
        precision=estimate_ratio(right, predicted, seed, resamples),
    )

"""Dice and surface distances of every class in a pair of label maps.

The scores are MONAI's (`compute_average_surface_distance(symmetric=True)`,
`compute_hausdorff_distance(percentile=95)`, `compute_surface_dice`, Dice with
`ignore_empty=True`) on label maps: all classes are found in one pass, every class is cut out of
the volume first, and its surface distances are measured once for the three scores made of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from monai.metrics.utils import get_mask_edges, get_surface_distance
from scipy import ndimage

from ctfm.base.errors import UserError
from ctfm.base.types import Array
from ctfm.imaging.label_maps import Volume, label_map_pair

__all__ = ["NSD_TOLERANCE_MM", "ClassScore", "segmentation_scores"]

#: Tolerance of TotalSegmentator's own evaluation (Wasserthal et al. 2023, arXiv:2208.05868).
NSD_TOLERANCE_MM = 3.0
#: A surface exactly at the tolerance counts, however an affine in float32 rounds its spacing.
ROUNDING_MM = 1e-3
NAN = float("nan")

Box = tuple[slice, ...]


@dataclass(frozen=True)
class ClassScore:
    """One class in one case; nan means that the score does not exist and is left out of means.

    | in the reference | in the prediction | Dice, NSD | ASD, HD95 |
    |---|---|---|---|
    | yes | yes | value | value |
    | yes | no (`missed`) | 0 | nan: there is no surface to measure to |
    | no | either (yes: `spurious`) | nan | nan |

    Attributes:
        dice: 0 to 1.
        asd_mm: average surface distance, symmetric: mean over the voxels of both surfaces.
        hd95_mm: the larger of the two directed 95th percentiles of surface distance.
        nsd: normalised surface Dice, the share of both surfaces within the tolerance, 0 to 1.
        reference_ml: volume of the class in the reference.
        prediction_ml: volume of the class in the prediction.
    """

    class_id: int
    name: str
    dice: float
    asd_mm: float
    hd95_mm: float
    nsd: float
    reference_ml: float
    prediction_ml: float

    @property
    def missed(self) -> bool:
        """The reference has the class, the prediction does not."""
        return self.reference_ml > 0 and self.prediction_ml == 0

    @property
    def spurious(self) -> bool:
        """The prediction has the class, the reference does not."""
        return self.prediction_ml > 0 and self.reference_ml == 0


def segmentation_scores(
    prediction: Volume,
    reference: Volume,
    spacing: Sequence[float],
    classes: Mapping[int, str],
    nsd_tolerance_mm: float = NSD_TOLERANCE_MM,
) -> list[ClassScore]:
    """Score one case, class by class.

    Args:
        prediction: label map `(D, H, W)`, integers (a float array may hold them).
        reference: label map of the same shape on the same grid.
        spacing: voxel size in mm, in the order of the array's axes.
        classes: id -> name of the classes to score; 0 (background) and ids that it does not name
            are not scored.
        nsd_tolerance_mm: surfaces no farther apart than this count as equal in `nsd`.

    Returns:
        One score for every class in `classes`, ascending by id; see `ClassScore` for classes
        that one of the maps, or both, do not have.

    Raises:
        UserError: the shapes differ, the maps are not label maps, the spacing is not
            three positive numbers, or there is no class to score.
    """
    maps, voxel = label_map_pair(prediction, reference, spacing)
    ids = sorted(i for i in classes if i != 0)
    if not ids or ids[0] < 0:
        raise UserError(f"class ids to score are {ids}: expected at least one, all positive")
    boxes = _joint_boxes(*maps, largest=ids[-1])
    return [
        _class_score(i, classes[i], _cut(maps, i, boxes[i - 1]), voxel, nsd_tolerance_mm)
        for i in ids
    ]


def _joint_boxes(prediction: Array, reference: Array, largest: int) -> list[Box | None]:
    """For the ids 1 to `largest`, the smallest box around both maps' voxels; None: no voxel.

    No margin is needed: what lies outside counts as background in MONAI's edges.
    """
    found = (ndimage.find_objects(labels, max_label=largest) for labels in (prediction, reference))
    return [_union(a, b) if a and b else a or b for a, b in zip(*found, strict=True)]


def _union(a: Box, b: Box) -> Box:
    return tuple(
        slice(min(i.start, j.start), max(i.stop, j.stop)) for i, j in zip(a, b, strict=True)
    )


def _cut(maps: tuple[Array, Array], class_id: int, box: Box | None) -> tuple[Array, Array]:
    """Both masks of a class inside its box; two empty ones where there is no box."""
    inside = box or (slice(0, 0),) * 3
    prediction, reference = maps
    return prediction[inside] == class_id, reference[inside] == class_id


def _class_score(
    class_id: int,
    name: str,
    masks: tuple[Array, Array],
    spacing: Sequence[float],
    tolerance: float,
) -> ClassScore:
    prediction, reference = masks
    predicted, expected = int(prediction.sum()), int(reference.sum())
    dice = asd = hd95 = nsd = NAN
    if expected:
        dice = 2 * int((prediction & reference).sum()) / (predicted + expected)
        nsd = 0.0
    if predicted and expected:
        edges = get_mask_edges(prediction, reference, crop=False)
        there = get_surface_distance(*edges, spacing=spacing)
        back = get_surface_distance(*reversed(edges), spacing=spacing)
        both = np.concatenate([there, back])
        asd = float(both.mean(dtype=np.float64))
        hd95 = float(max(np.percentile(there, 95), np.percentile(back, 95)))
        nsd = float((both <= tolerance + ROUNDING_MM).mean())
    ml = math.prod(spacing) / 1000
    return ClassScore(class_id, name, dice, asd, hd95, nsd, expected * ml, predicted * ml)

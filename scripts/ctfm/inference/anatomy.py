"""Does a label map lie in the body as anatomy has it? If not, the scan's header may be wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ctfm.base.types import Array

__all__ = ["anatomy_warnings"]

#: Voxels of an axis, at least, that are looked at.
SAMPLES = 128
#: Structures of less than this say nothing: they may be mistakes of the network.
LEAST_ML = 2.0
#: Centres nearer to each other than this, in mm, lie neither here nor there.
MARGIN_MM = 10.0


@dataclass(frozen=True)
class Order:
    """An axis of the body, and pairs of structures whose first lies on its positive side.

    Attributes:
        axis: of RAS+.
        words: what may be exchanged in the header.
        pairs: names of classes; a group is named by its beginning and "*".
    """

    axis: int
    words: str
    pairs: tuple[tuple[str, str], ...]


ORDERS = (
    Order(
        0,
        "left and right",
        (
            ("liver", "spleen"),
            ("kidney_right", "kidney_left"),
            ("lung_upper_lobe_right", "lung_upper_lobe_left"),
            ("lung_lower_lobe_right", "lung_lower_lobe_left"),
            ("hip_right", "hip_left"),
            ("femur_right", "femur_left"),
        ),
    ),
    Order(
        1,
        "front and back",
        (
            ("trachea", "vertebrae_*"),
            ("heart*", "vertebrae_*"),
            ("sternum", "vertebrae_*"),
            ("urinary_bladder", "sacrum"),
        ),
    ),
    Order(
        2,
        "head and feet",
        (
            ("heart*", "urinary_bladder"),
            ("liver", "urinary_bladder"),
            ("lung_upper_lobe_right", "liver"),
            ("lung_upper_lobe_left", "spleen"),
            ("brain", "heart*"),
        ),
    ),
)


def anatomy_warnings(label: Array, affine: Array, names: Mapping[int, str]) -> list[str]:
    """What speaks against the orientation of a label map.

    Only classes with the names of TotalSegmentator are known. A single pair that lies the right way
    round outweighs those that do not: networks make mistakes.

    Args:
        label: (X, Y, Z), class ids.
        affine: (4, 4), voxel to RAS+ in mm.
        names: id -> name.
    """
    centres = _centres(label, affine, names)
    found = []
    for order in ORDERS:
        wrong, right = [], 0
        for first, second in order.pairs:
            if first not in centres or second not in centres:
                continue
            difference = centres[first][order.axis] - centres[second][order.axis]
            right += difference > MARGIN_MM
            if difference < -MARGIN_MM:
                wrong.append(f"{first.rstrip('_*')} and {second.rstrip('_*')}")
        if wrong and not right:
            found.append(
                f"{', '.join(wrong)} lie the wrong way round: {order.words} may be exchanged in "
                "the scan's header"
            )
    return found


def _centres(label: Array, affine: Array, names: Mapping[int, str]) -> dict[str, Array]:
    """Centre of each structure that `ORDERS` names, in mm RAS+."""
    steps = [max(1, n // SAMPLES) for n in label.shape]
    sample = label[:: steps[0], :: steps[1], :: steps[2]]
    grid = affine @ np.diag([*steps, 1.0])
    voxel_ml = abs(float(np.linalg.det(grid[:3, :3]))) / 1000
    centres = {}
    for name in {name for order in ORDERS for pair in order.pairs for name in pair}:
        ids = [i for i, known in names.items() if _is_called(known, name)]
        voxels = np.argwhere(np.isin(sample, ids)) if ids else np.empty((0, 3))
        if len(voxels) * voxel_ml > LEAST_ML:
            centres[name] = grid[:3, :3] @ voxels.mean(axis=0) + grid[:3, 3]
    return centres


def _is_called(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern

"""Are these Hounsfield units? The values alone tell, of a whole scan or of some slices."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["AIR_HU", "value_problem"]

#: A scan shows air, outside the body or inside it; HU below this are air.
AIR_HU = -500
#: Label maps have few values; a CT has thousands.
MASK_VALUES = 130


def value_problem(values: npt.NDArray[Any]) -> str | None:
    """What the values are instead, and what to do; None: they may be Hounsfield units.

    Args:
        values: voxels of a scan, of any shape.
    """
    low, high = float(values.min()), float(values.max())
    span = f"values {low:.0f}..{high:.0f}"
    if low < AIR_HU:
        return None
    if high == low:
        return f"is constant ({span}): not an image"
    sample = values.ravel(order="K")[:: max(1, values.size // 200_000)]
    if low >= 0 and high <= 255 and len(np.unique(sample)) <= MASK_VALUES:
        whole = bool((sample == sample.round()).all())
        if whole and float((sample == 0).mean()) > 0.3:
            return f"looks like a label map or mask ({span}, few of them): give the CT itself"
    if low >= 0 and high <= 255:
        return f"is not a CT in Hounsfield units ({span}, an 8-bit picture): export it as HU"
    if low >= 0 and high > 1500:
        return (
            f"is not in Hounsfield units ({span}): the rescale intercept seems lost; "
            "subtract 1024, or export it again"
        )
    return (
        f"shows no air ({span}, nothing below {AIR_HU} HU): not a CT, or its background was "
        "masked; give the scan as the scanner wrote it"
    )

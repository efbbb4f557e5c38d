"""What is chosen from the data, one decision a function. Options of the user come before these.

Axes are SPL throughout, as in `ctfm.contract.tasks`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ctfm.auto3dseg.statistics import Statistics
from ctfm.base.errors import UserError
from ctfm.contract.tasks import ENCODER, SEGRESNET, WHOLE_BODY

__all__ = [
    "batch_size",
    "cache",
    "classes",
    "flips",
    "hu_window",
    "intensity",
    "is_ct",
    "loader",
    "named_classes",
    "network",
    "num_epochs",
    "roi_size",
    "spacing",
    "validation_interval",
]

#: Below this, the deepest level of five is one voxel wide, and BatchNorm has nothing to average.
SMALLEST_SIDE = 2 * ENCODER.divisor
#: The published patch of whole-body segmentation, 96x160x160, is what a crop may cost on a GPU.
GPU_VOXELS = math.prod(WHOLE_BODY.patch or ())
#: A CPU takes seconds for a step of the full network with this many.
CPU_VOXELS = 64 * 96 * 96
#: GPU memory for one crop of `GPU_VOXELS` in mixed precision, with room to spare.
GIB_PER_CROP = 16
#: Slices so much thicker than the voxels within them are few, and resampling to them loses most.
ANISOTROPY = 3


def spacing(statistics: Statistics) -> tuple[float, ...]:
    """Median voxel size in mm; of an axis with thick slices the 10th percentile, as in nnU-Net."""
    sizes = np.array([case.spacing for case in statistics.cases])
    chosen = np.median(sizes, axis=0)
    thickest = int(chosen.argmax())
    if chosen[thickest] > ANISOTROPY * np.delete(chosen, thickest).max():
        finer = float(np.percentile(sizes[:, thickest], 10))
        chosen[thickest] = max(finer, np.delete(chosen, thickest).max())
    return tuple(round(float(mm), 3) for mm in chosen)


def roi_size(
    statistics: Statistics, spacing: Sequence[float], memory_gib: float | None
) -> tuple[int, ...]:
    """Voxels of a crop: as much of a scan as memory allows, near to a cube in mm.

    Args:
        statistics: of the data.
        spacing: mm, to which scans are resampled.
        memory_gib: of a GPU; None: there is none.

    Returns:
        Sides that are divisible by 16 and at least 32.
    """
    divisor = ENCODER.divisor
    extents = [np.multiply(case.shape, case.spacing) for case in statistics.cases]
    whole = np.median(extents, axis=0) / np.asarray(spacing)
    sides = np.maximum(np.ceil(whole / divisor).astype(int) * divisor, SMALLEST_SIDE)
    limit = CPU_VOXELS if memory_gib is None else GPU_VOXELS
    while sides.prod() > limit:
        reducible = np.where(sides > SMALLEST_SIDE, sides * np.asarray(spacing), 0)
        sides[int(reducible.argmax())] -= divisor
    return tuple(int(side) for side in sides)


def batch_size(roi: Sequence[int], memory_gib: float | None) -> int:
    """Crops in a batch of one GPU: what fits, at most four; without a GPU one."""
    if memory_gib is None:
        return 1
    crops = memory_gib / GIB_PER_CROP * GPU_VOXELS / math.prod(roi)
    return int(min(4, max(1, crops)))


def num_epochs(cases: int) -> int:
    """So many that about 40,000 crops are seen, within 100 to 600; an epoch sees each scan once."""
    return int(min(600, max(100, round(40_000 / cases))))


def validation_interval(epochs: int) -> int:
    """Epochs from one validation to the next: some sixty in a training."""
    return max(1, epochs // 60)


def is_ct(modality: str) -> bool:
    """Whether the input file's `modality` means CT."""
    return modality.strip().lower() in ("ct", "cta", "cect")


def intensity(modality: str) -> str:
    """How intensities are scaled.

    Returns:
        "hu": CT-FM's window [-1024, 2048] HU to 0..1; "scan": each scan to zero mean and unit
        variance, where there are no Hounsfield units.
    """
    return "hu" if is_ct(modality) else "scan"


def hu_window(statistics: Statistics, values: Mapping[str, Any]) -> tuple[float, float]:
    """HU that become 0 and 1.

    Args:
        statistics: of the data.
        values: options; `pretrained` and `intensity` matter.

    Returns:
        CT-FM's window for its encoder. From scratch there is nothing to match, and a few tens of
        HU tell a tumour from its organ: the 0.5th to 99.5th percentile of the labelled voxels,
        mean over cases, as in nnU-Net.
    """
    found = [case.foreground for case in statistics.cases if case.foreground is not None]
    if values["pretrained"] is not None or values["intensity"] != "hu" or not found:
        return WHOLE_BODY.hu_window
    low, high = np.mean(found, axis=0)
    return round(float(low), 1), round(float(high), 1)


def classes(
    statistics: Statistics, names: Sequence[Any] | None, sigmoid: bool
) -> tuple[list[str], list[list[int]]]:
    """Names of the classes, and which label values each is; background, 0, is none of them.

    Args:
        statistics: of the data.
        names: see `named_classes`; None: a class for each value that occurs.
        sigmoid: classes may overlap.
    """
    if names:
        return named_classes(names, sigmoid)
    values = sorted(frozenset().union(*(case.labels for case in statistics.cases)) - {0})
    return [f"class {value}" for value in values], [[value] for value in values]


def named_classes(names: Sequence[Any], sigmoid: bool) -> tuple[list[str], list[list[int]]]:
    """Names of the classes and the label values of each, as the user gives them.

    Args:
        names: strings for the values 1, 2, …, or objects with `name` and `index`, a value or a
            list of values.
        sigmoid: classes may overlap: values may occur in several.

    Raises:
        UserError: an entry is of another form, or classes overlap without sigmoid.
    """
    spelled, index = [], []
    for number, entry in enumerate(names, start=1):
        if isinstance(entry, Mapping) and {"name", "index"} <= entry.keys():
            values = entry["index"]
            index.append([int(v) for v in (values if isinstance(values, list) else [values])])
            spelled.append(str(entry["name"]))
        elif isinstance(entry, str):
            index.append([number])
            spelled.append(entry)
        else:
            raise UserError(
                f"class_names: entry {number} is {entry!r}: give names, or objects such as "
                "{name: tumor, index: [2, 3]}"
            )
    listed = [value for values in index for value in values]
    if not sigmoid and len(set(listed)) < len(listed):
        raise UserError("class_names: classes share label values: that needs sigmoid: true")
    return spelled, index


def flips(names: Sequence[str]) -> bool:
    """Whether mirrored crops may be trained on: not where a class has a side, or may have one."""
    words = {word for name in names for word in name.lower().replace("-", "_").split("_")}
    unnamed = any(name.startswith("class ") for name in names)
    return not unnamed and not words & {"left", "right", "l", "r"}


def network() -> dict[str, Any]:
    """Arguments of `SegResNetDS` with CT-FM's encoder; the classes give its outputs."""
    arguments = {k: v for k, v in SEGRESNET.arguments.items() if k != "out_channels"}
    return {key: list(v) if isinstance(v, tuple) else v for key, v in arguments.items()}


def cache(
    statistics: Statistics, spacing: Sequence[float], devices: int, memory_bytes: float
) -> bool:
    """Whether resampled scans fit in half of the free memory, once for each process."""
    voxels = sum(math.prod(c.shape) * math.prod(c.spacing) for c in statistics.cases)
    image_and_label = 4 + 1  # bytes a voxel
    needed = voxels / math.prod(spacing) * image_and_label * max(1, devices)
    return needed < memory_bytes / 2


def loader(intensity: str, cached: bool, packages: bool) -> str:
    """Where crops come from.

    Args:
        intensity: how intensities are scaled.
        cached: whether resampled scans fit in memory.
        packages: whether those are installed that reading from a store takes.

    Returns:
        "dali" where MONAI's loader would read and resample a whole scan for each crop, "monai"
        elsewhere.
    """
    return "dali" if intensity == "hu" and packages and not cached else "monai"

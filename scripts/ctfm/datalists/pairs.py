"""A scan and its label in NIfTI files: there, readable, on one grid, with the ids that may be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from ctfm.base.workers import in_processes
from ctfm.imaging.grids import AFFINE_TOLERANCE_MM, farthest_corner_mm
from ctfm.imaging.nifti import opened_image

__all__ = ["Pair", "check_all", "check_pair", "examine_pair"]

SHOWN = 5  # values that a message names


@dataclass(frozen=True)
class Pair:
    """A scan and its label.

    Attributes:
        name: of the case.
        folder: what the paths are relative to.
        image: path of the scan.
        label: path of its label; None: it has none.
        ids: what a label may hold, 0 (background) included.
        named_by: where these ids are named, for messages.
    """

    name: str
    folder: Path
    image: str
    label: str | None
    ids: frozenset[int]
    named_by: str = "dataset.json"


def check_all(pairs: Sequence[Pair], workers: int | None = None) -> dict[str, tuple[str, ...]]:
    """Check many pairs, in as many processes, with a progress bar on a terminal.

    Args:
        pairs: what to check.
        workers: processes; None: as many as this process may use cores; 1: none but this one.

    Returns:
        Case -> its problems, one line each.

    Raises:
        UserError: `workers` is below 1, or a process was killed.
    """
    found = in_processes(check_pair, pairs, workers, task="checking scans")
    return {pair.name: problems for pair, problems in zip(pairs, found, strict=True)}


def check_pair(pair: Pair) -> tuple[str, ...]:
    """Read the scan's header, and the label as a whole; what is wrong, one line each."""
    return examine_pair(pair)[0]


def examine_pair(pair: Pair) -> tuple[tuple[str, ...], frozenset[float]]:
    """`check_pair`, and the values that the label holds."""
    values: set[float] = set()
    return tuple(_problems(pair, values)), frozenset(values)


def _problems(pair: Pair, values: set[float]) -> Iterator[str]:
    image = _load(pair.folder / pair.image)
    label = None if pair.label is None else _load(pair.folder / pair.label)
    for path, volume in ((pair.image, image), (pair.label, label)):
        if isinstance(volume, str):
            yield f"{path}: {volume}"
    if isinstance(label, str) or label is None:
        return
    if not isinstance(image, str) and (problem := _other_grid(image, label)):
        yield f"{pair.label}: {problem}"
    if problem := _wrong_values(label, pair, values):
        yield f"{pair.label}: {problem}"


def _load(path: Path) -> Any:
    """The volume, its voxels still in the file; or in words why it is none."""
    if not path.is_file():
        return "no such file"
    try:
        volume: Any = nib.load(path)
        affine = np.asarray(volume.affine, float)
    except Exception as error:  # a damaged header may make the reader raise anything
        return f"cannot be read ({_in_one_line(error)})"
    shape = tuple(int(n) for n in volume.shape)
    if len(shape) != 3 or 0 in shape:
        return f"has shape {shape}, not that of one 3-D volume"
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        return "its header states no orientation (affine singular or not finite)"
    return volume


def _other_grid(image: Any, label: Any) -> str | None:
    if label.shape != image.shape:
        return f"has {label.shape} voxels, its scan {image.shape}"
    distance = farthest_corner_mm(image.shape, label.affine, image.affine)
    if distance <= AFFINE_TOLERANCE_MM:
        return None
    return f"its voxels lie up to {distance:.3g} mm from its scan's (the affines differ)"


def _wrong_values(label: Any, pair: Pair, values: set[float]) -> str | None:
    """Ids that may not be, in words; `values` receives all ids."""
    try:
        with opened_image(label.get_filename()) as image:
            voxels = np.asanyarray(image.dataobj)
    except Exception as error:  # so may damaged voxels
        return f"cannot be read ({_in_one_line(error)})"
    values |= _values(voxels)
    wrong = sorted(values - pair.ids)
    if not wrong:
        return None
    shown = ", ".join(f"{value:g}" for value in wrong[:SHOWN])
    more = f" and {len(wrong) - SHOWN} more values" if len(wrong) > SHOWN else ""
    allowed = ", ".join(map(str, sorted(pair.ids)))
    return f"holds {shown}{more}; {pair.named_by} names {allowed}"


def _values(voxels: npt.NDArray[Any]) -> set[float]:
    """Distinct values, slice by slice: most slices hold one value, which needs no sorting."""
    found: set[float] = set()
    for number in range(voxels.shape[2]):
        part = voxels[:, :, number]
        low, high = part.min(), part.max()
        found |= {low.item()} if low == high else set(np.unique(part).tolist())
    numbers = {value for value in found if not math.isnan(value)}
    return numbers if len(numbers) == len(found) else numbers | {math.nan}


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"

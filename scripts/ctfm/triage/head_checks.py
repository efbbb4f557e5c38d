"""Is this a complete plain CT of a head, such as the triage network was trained on? If not: why.

Simple measurements on the scan at the network's spacing, before it is cropped. They are warnings,
not a verdict: limits are round figures between heads and what is none, chosen on phantoms.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from ctfm.base.types import Array
from ctfm.imaging.hounsfield import AIR_HU

__all__ = ["MASKED", "head_warnings", "log_warnings"]

logger = logging.getLogger(__name__)

BODY_HU, BONE_HU = -200.0, 300.0
BRAIN_HU = (0.0, 80.0)
#: A head is about 155 mm wide and 200 mm long; with ears, a rest or a tilt up to so many.
MAX_WIDTH_MM, MAX_LENGTH_MM = 215.0, 275.0
#: From the vertex to the foramen magnum it is some 140 mm; a usual field of view shows them all.
MIN_HEIGHT_MM = 110.0
MIN_SLICES = 12
#: Of what lies within the skull, so much has the HU of brain and blood.
MIN_BRAIN_SHARE = 0.6
#: Millilitres within a closed skull; a small brain has 900.
MIN_BRAIN_ML = 400.0
#: Brain between slices of one voxel: bone kernels have a noise of 25 HU and more.
MAX_NOISE_HU = 20.0
#: The vertex closes: its highest slices show less head than the middle ones.
OPEN_TOP_SHARE = 0.75
MASKED = "shows no air around the head: its background is masked, as in processed angiography"


def head_warnings(
    volume: Array,
    spacing: Sequence[float],
    thickness: float,
    differences: Callable[[int], Array],
) -> list[str]:
    """What speaks against a complete plain head; none of it stops anything.

    Args:
        volume: HU (D, H, W), axes SPL: the whole scan, coarsely.
        spacing: mm of its voxels.
        thickness: mm from one of the scan's own slices to the next.
        differences: gives, for a slice of the volume (H, W), the HU from the scan's own pixel there
            to the next one.

    Returns:
        One sentence for each, with the value found.
    """
    slices = round((volume.shape[0] - 1) * spacing[0] / thickness) + 1
    found = []
    if slices < MIN_SLICES:
        found.append(f"has only {slices} axial slices: a series of a head has more")
    if not _air_in_corners(volume):
        found.append(MASKED)
    body = _largest(volume > BODY_HU)
    shape_problem = _shape_problem(body, spacing)
    if shape_problem:
        return [*found, shape_problem]
    brain = _within_skull(volume, body, spacing)
    found += _brain_problems(volume, body, brain, spacing)
    noise = _noise(brain, differences)
    if noise > MAX_NOISE_HU:
        found.append(
            f"is noisy or sharp (brain varies by {noise:.0f} HU from pixel to pixel): a bone "
            "kernel? the network expects a soft-tissue kernel"
        )
    return found


def log_warnings(path: str, found: Sequence[str]) -> None:
    """Say each aloud."""
    for one in found:
        logger.warning("%s: %s", path, one)


def _air_in_corners(volume: Array) -> bool:
    """A head is round: the corners of its slices hold air, or what scanners write beyond it."""
    rows, columns = (max(1, n // 12) for n in volume.shape[1:])
    corners = (
        volume[:, i, j]
        for i in (slice(rows), slice(-rows, None))
        for j in (slice(columns), slice(-columns, None))
    )
    return any(float((corner < AIR_HU).mean()) > 0.1 for corner in corners)


def _largest(mask: Array) -> Array:
    parts, count = ndimage.label(mask)
    if count < 2:
        return np.asarray(parts > 0)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray(parts == sizes.argmax())


def _shape_problem(body: Array, spacing: Sequence[float]) -> str | None:
    """Too wide or too long for a head: by the widest slices, where a rest is no part of it."""
    if not body.any():
        return "shows nothing denser than fat: no head"
    areas = body.sum((1, 2))
    full = body[areas > 0.5 * areas.max()]
    length = float(np.median(full.any(2).sum(1))) * spacing[1]
    width = float(np.median(full.any(1).sum(1))) * spacing[2]
    if width > MAX_WIDTH_MM or length > MAX_LENGTH_MM:
        return (
            f"is {width:.0f} mm wide and {length:.0f} mm from front to back: a body rather than "
            "a head"
        )
    return None


def _within_skull(volume: Array, body: Array, spacing: Sequence[float]) -> Array:
    """Soft voxels that bone encloses in their slice, in their largest connected part."""
    bone = body & (volume > BONE_HU)
    reach = max(1, round(4 / min(spacing[1:])))
    closed = ndimage.binary_closing(bone, _disc(reach), border_value=0)
    enclosed = np.stack([ndimage.binary_fill_holes(one) for one in closed]) & ~closed
    opened = ndimage.binary_opening(enclosed, _disc(2))
    return _largest(opened)


def _disc(radius: int) -> Array:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray((x * x + y * y <= radius * radius)[None])


def _brain_problems(
    volume: Array, body: Array, brain: Array, spacing: Sequence[float]
) -> list[str]:
    millilitres = float(brain.sum()) * float(np.prod(spacing)) / 1000
    if millilitres < MIN_BRAIN_ML:
        return [f"shows {millilitres:.0f} ml within a closed skull: no head, or only a part of one"]
    found = []
    values = volume[brain]
    share = float(((values >= BRAIN_HU[0]) & (values <= BRAIN_HU[1])).mean())
    if share < MIN_BRAIN_SHARE:
        found.append(
            f"has {share:.0%} of what lies within the skull at {BRAIN_HU[0]:g} to "
            f"{BRAIN_HU[1]:g} HU, where brain is: contrast medium, or no Hounsfield units"
        )
    rows = np.flatnonzero(brain.any((1, 2)))
    areas = brain.sum((1, 2))
    height = (rows[-1] - rows[0] + 1) * spacing[0]
    above = int(np.flatnonzero(body.any((1, 2)))[-1])
    if areas[above] > OPEN_TOP_SHARE * areas.max():
        found.append("ends below the vertex: the upper part of the head is missing")
    if rows[0] == int(np.flatnonzero(body.any((1, 2)))[0]) and (
        areas[rows[0]] > 0.35 * areas.max() or height < MIN_HEIGHT_MM
    ):
        found.append(
            f"shows {height:.0f} mm of brain and starts within it: the skull base is missing"
        )
    return found


def _noise(brain: Array, differences: Callable[[int], Array]) -> float:
    """Standard deviation between neighbouring pixels in brain, in HU; 0 where there is none."""
    areas = brain.sum((1, 2))
    if not areas.any():
        return 0.0
    middle = int(areas.argmax())
    inner = ndimage.binary_erosion(brain[middle], iterations=3)
    found = differences(middle)[inner]
    found = found[np.isfinite(found)]
    if found.size < 100:
        return 0.0
    # the median withstands sulci, vessels and the edge of a bleed
    return float(1.4826 * np.median(np.abs(found)) / np.sqrt(2))

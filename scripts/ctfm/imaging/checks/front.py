"""Which side of a body is its front? Signs that need no network, of any part of a body.

The weights of the first two signs come from a logistic regression over half of 227 real patients
(203 necks, 24 arms and legs) and the same scans flipped; the other half, and torsos, are reported
by ``benchmarks/front_and_back``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ctfm.base.types import Array
from ctfm.imaging.hounsfield import AIR_HU

__all__ = ["FrontSigns", "front_signs"]

BODY_HU, BONE_HU, STUFF_HU = -200.0, 250.0, -850.0
#: A slice of so few voxels, or a sign of so few in a slice, says nothing.
LEAST_BODY, LEAST_SIGN = 50, 3
#: A larger share of the slices' four sides is body: the field of view cuts its outline.
MOST_RIM = 0.15
#: A body at least as wide and large as this is a trunk.
TRUNK_MM, TRUNK_MM2 = 240.0, 40_000.0


@dataclass(frozen=True)
class FrontSigns:
    """Signs of a body's front, each positive where it lies where the header says.

    Attributes:
        air_mm: air inside the body (airways, gut) lies so far in front of the body's middle.
        skewness: of the body's extent from back to front: backs are flat, bellies and faces are
            not; 0 where the field of view cuts the outline.
        spine_mm: of a trunk, bone lies so far behind the body's middle; else 0.
        table: of a trunk, share of what is beside the body that lies behind it, from -1 to 1;
            else 0.
    """

    air_mm: float
    skewness: float
    spine_mm: float
    table: float

    @property
    def score(self) -> float:
        """All signs together: below -1.5 front and back are exchanged, as far as one can see."""
        return self.air_mm / 10 + 25 * self.skewness + self.spine_mm / 10 + 2 * self.table

    def __str__(self) -> str:
        """The signs in words, as they are where front and back are exchanged."""
        said = {
            "air inside the body lies behind its middle": self.air_mm < -5,
            "its flat side is in front": self.skewness < -0.03,
            "bone lies in front of its middle": self.spine_mm < -5,
            "the table lies in front": self.table < -0.3,
        }
        return ", ".join(text for text, holds in said.items() if holds)


def front_signs(hu: Array, spacing: Array) -> FrontSigns | None:
    """Look for the front of a body.

    Args:
        hu: (X, Y, Z), axes RAS+, at most a few millimetres a voxel.
        spacing: mm of a voxel along each axis.

    Returns:
        The signs; None: there is no body.
    """
    body = _body(hu)
    counts = body.sum((0, 1))
    if not (counts > LEAST_BODY).any():
        return None
    from_middle = _from_middle(body, counts, float(spacing[1]))
    sides = (body[0], body[-1], body[:, 0], body[:, -1])
    whole = np.mean([side.mean() for side in sides]) < MOST_RIM
    trunk = _is_trunk(body, counts, spacing)
    return FrontSigns(
        air_mm=_mean(from_middle, body & (hu < AIR_HU), counts),
        skewness=_skewness(from_middle, body, counts) if whole else 0.0,
        spine_mm=-_mean(from_middle, body & (hu > BONE_HU), counts) if trunk else 0.0,
        table=_behind(from_middle, hu, body) if trunk else 0.0,
    )


def _body(hu: Array) -> Array:
    """The largest body, with what it encloses in each slice."""
    parts, number = ndimage.label(ndimage.binary_opening(hu > BODY_HU))
    if number == 0:
        return np.zeros(hu.shape, bool)
    largest = parts == 1 + int(np.bincount(parts.ravel())[1:].argmax())
    slices = ndimage.generate_binary_structure(2, 1)[..., None]  # each slice for itself
    return np.asarray(ndimage.binary_fill_holes(largest, slices))


def _from_middle(body: Array, counts: Array, step: float) -> Array:
    """(1, Y, Z), mm in front of the body's middle in each slice."""
    places = np.arange(body.shape[1])[:, None] * step
    middle = (body.sum(0) * places).sum(0) / np.maximum(counts, 1)
    return np.asarray((places - middle)[None])


def _mean(from_middle: Array, mask: Array, counts: Array) -> float:
    """Mean over a mask, slices of little body and slices with little of the mask left out."""
    number = mask.sum((0, 1))
    used = (counts > LEAST_BODY) & (number >= LEAST_SIGN)
    if used.sum() < 2:
        return 0.0
    total = (mask.sum(0) * from_middle[0]).sum(0)[used].sum()
    return float(total / number[used].sum())


def _skewness(from_middle: Array, body: Array, counts: Array) -> float:
    used, lines = counts > LEAST_BODY, body.sum(0)
    second, third = ((lines * from_middle[0] ** power).sum(0)[used] for power in (2, 3))
    spread = np.sqrt(second / counts[used])
    return float((third / counts[used] / np.maximum(spread, 1) ** 3).mean())


def _is_trunk(body: Array, counts: Array, spacing: Array) -> bool:
    widths = body.any(1).sum(0) * spacing[0]
    areas = counts * spacing[0] * spacing[1]
    there = counts > LEAST_BODY
    return bool(np.median(widths[there]) > TRUNK_MM and np.median(areas[there]) > TRUNK_MM2)


def _behind(from_middle: Array, hu: Array, body: Array) -> float:
    """Where what is beside the body lies: 1 behind its middle, -1 in front."""
    stuff = (hu > STUFF_HU) & ~ndimage.binary_dilation(body, iterations=2)
    number = int(stuff.sum())
    return -float((stuff * np.sign(from_middle)).sum()) / max(number, LEAST_BODY)

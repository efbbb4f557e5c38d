"""Tumours that `ctfm.phantoms.drawing` draws into the organs of a torso."""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Sequence

import numpy as np

from ctfm.base.errors import UserError
from ctfm.phantoms.shapes import Part, blob
from ctfm.phantoms.torso import FAT

__all__ = ["HOSTS", "tumor"]

#: Organs that have tumours, where nobody asks for others: a regular expression of class names.
HOSTS = r"liver|kidney_(left|right)|spleen|pancreas|lung_\w+"
HU, HU_IN_AIR = 25, 35


def tumor(
    parts: Sequence[Part],
    rng: np.random.Generator,
    low: float,
    high: float,
    hosts: str = HOSTS,
) -> Part:
    """A lump inside an organ, where no later part covers it.

    Args:
        parts: rows of the drawing so far.
        rng: draws the organ, the place and the size: a radius of 8 to 20 mm, or less for want of
            room.
        low: lowest z of its middle in mm.
        high: highest z of its middle in mm.
        hosts: regular expression of the names of classes that may have it.

    Raises:
        UserError: no organ has room.
    """
    there = [i for i, part in enumerate(parts) if part.name and re.fullmatch(hosts, part.name)]
    for index in rng.permutation(there):
        host, radius = parts[index], rng.uniform(8, 20)
        box = np.array(host.shape.box)
        box[:, 2] = box[:, 2].clip(low, high)
        points = rng.uniform(box[0], box[1], (300, 3)).T.astype(np.float32)[..., None, None]
        room = host.shape.depth(points).ravel()
        for part in parts[index + 1 :]:
            near = (part.shape.box[0] < box[1]).all() and (part.shape.box[1] > box[0]).all()
            if near and (part.name is not None or part.lesion):
                room = np.minimum(room, -part.shape.depth(points).ravel())
        best = int(np.argmax(room.clip(max=radius)))
        if room[best] > 4:
            centre, radius = points[:, best, 0, 0], min(radius, float(room[best]))
            lumps = [(centre, radius * 0.8)]
            lumps += [(centre + rng.normal(0, 0.3 * radius, 3), radius * 0.5) for _ in range(3)]
            shape = functools.reduce(operator.or_, (blob(at, (r, r, r)) for at, r in lumps))
            hu = HU_IN_AIR if host.hu < FAT else HU
            return Part(None, hu, shape, over=host.name, lesion=True)
    raise UserError("no organ here has room for another tumor: ask for fewer, or the whole torso")

"""The head that `ctfm.phantoms.drawing` draws, down to the third cervical vertebra.

Millimetres, RAS+, z = 0 in the middle of the brain. Sizes and places are round figures of an
adult, fitted to each other by eye.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ctfm.phantoms.shapes import GAS, Part, Shape, blob, both, loft, tube
from ctfm.phantoms.torso import CORTEX, FAT, FLUID, MUSCLE, back, bone, spine

__all__ = ["head_parts"]

BLEED, GREY, WHITE = 66, 38, 29
#: From the spine of the torso (second to the third cervical vertebra) to that of the head.
NECK, C3 = (0, 17, -612), 21


def head_parts(rng: np.random.Generator, bleed: bool) -> list[Part]:
    """Rows of a head; a bleed is subdural or inside the brain."""
    kind = str(rng.choice(["subdural", "intracerebral"])) if bleed else ""
    neck = [replace(part, shape=part.shape.moved(NECK)) for part in (*back(), *spine(C3))]
    return [*_soft_parts(), *neck, *_skull(), *_brain(rng, kind), *_airways()]


def _cranium() -> Shape:
    """The space inside the skull: two thirds on a slanting base, and the posterior fossa."""
    vault = blob((0, -4, 14), (68, 86, 76), 2.2).cut((0, 0, -26), (0, -0.15, 1))
    return vault | blob((0, -44, -30), (56, 44, 36), 2.2)


def _soft_parts() -> Iterator[Part]:
    face = loft("-124 0 46 24 38, -112 0 36 46 58, -85 0 26 60 74, -50 0 20 67 84, -10 0 12 72 88")
    neck = loft("-260 0 -24 62 58, -110 0 -22 62 60, -70 0 -20 66 66, -40 0 -20 66 66")
    nose = tube("0 98 -14 5, 0 112 -40 9, 0 98 -50 11")
    ear = blob((78, -12, -24), (6, 14, 28), 2, (0, 10, -20))
    skin = face | neck | blob((0, -4, 14), (80, 99, 89), 2.2) | nose | ear | ear.mirrored()
    yield Part("", 30, skin, core=FAT + 20, rind=4)
    yield Part("", MUSCLE, (face | neck).grow(-9))
    cheek = blob((44, 62, -66), (14, 14, 20))
    yield from both(Part("", MUSCLE, blob((72, 26, -8), (5, 26, 40))))
    yield from both(Part("", MUSCLE, tube("62 30 -50 9, 58 16 -96 9")))
    yield from (replace(part, name="") for part in both(Part("", FAT, cheek)))


def _skull() -> Iterator[Part]:
    jaw = tube("62 4 -44 5, 58 0 -72 7, 50 20 -98 8, 32 62 -108 8, 10 88 -108 8, 0 90 -108 8")
    teeth = tube("26 58 -84 6, 20 78 -84 6, 0 88 -84 6")
    arch = tube("46 74 -40 6, 62 50 -42 4, 70 12 -40 4")
    orbit = blob((32, 62, -18), (20, 26, 19)).cut((0, 84, 0), (0, -1, 0))
    mastoid = blob((60, -30, -54), (13, 17, 22))
    face = blob((0, 62, -48), (40, 26, 26), 3) | blob((0, 56, -74), (30, 32, 5), 3)
    yield bone("skull", jaw | jaw.mirrored() | arch | arch.mirrored())
    yield Part("skull", 300, face, core=MUSCLE, rind=2)
    yield Part("skull", 1400, teeth | teeth.mirrored())
    yield Part("skull", 900, _cranium().grow(7), core=450, rind=2.5)
    petrous = tube("62 -16 -44 10, 38 -2 -38 10, 16 12 -34 7")
    yield from (replace(part, name="skull") for part in both(Part("", 900, petrous)))
    yield Part("skull", 600, mastoid | mastoid.mirrored(), core=-250, rind=3)
    yield Part("skull", 700, orbit.grow(2.5) | orbit.grow(2.5).mirrored())
    for right in (
        Part("", FAT, orbit),
        Part("", MUSCLE, tube("32 62 -6 2, 20 40 -14 2") | tube("44 60 -18 2, 20 40 -16 2")),
        Part("", 35, tube("32 64 -18 3, 14 30 -16 3")),
        Part("", 15, blob((32, 76, -18), (12, 12, 12)), core=8, rind=2),
        Part("", 90, blob((32, 84, -18), (5, 2.5, 5))),
    ):
        yield from both(right)


def _brain(rng: np.random.Generator, bleed: str) -> Iterator[Part]:
    side = rng.choice([-1, 1])
    inside, brain = _cranium(), _cranium().grow(-3)
    yield Part("", 12, inside)
    if bleed == "subdural":  # the brain gives way, and what it leaves behind is the crescent
        half = inside.grow(-1).cut((side * 16, 0, 0), (side, 0, 0.1)).cut((0, 0, -20), (0, 0, 1))
        yield Part("", BLEED, half, lesion=True)
        brain = brain.moved((-side * 5, 0, -2), (0.975, 1, 0.99))
    yield Part("brain", GREY, brain, core=WHITE, rind=6)
    yield Part("brain", GREY + 2, tube("0 6 -16 15, 0 -8 -40 13, 0 -24 -78 8"))
    yield Part("spinal_cord", GREY, tube("0 -24 -72 8, 0 -29 -84 7"))
    yield Part(None, GREY + 4, blob((0, -46, -34), (44, 34, 22), 2.2), over="brain")
    for _ in range(90):
        way = rng.normal(size=(2, 3))
        start, turn = way / np.linalg.norm(way, axis=1, keepdims=True)
        path = [p / np.linalg.norm(p) for p in (start, start + 0.25 * turn, start + 0.45 * turn)]
        surface = np.array([0, -4, 14]) + np.array(path) * [62, 80, 70]
        sulcus = tube(np.c_[surface, [1, 2.5, 1]]).cut((0, 0, -22), (0, 0, 1))
        yield Part(None, 14, sulcus, over="brain")
    for right in (
        Part(None, GREY + 4, blob((24, 10, 6), (8, 20, 12), 2, (0, 0, -15)), over="brain"),
        Part("", FLUID, tube("8 36 12 4, 10 14 22 7, 16 -18 24 8, 26 -34 10 6, 32 -14 -12 3")),
    ):
        yield from both(right)
    yield Part("", FLUID, blob((0, 2, 2), (2.5, 14, 9)) | blob((0, -34, -38), (8, 5, 9)))
    yield Part(None, 55, blob((0, -8, 52), (1.2, 76, 40), 2.5), over="brain")
    if bleed == "intracerebral":
        at = np.array([side * 30, rng.uniform(-25, 25), rng.uniform(5, 25)])
        clot = [blob(tuple(at + rng.normal(0, 5, 3)), tuple(rng.uniform(7, 15, 3))) for _ in "abc"]
        clots = clot[0] | clot[1] | clot[2]
        yield Part(None, 20, clots.grow(5), over="brain")
        yield Part(None, BLEED, clots, over="brain", lesion=True)


def _airways() -> Iterator[Part]:
    sinus = blob((27, 58, -46), (12, 17, 16), 2.5)
    nose = blob((8, 62, -46), (6, 38, 24), 2.3)
    frontal, sphenoid = blob((12, 84, 8), (10, 5, 8)), blob((6, 22, -32), (7, 12, 9))
    ethmoid = tube("8 70 -16 6, 8 40 -18 6")
    for cavity in (sinus, frontal, sphenoid, ethmoid):
        yield Part("skull", CORTEX, cavity.grow(2) | cavity.grow(2).mirrored())
        yield from both(Part("", GAS, cavity))
    yield from both(Part("", GAS, nose, core=GAS))
    for z in (-60, -46, -34):
        yield from both(Part("", 40, tube(f"10 84 {z} 2.5, 9 40 {z + 2} 3")))
    yield from both(Part("", GAS, tube("80 -10 -40 4, 58 -8 -38 3")))
    yield Part("", MUSCLE, blob((0, 52, -88), (20, 30, 16)))
    yield Part("", GAS, tube("0 24 -50 9, 0 12 -72 7, 0 8 -110 7, 0 6 -260 8"))

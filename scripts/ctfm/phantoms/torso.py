"""The torso that `ctfm.phantoms.drawing` draws: tables of what lies where and has which HU.

Millimetres, RAS+, z = 0 in the middle of the L5 vertebra. Sizes and places are round figures of an
adult, fitted to each other by eye.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ctfm.base.types import Array
from ctfm.phantoms.shapes import Part, Shape, blob, both, loft, numbers, tube

__all__ = ["BLOOD", "CORTEX", "FAT", "FLUID", "MUSCLE", "back", "bone", "spine", "torso_parts"]

LUNG, FAT, FLUID, MUSCLE, SPONGY, CORTEX = -850, -100, 8, 55, 180, 700
# no other tissue has these HU: contrast medium finds blood by them
BLOOD = 44

# z, x, y, radius_x, radius_y of the skin, and mm of fat under it
SKIN = numbers(
    "-200 0 -5 180 116 60, -110 0 -6 184 120 50, -50 0 -4 177 122 28, 0 0 -1 169 121 20,"
    "50 0 0 165 119 17, 120 0 -1 165 118 13, 200 0 -6 166 117 11, 280 0 -12 168 115 10,"
    "340 0 -17 172 112 11, 380 0 -21 176 102 12, 408 0 -26 168 84 10, 430 0 -28 112 66 8,"
    "446 0 -28 66 58 6, 520 0 -24 60 57 5"
)
# z, x, y, radius_x, radius_y of what the wall of ribs and muscles encloses
CAVITY = numbers(
    "-150 0 -25 52 45, -110 0 -18 66 62, -60 0 -10 96 76, -20 0 0 116 80, 30 0 12 131 85,"
    "90 0 11 138 90, 150 0 4 140 95, 200 0 -2 140 94, 250 0 -6 136 93, 300 0 -10 127 87,"
    "350 0 -17 107 75, 390 0 -25 80 57, 410 0 -32 56 42, 420 0 -35 38 28, 427 0 -36 12 9"
)
VERTEBRAE = [
    f"{part}{i}" for part, count in (("L", 5), ("T", 12), ("C", 7)) for i in range(count, 0, -1)
]
# z of the middle of the vertebral bodies, and of what follows C1
LEVELS = (
    0, 33, 68, 102, 135, 166, 194, 221, 246, 271, 295, 318, 340, 361, 382, 402, 421, 439, 456,
    472, 487, 502, 519, 536, 550,
)  # fmt: skip
# z; y, radius_x, radius_y of the bodies; y of the tip of the spinous process; reach to the sides
SPINE = numbers(
    "-25 -44 25 17 -90 40, 0 -26 26 17 -84 42, 40 -17 25 17 -84 42, 90 -20 24 17 -86 42,"
    "135 -31 22 16 -92 38, 200 -50 19 16 -106 30, 300 -65 16 15 -115 30, 370 -60 15 13 -113 31,"
    "421 -44 15 11 -104 33, 440 -35 12 9 -90 26, 510 -30 11 8 -68 22, 536 -29 14 6 -56 34"
)
# drop in mm and end in degrees from behind, ribs 1 to 12; z of the cartilage at the sternum
RIBS = numbers(
    "28 140 372, 50 152 352, 72 150 330, 90 147 308, 102 143 286, 112 138 264, 118 131 246,"
    "112 122 0, 106 112 0, 98 100 0, 68 78 0, 45 50 0"
)
VESSELS = {
    "pulmonary_vein": "-44 -26 300 7, 0 -26 304 14, 44 -26 300 7",
    "atrial_appendage_left": "-34 10 316 8, -46 18 322 11, -50 28 318 7",
    "superior_vena_cava": "22 8 312 10, 28 10 345 9, 28 12 378 8",
    "inferior_vena_cava": "12 -2 36 10, 14 6 90 11, 18 0 160 12, 22 4 230 13, 20 12 256 12",
    "portal_vein_and_splenic_vein": "54 22 168 7, 14 24 132 7, -30 16 140 6, -88 -18 152 5",
    "brachiocephalic_vein_right": "28 12 378 7, 34 18 404 7",
    "brachiocephalic_vein_left": "28 14 376 7, 0 26 386 7, -38 20 404 7",
    "aorta": "6 16 312 15, 18 18 344 15, 4 4 376 13, -18 -22 374 12, -26 -42 346 12,"
    "-26 -48 290 11, -20 -34 230 11, -10 -20 170 10, -12 4 100 9, -8 6 38 8",
    "brachiocephalic_trunk": "8 6 380 6, 22 4 406 6",
    "common_carotid_artery_right": "22 4 406 4, 24 -8 440 4, 28 -8 520 4",
    "common_carotid_artery_left": "-6 -8 382 4, -20 -4 410 4, -28 -8 520 4",
    "subclavian_artery_right": "22 4 406 5, 50 -8 420 5, 90 0 408 5",
    "subclavian_artery_left": "-18 -22 380 5, -28 -18 408 5, -54 -8 420 5, -92 0 408 5",
}
ILIAC_VESSELS = {
    "iliac_artery": "4 6 36 6, 26 14 0 6, 42 0 -40 6, 58 22 -90 5, 76 38 -140 5",
    "iliac_vena": "10 -4 34 7, 28 0 -4 7, 44 -16 -44 7, 56 10 -92 6, 66 34 -140 6",
}
COLON = (
    "74 34 -58 24, 86 28 -24 26, 106 4 24 25, 110 -2 60 24, 96 30 84 23, 50 74 70 22, 0 84 56 21,"
    "-50 78 76 21, -98 30 122 21, -116 -14 108 19, -118 -18 50 17, -110 4 0 17, -88 30 -34 16,"
    "-58 34 -62 16, -16 24 -50 16, 12 -10 -60 16, 4 -56 -84 17, 0 -60 -120 18, 0 -52 -160 12"
)


def torso_parts(rng: np.random.Generator) -> list[Part]:
    """Rows of a torso, pelvis to neck, arms raised."""
    organs = _jittered([*_abdomen(rng)], rng)
    around = [*_trunk(), *_lungs(rng), *_mediastinum()]
    return [*around, *organs, *_muscles(), *_vessels(), *_skeleton()]


def _at(table: Array, z: Any) -> list[Any]:
    return [np.interp(z, table[:, 0], column) for column in table.T[1:]]


def _jittered(parts: list[Part], rng: np.random.Generator) -> list[Part]:
    """Each organ a little elsewhere and of another size; parts of one class stay together."""
    moves: dict[str, tuple[Array, Array, Array]] = {}
    result = []
    for part in parts:
        name = part.name or part.over
        if name and name not in moves:
            moves[name] = rng.normal(0, 2.5, 3), rng.normal(1, 0.04, 3), part.shape.box.mean(0)
        result.append(replace(part, shape=part.shape.moved(*moves[name])) if name else part)
    return result


def bone(name: str, shape: Shape) -> Part:
    """A bone: a thin cortex around spongiosa."""
    return Part(name, CORTEX, shape, core=SPONGY, rind=1.8)


def _trunk() -> list[Part]:
    """Skin, fat, two layers of muscle and a cavity full of fat."""
    arm = tube("140 -40 395 44, 165 -35 440 44, 178 -30 520 42")
    arms = arm | arm.mirrored()
    wall = SKIN[:, :5] - SKIN[:, 5:] * [0, 0, 0, 1, 1]
    return [
        Part("", 0, loft(SKIN[:, :5]) | arms, core=FAT - 5, rind=3),
        Part("", MUSCLE, loft(wall) | arms.grow(-10)),
        Part("", FAT, loft(CAVITY).grow(12).cut((0, 0, 390), (0, 0, -1))),
        Part("", MUSCLE, loft(CAVITY).grow(9)),
        Part("", FAT, loft(CAVITY)),
    ]


def _lungs(rng: np.random.Generator) -> Iterator[Part]:
    lung = loft(CAVITY).grow(-2).cut((0, 0, 0), (1, 0, 0)).cut((0, -95, 160), (0, -0.28, 0.96))
    fissure = (0, -95, 345)
    upper = lung.cut(fissure, (0, 0.66, 0.75))
    yield from both(Part("lung_lower_lobe", LUNG, lung.cut(fissure, (0, -0.66, -0.75))))
    yield from both(Part("lung_upper_lobe", LUNG, upper))
    yield Part("lung_middle_lobe_right", LUNG, upper.cut((0, 0, 288), (0, 0, -1)))
    for side in np.repeat([-1, 1], 40):
        hilum = np.array([side * 30, -18, 318]) + rng.normal(0, 5, 3)
        end = [side * rng.uniform(50, 125), rng.uniform(-90, 70), rng.uniform(190, 405)]
        bend = hilum + (end - hilum) * rng.uniform(0.3, 0.6, 3)
        yield Part(None, 40, tube(np.c_[[hilum, bend, end], [4.5, 3, 1]]), over="lung")


def _mediastinum() -> Iterator[Part]:
    """Diaphragm, heart, and what lies between the lungs."""
    dome = blob((70, 5, 150), (74, 88, 104), 2.2) | blob((-70, 5, 150), (72, 88, 90), 2.2)
    heart = blob((-24, 20, 280), (64, 46, 44), 2.2, (0, 28, -32))
    gullet = "0 -14 520 7, -4 -26 420 7, -6 -38 350 8, -10 -34 270 8, -26 -14 225 8, -34 -8 210 8"
    windpipe = tube("0 5 520 9, 0 -10 420 9, 2 -24 362 9, 30 -26 336 6")
    yield Part("", FAT, heart.grow(5))
    yield Part("", FAT, loft("215 -8 -15 40 52, 310 -6 -12 33 62, 424 0 -18 30 45"))
    yield Part("", 40, dome | blob((0, 20, 150), (60, 70, 84)), core=FAT, rind=3, over="lung")
    yield Part("heart", MUSCLE, heart, core=BLOOD, rind=9)
    yield Part("esophagus", 40, tube(gullet))
    yield Part("trachea", -980, windpipe | tube("1 -22 368 8, -34 -28 334 6"))
    thyroid = blob((18, 4, 446), (9, 10, 21))
    yield Part("thyroid_gland", 100, thyroid | thyroid.mirrored())


def _loops(rng: np.random.Generator) -> Shape:
    """Small bowel, row upon row, back and forth within the frame of the colon."""
    x = np.linspace(-78, 72, 6) * (-1) ** np.arange(8)[:, None]
    z = np.broadcast_to(np.linspace(52, -66, 8)[:, None], x.shape)
    path = np.stack([x, rng.uniform(8, 62, x.shape), z, np.full(x.shape, 12.5)], axis=-1)
    return tube((path + rng.normal(0, [9, 0, 8, 1], path.shape)).reshape(-1, 4))


def _abdomen(rng: np.random.Generator) -> Iterator[Part]:
    liver = blob((70, 4, 150), (69, 83, 98), 2.2).cut((46, 0, 126), (0.5, 0.2, 0.84))
    yield Part("liver", 60, liver | blob((6, 42, 192), (74, 44, 44), 2, (0, -10, 0)))
    for end in ("95 -10 190", "95 20 150", "70 40 200", "-20 55 205", "70 -35 195"):
        yield Part(None, 40, tube(f"45 20 165 5, {end} 2"), over="liver")
    yield Part("spleen", 50, blob((-108, -38, 152), (27, 46, 54), 2.2, (20, 10, 20)))
    stomach = tube("-60 -28 212 34, -72 10 180 36, -66 42 138 30, -30 60 108 23, 18 46 112 13")
    yield Part("stomach", MUSCLE, stomach, core=20, rind=4, gas=34)
    yield Part("gallbladder", FLUID, blob((58, 44, 108), (17, 28, 18), 2, (-25, 0, 0)))
    gland = tube("30 -22 164 4, 36 -16 153 5, 32 -8 141 3") | tube("36 -16 153 5, 48 -22 141 3")
    kidney = blob((64, -32, 100), (27, 29, 56), 2.2, (-8, -14, 0))
    sinus = blob((50, -28, 100), (15, 12, 24), 2.2)
    for side, place in (("right", ((0, 0, 0), (1, 1, 1))), ("left", ((0, 0, 10), (-1, 1, 1)))):
        yield Part(f"kidney_{side}", 45, kidney.moved(*place), core=32, rind=9)
        yield Part("", FAT + 40, sinus.moved(*place))
        yield Part(f"kidney_cyst_{side}", 5, blob((86, -26, 68), (9, 9, 9)).moved(*place))
        yield Part(f"adrenal_gland_{side}", 30, gland.moved(*place))
    duodenum = "22 46 110 12, 44 30 104 12, 48 14 78 12, 30 8 58 12, -10 14 62 11, -40 24 76 11"
    pancreas = "30 26 92 13, 24 32 108 14, 0 36 118 9, -36 24 130 11, -84 -16 146 9"
    yield Part("duodenum", 35, tube(duodenum))
    yield Part("pancreas", 45, tube(pancreas))
    yield Part("small_bowel", 45, _loops(rng), core=22, rind=3)
    yield Part("colon", 45, tube(COLON, ripple=0.13), core=-40, rind=3, gas=14)
    yield Part("urinary_bladder", 45, blob((0, 12, -100), (42, 38, 32), 2.3), core=FLUID, rind=3)
    yield Part("prostate", 40, blob((0, -2, -143), (22, 17, 17)))


def back() -> list[Part]:
    """Autochthonous muscles of the back and of the neck."""
    erector = loft(
        "-40 18 -100 14 12, -10 26 -92 20 16, 40 38 -84 30 21, 100 40 -88 32 22, 160 38 -98 29 18,"
        "250 32 -107 24 13, 330 28 -108 22 13, 400 25 -94 22 16, 440 22 -72 20 18, 540 22 -58 20 18"
    )
    return both(Part("", FAT, erector.grow(3))) + both(Part("autochthon", MUSCLE, erector))


def _muscles() -> Iterator[Part]:
    psoas = tube(
        "30 -30 140 7, 40 -22 80 17, 50 -12 20 22, 64 2 -40 24, 76 16 -85 22, 96 -12 -160 9"
    )
    lumborum, obturator = blob((62, -54, 46), (17, 12, 54)), tube("60 -20 -100 13, 66 -30 -150 14")
    quadriceps = tube("112 32 -80 12, 108 46 -120 20, 104 50 -180 28")
    vastus = tube("140 0 -120 14, 136 0 -160 30, 132 -4 -200 36")
    muscles = {
        "gluteus_maximus": blob((90, -84, -94), (70, 18, 62), 2.3, (0, 25, 14)),
        "gluteus_medius": blob((120, -36, -46), (19, 44, 60), 2.2, (0, -12, -38)),
        "gluteus_minimus": blob((114, -14, -76), (13, 34, 40), 2.2, (0, -12, -38)),
        "iliopsoas": psoas | tube("92 -10 2 14, 88 0 -40 18, 78 16 -85 16"),
        "": lumborum | obturator | quadriceps | vastus | tube("36 20 -140 14, 50 6 -180 34"),
    }
    yield from back()
    for name, right in muscles.items():
        yield from both(Part("", FAT, right.grow(3)))
        yield from both(Part(name, MUSCLE, right))


def _vessels() -> Iterator[Part]:
    pulmonary_artery = tube("-8 18 316 14, -10 10 340 14, -2 -6 344 12, 36 -16 330 9")
    yield Part("", BLOOD, pulmonary_artery | tube("-10 8 342 12, -40 -22 336 9"))
    yield from (Part(name, BLOOD, tube(path)) for name, path in VESSELS.items())
    for name, path in ILIAC_VESSELS.items():
        yield from both(Part(name, BLOOD, tube(path)))


def _skeleton() -> Iterator[Part]:
    sacrum = "-102 0 -96 8 6, -78 0 -104 26 10, -55 0 -98 42 16, -30 0 -84 54 20, -6 0 -74 52 18"
    sternum = blob((0, 54, 368), (26, 8, 24), 3, (14, 0, 0))
    scapula = blob((104, -90, 348), (44, 4.5, 56), 2.6, (0, 8, 30))
    acromion = tube("78 -101 372 5, 118 -88 396 6, 152 -58 414 8")
    humerus = tube("166 -38 410 15, 172 -34 450 12, 180 -30 520 11")
    ilium = blob((84, -26, -40), (62, 6, 52), 2.6, (0, 0, 52))
    pubis = tube("78 10 -108 13, 40 28 -114 8, 5 26 -124 12")
    ischium = tube("5 24 -132 9, 34 -10 -152 7, 56 -50 -156 10, 60 -58 -148 16, 66 -55 -120 14")
    femur = tube("92 -20 -114 16, 124 -28 -146 17, 130 -26 -220 15, 132 -40 -126 13")
    right = {
        "scapula": scapula | acromion | blob((140, -54, 396), (10, 14, 18)),
        "humerus": blob((160, -42, 400), (23, 23, 23)) | humerus,
        "clavicula": tube("18 52 386 7, 70 40 402 6, 116 -10 418 6, 146 -46 420 6"),
        "hip": ilium | blob((86, -22, -108), (30, 32, 32), 2.3) | pubis | ischium,
        "femur": blob((92, -20, -114), (24, 24, 24)) | femur,
    }
    yield from spine(0)
    yield bone("sacrum", loft(sacrum))
    yield bone("vertebrae_S1", blob((0, -56, -24), (25, 15, 14), 4, (-25, 0, 0)))
    yield from _ribs()
    yield bone("sternum", sternum | blob((0, 79, 294), (17, 6, 56), 3, (9, 0, 0)))
    for name, shape in right.items():
        yield from both(bone(name, shape))


def spine(lowest: int) -> Iterator[Part]:
    """Discs, vertebrae and spinal cord from that level up."""
    z = np.linspace(LEVELS[lowest] - 25, LEVELS[-1] - 10, 40)
    y, _, deep, *_ = _at(SPINE, z)
    yield Part("", 90, tube(np.stack([0 * z, y, z, deep + 1], axis=1)))
    yield from (_vertebra(level) for level in range(lowest, len(VERTEBRAE)))
    yield Part("spinal_cord", 20, tube(np.stack([0 * z, y - deep - 9, z, 0 * z + 8], 1)), 38, 3)


def _vertebra(level: int) -> Part:
    z, gap = LEVELS[level], LEVELS[level + 1] - LEVELS[level]
    y, wide, deep, tip, side = _at(SPINE, z)
    rear, drop = y - deep, np.interp(z, [0, 150, 270, 400, 440], [12, 14, 24, 16, 6])
    arch = tube(f"12 {rear + 2} {z} 5, 13 {rear - 10} {z} 5, 0 {rear - 21} {z - 3} 5")
    wing = tube(f"{side} {rear - 14} {z + 3} 4, 0 {rear - 21} {z} 5")
    spinous = tube(f"0 {rear - 20} {z - 4} 5, 0 {tip} {z - drop} 4")
    body = blob((0, y, z), (wide, deep, gap * 0.42), 4)
    shape = body | arch | arch.mirrored() | wing | wing.mirrored() | spinous
    return bone(f"vertebrae_{VERTEBRAE[level]}", shape)


def _ribs() -> Iterator[Part]:
    """Ribs of both sides, each with its cartilage to the sternum or to the rib above."""
    joint = (0.0, 0.0)
    for number, (drop, end, sternum) in enumerate(RIBS, start=1):
        z = LEVELS[VERTEBRAE.index(f"T{number}")]
        middle, tip = _at(SPINE, z)[0], z + 2 - drop
        neck = [[18, middle - 12, z + 8, 5], [34, middle - 26, z + 5, 5]]
        arc = _on_wall(np.linspace(26, end, 10), np.linspace(z + 2, tip, 10))
        yield from both(bone("rib", tube(np.concatenate([neck, arc]))), f"_{number}")
        if number <= 10:
            angle, height = (172, sternum) if sternum else joint
            link = tube(_on_wall(np.linspace(end, angle, 6), np.linspace(tip, height, 6)))
            yield Part("costal_cartilages", 110, link | link.mirrored())
        joint = (end, tip)


def _on_wall(degrees: Array, z: Array) -> Array:
    """Rows x, y, z, radius on the right wall of the cavity, by the angle from behind."""
    _, y, rx, ry = _at(CAVITY, z)
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    # the inverse of the power 2.4 of a loft
    x = (rx + 4) * sine ** (2 / 2.4)
    y = y - (ry + 4) * np.sign(cosine) * np.abs(cosine) ** (2 / 2.4)
    return np.stack([x, y, z, np.full(len(z), 5.0)], axis=1)

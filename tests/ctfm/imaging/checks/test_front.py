"""Which side of a body is its front, by signs whose values are known."""

from __future__ import annotations

import numpy as np
import pytest

from ctfm.imaging.checks.front import FrontSigns, front_signs
from ctfm.phantoms.drawing import draw_head, draw_torso

SPACING = np.array([5.0, 5.0, 5.0])


def block(width: int, *, depth: int = 30, height: int = 12) -> np.ndarray:
    """A body of muscle in air, (X, Y, Z), 5 mm voxels, with room around it."""
    hu = np.full((width + 20, depth + 20, height), -1000.0)
    hu[10 : 10 + width, 10 : 10 + depth] = 40
    return hu


def test_air_in_front_of_the_middle() -> None:
    hu = block(30)
    hu[22:26, 32:36] = -900  # 7 voxels and a half in front of 24.5
    signs = front_signs(hu, SPACING)
    assert signs is not None
    # the air is body, too: the middle is that of the filled outline
    assert signs.air_mm == pytest.approx((33.5 - 24.5) * 5)
    assert (signs.spine_mm, signs.table) == (0.0, 0.0)
    assert signs.skewness == pytest.approx(0.0, abs=1e-9)


def test_spine_and_table_of_a_trunk() -> None:
    hu = block(60, depth=40)
    hu[38:42, 15:19] = 700
    hu[5:75, 2:4] = 0
    signs = front_signs(hu, SPACING)
    assert signs is not None
    assert signs.spine_mm == pytest.approx((29.5 - 16.5) * 5)
    assert signs.table == 1.0
    narrow = front_signs(hu[25:55], SPACING)
    assert narrow is not None
    assert (narrow.spine_mm, narrow.table) == (0.0, 0.0)


def test_a_flat_back() -> None:
    hu = np.full((60, 60, 8), -1000.0)
    x, y = np.meshgrid(np.arange(60) - 30, np.arange(60) - 15, indexing="ij")
    hu[(x**2 / 20**2 + np.maximum(y, 0) ** 2 / 30**2 < 1) & (y > -5)] = 40
    signs = front_signs(hu, SPACING)
    assert signs is not None
    assert signs.skewness > 0.2
    cut = front_signs(hu[15:45, 12:], SPACING)  # the field of view makes an outline of its own
    assert cut is not None
    assert cut.skewness == 0.0


@pytest.mark.parametrize("image", [draw_torso(0, (5.0, 5.0, 5.0)).image, draw_head(0).image])
def test_a_flip_turns_every_sign(image: np.ndarray) -> None:
    hu = image.astype(float)
    here, there = front_signs(hu, SPACING), front_signs(hu[:, ::-1], SPACING)
    assert here is not None
    assert there is not None
    for name, value in vars(here).items():
        assert value == pytest.approx(-getattr(there, name), abs=1e-6), name


def test_words_name_the_signs_that_speak_against_the_header() -> None:
    assert str(FrontSigns(-12.0, 0.1, -8.0, 0.0)) == (
        "air inside the body lies behind its middle, bone lies in front of its middle"
    )


@pytest.mark.parametrize("value", [-1000.0, 40.0])
def test_no_body_no_sign(value: float) -> None:
    signs = front_signs(np.full((20, 20, 20), value), SPACING)
    assert signs is None or signs.score == 0

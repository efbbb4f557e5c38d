"""Voxels and millimetres."""

from __future__ import annotations

import numpy as np
import torch

from ctfm.imaging.grids import axes_problem, mm_to_voxels, spacing_of, voxels_to_mm

#: 2 mm to anterior, 0.5 mm to left, 3 mm to superior.
TURNED = np.array([[0, -0.5, 0, 10], [2, 0, 0, 20], [0, 0, 3, -30], [0, 0, 0, 1]])


def test_voxels_to_mm_and_back() -> None:
    voxels = np.array([[0, 0, 0], [1, 2, 3], [0.5, -1, 7]])
    points = voxels_to_mm(TURNED, voxels)
    np.testing.assert_array_equal(points, [[10, 20, -30], [9, 22, -21], [10.5, 21, -9]])
    np.testing.assert_allclose(mm_to_voxels(TURNED, points), voxels, atol=1e-12)


def test_spacing_along_the_stored_axes() -> None:
    expected = [2, 0.5, 3]
    for affine in (TURNED, TURNED[:3, :3], torch.from_numpy(TURNED)):
        np.testing.assert_array_equal(spacing_of(affine), expected)
    assert spacing_of(TURNED.astype(np.float32)).dtype == np.float32


def test_axes_that_place_no_volume() -> None:
    flat, leaning, endless = TURNED.copy(), TURNED.copy(), TURNED.copy()
    flat[:, 1] = 0
    leaning[:3, 1] = leaning[:3, 0] * 3 + [0.01, 0, 0]
    endless[0, 0] = np.inf
    assert axes_problem(TURNED) is None
    assert axes_problem(TURNED[:3, :3]) is None
    assert axes_problem(flat) == axes_problem(endless) == "affine singular or not finite"
    assert axes_problem(leaning) == "axes not independent"

"""Volumes on other grids: at places in mm, and between the voxels of each axis."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from ctfm.base.errors import UserError
from ctfm.imaging.reslice import Taps, on_grid


class TestTaps:
    def test_places_that_are_not_there_lie_outside(self) -> None:
        taps = Taps.whole(0, 3).at(np.array([-1, 0, 2, 3]))
        np.testing.assert_array_equal(taps.first, [-1, 0, 2, -1])
        assert taps.inside == slice(1, 3)
        assert Taps.whole(0, 3).at(np.array([5, 6])).inside == slice(0, 0)

    def test_places_between_voxels(self) -> None:
        """The last voxel has no neighbour; what lies outside counts nothing."""
        taps = Taps.whole(0, 3).between(np.array([0.25, 1.0, 2.0]))
        np.testing.assert_array_equal(taps.first, [0, 1, 2])
        np.testing.assert_array_equal(taps.second, [1, 1, 2])
        np.testing.assert_array_equal(taps.share, [0.25, 0, 0])
        beyond = Taps.whole(0, 3).at(np.array([2, 3])).between(np.array([0.5]))
        assert (beyond.first[0], beyond.second[0], beyond.share[0]) == (2, 2, 0)

    def test_what_lies_between_others_is_not_interpolated_again(self) -> None:
        places = np.array([0.5])
        with pytest.raises(UserError, match="resampled twice"):
            Taps.whole(0, 3).between(places).between(places)

    def test_places_among_uneven_voxels(self) -> None:
        """As `np.interp` has them, also on voxels and beyond the ends."""
        rng = np.random.default_rng(0)
        positions = np.cumsum(rng.uniform(0.2, 3, 20)) - 7
        ends = [positions[0] - 2, positions[-1] + 1]
        places = np.concatenate([rng.uniform(positions[0], positions[-1], 50), positions, ends])
        taps = Taps.among(1, positions, places)
        assert (taps.axis, taps.inside) == (1, slice(0, len(places)))
        assert ((taps.share >= 0) & (taps.share < 1)).all()
        values = rng.normal(size=20)
        between = values[taps.first] * (1 - taps.share) + values[taps.second] * taps.share
        np.testing.assert_allclose(between, np.interp(places, positions, values), atol=1e-12)
        on_voxels = taps.first[50:70], taps.second[50:70], taps.share[50:70]
        expected = np.arange(20), [*range(1, 20), 19], np.zeros(20)
        for index, truth in zip(on_voxels, expected, strict=True):
            np.testing.assert_array_equal(index, truth)

    def test_along_the_voxels_that_are_needed_alone(self) -> None:
        taps = Taps.among(0, np.arange(10.0), np.array([1.5, 7.25, 9.0]))
        needed, compact = taps.compact()
        np.testing.assert_array_equal(needed, [1, 2, 7, 8, 9])
        np.testing.assert_array_equal(needed[compact.first], taps.first)
        np.testing.assert_array_equal(needed[compact.second], taps.second)
        np.testing.assert_array_equal(compact.share, taps.share)

    def test_as_tensors_without_what_lies_outside(self) -> None:
        taps = Taps.whole(0, 4).at(np.array([-1, 1, 2, 3])).between(np.array([0.5, 1.25, 3.0]))
        tensors = taps.at(np.array([7, 1, 2])).tensors(torch.device("cpu"))
        assert (tensors.first.dtype, tensors.share.dtype) == (torch.int64, torch.float32)
        (first, rest), (second, share) = tensors.neighbours(torch.tensor([1, 0]))
        assert (first.tolist(), second.tolist()) == ([3, 1], [3, 2])
        assert (rest.tolist(), share.tolist()) == ([1, 0.75], [0, 0.25])


def test_on_grid_agrees_with_places_in_mm() -> None:
    """A permuted, flipped and finer grid; outside there is what the caller says."""
    rng = np.random.default_rng(0)
    values = rng.random((6, 8, 10)).astype(np.float32)
    affine = np.array([[0, 0, 2.0, 5], [0, -2.0, 0, 7], [5.0, 0, 0, -3], [0, 0, 0, 1]])
    target = np.diag([1.0, 1.0, 1.0, 1.0])
    target[:3, 3] = [3, -9, -5]
    moved = on_grid(values, affine, target, (24, 20, 40), 1)
    for voxel in ((2, 2, 7), (10, 9, 17), (0, 0, 0)):
        world = target @ [*voxel, 1]
        place = np.linalg.inv(affine) @ world
        expected = ndimage.map_coordinates(values, place[:3, None], order=1)
        assert moved[voxel] == pytest.approx(float(expected[0]), abs=1e-5)
    assert (moved.dtype, moved[0, 0, 0]) == (np.float32, 0)
    assert on_grid(values, affine, target, (24, 20, 40), 1, fill=-1000)[0, 0, 0] == -1000
    edge = on_grid(values, affine, target, [24, 20, 40], 1, "nearest")
    assert edge[0, 0, 0] in values
    np.testing.assert_array_equal(edge[moved > 0.5], moved[moved > 0.5])


def test_on_grid_takes_the_nearest_voxel_of_a_mask() -> None:
    mask = np.array([False, True, False, True])[:, None, None]
    finer = np.diag([0.5, 1, 1, 1])
    moved = on_grid(mask, np.eye(4), finer, (7, 1, 1), 0)
    np.testing.assert_array_equal(moved[::2].ravel(), [0, 1, 0, 1])
    assert set(moved.ravel()) == {0, 1}

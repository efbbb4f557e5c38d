"""Between which voxels of an array places lie, axis by axis."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ctfm.base.errors import UserError
from ctfm.imaging.reslice import Taps


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

    def test_as_tensors_without_what_lies_outside(self) -> None:
        taps = Taps.whole(0, 4).at(np.array([-1, 1, 2, 3])).between(np.array([0.5, 1.25, 3.0]))
        tensors = taps.at(np.array([7, 1, 2])).tensors(torch.device("cpu"))
        assert (tensors.first.dtype, tensors.share.dtype) == (torch.int64, torch.float32)
        (first, rest), (second, share) = tensors.neighbours(torch.tensor([1, 0]))
        assert (first.tolist(), second.tolist()) == ([3, 1], [3, 2])
        assert (rest.tolist(), share.tolist()) == ([1, 0.75], [0, 0.25])

"""Label maps are read as they are, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ctfm.base.errors import UserError
from ctfm.imaging import label_maps
from ctfm.imaging.label_maps import count_voxels, label_map, present_ids


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_integers_are_not_copied(dtype):
    labels = np.zeros((2, 3, 4), dtype=dtype)
    assert np.shares_memory(label_map(labels, "reference"), labels)
    assert np.shares_memory(label_map(torch.from_numpy(labels), "reference"), labels)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, bool])
def test_whole_numbers_of_other_types_are_ids(dtype):
    labels = np.arange(2).reshape(1, 2, 1).astype(dtype)
    found = label_map(labels, "reference")
    assert np.issubdtype(found.dtype, np.integer)
    assert found.tolist() == [[[0], [1]]]


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf, 1e12])
def test_what_is_no_id_is_refused(value):
    with pytest.raises(UserError, match="reference holds numbers"):
        label_map(np.full((2, 2, 2), value), "reference")


@pytest.mark.parametrize("shape", [(4, 4), (1, 4, 4, 4)])
def test_axes_are_three(shape):
    with pytest.raises(UserError, match="prediction has shape"):
        label_map(np.zeros(shape, dtype=np.uint8), "prediction")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float32])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("lowest", [0, 3])
def test_counts_are_those_of_numpy_in_any_order_and_block(dtype, order, lowest, monkeypatch):
    whole = np.random.default_rng(0).integers(lowest, 9, (7, 8, 9))
    labels, expected = whole.astype(dtype, order=order), np.bincount(whole.ravel())
    np.testing.assert_array_equal(count_voxels(labels), expected)
    monkeypatch.setattr(label_maps, "COUNT_BLOCK", 100)
    np.testing.assert_array_equal(count_voxels(labels), expected)
    np.testing.assert_array_equal(count_voxels(labels[::-1].transpose(2, 0, 1)), expected)


@pytest.mark.parametrize("labels", [np.full((2, 2, 2), -1), np.zeros((0, 2, 2), dtype=np.uint8)])
def test_counts_refuse_what_holds_no_ids(labels):
    with pytest.raises(UserError, match="empty or holds negative"):
        count_voxels(labels)


def test_present_ids_are_those_with_voxels_but_background():
    assert present_ids(count_voxels(np.array([[[7, 0, 2, 7]]], np.uint8))) == [2, 7]
    assert present_ids(count_voxels(np.zeros((2, 2, 2), np.uint8))) == []

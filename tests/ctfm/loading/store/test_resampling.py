"""Against MONAI's `Spacing` where it is right, and against closed forms where it aliases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Spacing

from ctfm.loading.store.resampling import resample_labels, resample_linear, resampled_shape

#: New voxel sizes in old ones.
FINER = [(1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (0.37, 1.0, 0.81), (2 / 3, 0.3, 1.0), (1.0, 0.9, 0.77)]
COARSER = [(2.0, 2.0, 2.0), (1.3, 3.0, 1.7), (1.0, 2.5, 7.0)]
MIXED = [(0.5, 2.0, 1.0), (3.1, 0.41, 0.9)]


def noise(shape: tuple[int, ...] = (11, 14, 9), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1024, 2048, shape).astype(np.float32)


def monai(volume: np.ndarray, steps: tuple[float, ...], mode: str) -> np.ndarray:
    image = MetaTensor(torch.from_numpy(volume[None].astype(np.float64)), affine=torch.eye(4))
    spacing = Spacing(steps, mode=mode, padding_mode="border", dtype=np.float64)
    return spacing(image)[0].numpy()


@pytest.mark.parametrize("steps", FINER)
def test_finer_is_as_monai_has_it(steps: tuple[float, ...]) -> None:
    volume = noise()
    expected = monai(volume, steps, "bilinear")
    result = resample_linear(volume, steps)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-3)


@pytest.mark.parametrize("steps", [*FINER, *COARSER, *MIXED])
def test_labels_are_as_monai_has_them(steps: tuple[float, ...]) -> None:
    labels = np.random.default_rng(1).integers(0, 300, (11, 14, 9)).astype(np.uint16)
    result = resample_labels(labels, steps)
    assert result.dtype == np.uint16
    expected = monai(labels, steps, "nearest")
    assert result.shape == expected.shape
    # at a tie MONAI decides by what rounding made of the place
    grids = np.meshgrid(
        *[np.arange(n) * s % 1 for n, s in zip(result.shape, steps, strict=True)], indexing="ij"
    )
    clear = np.all([abs(grid - 0.5) > 1e-6 for grid in grids], axis=0)
    assert clear.mean() > 0.05
    np.testing.assert_array_equal(result[clear], expected[clear])


@pytest.mark.parametrize("step", [0.1, 0.33, 0.7, 1.0, 1.1, 1.5, 1.7, 2.0, 2.3, 3.7, 4.0, 50.0])
def test_shapes_are_those_of_monai(step: float) -> None:
    for n in (2, 3, 4, 5, 8, 17, 40):
        expected = monai(np.zeros((n, 4, 4)), (step, 1.0, 1.0), "nearest").shape
        steps = (step, 1.0, 1.0)
        assert resampled_shape((n, 4, 4), steps) == expected
        assert resample_linear(np.zeros((n, 4, 4)), steps).shape == expected
        assert resample_labels(np.zeros((n, 4, 4), np.uint8), steps).shape == expected


def slow(line: np.ndarray, step: float) -> np.ndarray:
    """A triangle of the new voxel's width, place by place."""
    count, reach = round((len(line) - 1) / step + 1), max(1.0, step)
    result = []
    for i in range(count):
        total = weight_sum = 0.0
        for tap in range(-200, 200):
            weight = max(0.0, 1 - abs(tap - i * step) / reach)
            total += weight * line[min(max(tap, 0), len(line) - 1)]
            weight_sum += weight
        result.append(total / weight_sum)
    return np.array(result)


@pytest.mark.parametrize("step", [0.4, 1.0, 1.3, 2.0, 3.7])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_axis_against_a_slow_reference(step: float, axis: int) -> None:
    volume = noise()
    steps = tuple(step if i == axis else 1.0 for i in range(3))
    expected = np.apply_along_axis(slow, axis, volume.astype(np.float64), step)
    np.testing.assert_allclose(resample_linear(volume, steps), expected, atol=1e-3)


@pytest.mark.parametrize("steps", [*COARSER, *MIXED])
def test_axes_are_resampled_independently(steps: tuple[float, ...]) -> None:
    volume = noise()
    expected = volume.astype(np.float64)
    for axis, step in enumerate(steps):
        expected = np.apply_along_axis(slow, axis, expected, step)
    np.testing.assert_allclose(resample_linear(volume, steps), expected, atol=2e-3)


@pytest.mark.parametrize("steps", [*FINER, *COARSER, *MIXED])
def test_a_constant_stays(steps: tuple[float, ...]) -> None:
    result = resample_linear(np.full((9, 10, 11), 1234.0), steps)
    np.testing.assert_allclose(result, 1234, atol=1e-3)


def test_coarsening_by_two_kills_the_finest_pattern() -> None:
    """Sampled at points it would come out as a constant of +1000 or -1000."""
    i, j, k = np.indices((20, 21, 22))
    for pattern in (i, j, k, i + j + k):
        board = 1000.0 * (-1) ** pattern
        result = resample_linear(board, (2.0, 2.0, 2.0))
        np.testing.assert_allclose(result[1:-1, 1:-1, 1:-1], 0, atol=1e-3)


def test_coarsening_keeps_the_mean() -> None:
    """Inside every old voxel weighs the same in all: away from the ends the mean is exact."""
    volume = np.zeros((41, 41, 41))
    volume[12:30, 11:29, 13:27] = noise((18, 18, 14))
    for step in (2.0, 4.0):
        result = resample_linear(volume, (step,) * 3)
        assert result.sum() * step**3 == pytest.approx(volume.sum(), rel=1e-5)


@pytest.mark.parametrize(("step", "voxels"), [(0.4, 1e-4), (2.0, 1e-4), (3.0, 1e-4), (1.3, 0.1)])
def test_a_ramp_stays_in_place(step: float, voxels: float) -> None:
    """Nothing is shifted; a triangle on uneven taps leans by less than a tenth of a voxel."""
    ramp = np.broadcast_to(np.arange(31.0)[:, None, None], (31, 8, 8))
    result = resample_linear(ramp, (step, 1.0, 1.0))[:, 4, 4]
    inside = slice(4, len(result) - 4)
    np.testing.assert_allclose(result[inside], np.arange(len(result))[inside] * step, atol=voxels)


def test_views_and_types_of_any_kind() -> None:
    """Orientation gives views with any strides; a file any real type."""
    volume = noise((6, 7, 8))
    steps = (1.5, 0.7, 1.0)
    expected = resample_linear(volume, steps)
    for kind in (np.int16, np.float64):
        np.testing.assert_array_equal(resample_linear(volume.astype(kind), steps), expected)
    for axes, flips in itertools.product(((2, 0, 1), (1, 2, 0)), ((1, -1, 1), (-1, -1, -1))):
        stored = np.ascontiguousarray(volume.transpose(axes))
        view = stored.transpose(np.argsort(axes))[:: flips[0], :: flips[1], :: flips[2]]
        np.testing.assert_array_equal(
            resample_linear(view, steps), resample_linear(view.copy(), steps)
        )


def test_the_source_is_left_alone() -> None:
    volume = noise()
    before = volume.copy()
    for steps in ((1.0, 1.0, 1.0), (0.5, 2.0, 1.0)):
        resample_linear(volume, steps)[...] = 0
        labels = volume.astype(np.int32)
        resample_labels(labels, steps)[...] = 0
        np.testing.assert_array_equal(labels, before)
    np.testing.assert_array_equal(volume, before)

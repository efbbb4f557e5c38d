"""Fast kernels against MONAI's and SciPy's slow ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.transforms import GaussianSmooth
from scipy.ndimage import affine_transform
from torch import Tensor
from torch.nn.functional import interpolate

from ctfm.loading.augmentation.kernels import (
    affine_linear,
    affine_nearest,
    gaussian_smooth,
    histogram_shift,
    resize,
)

SHAPE = (9, 14, 11)
#: float32 rounds at 6e-8 of values up to 1; a kernel adds some tens of them.
ROUNDING = 1e-6
#: An index of up to 14 is rounded at 1e-6, between voxels that differ by up to 1 on each axis.
RESAMPLED = 5e-6


@pytest.fixture
def volume() -> Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels() -> Tensor:
    return torch.randint(0, 256, SHAPE, generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def matrices(count: int) -> list[Tensor]:
    """Turned, sheared, scaled, shifted, partly out of the volume; one of them mirrors."""
    generator = torch.Generator().manual_seed(2)
    found = []
    for number in range(count):
        matrix = 0.3 * torch.randn(3, 4, generator=generator, dtype=torch.float64)
        matrix[:, :3] += torch.diag(torch.tensor([-1.0 if number == 3 else 1.0, 1.0, 1.0]))
        matrix[:, 3] *= 10
        found.append(matrix)
    return found


class TestGaussianSmooth:
    @pytest.mark.parametrize(
        "sigmas", [(0.25, 1.0, 1.5), (0.5, 0.5, 0.5), (4.0, 0.3, 2.0), (0.0, 1.0, 0.0)]
    )
    def test_is_that_of_monai(self, sigmas: tuple[float, ...], volume: Tensor) -> None:
        """Also with kernels that are wider than the volume."""
        before = volume.clone()
        smoothed = gaussian_smooth(volume, sigmas)
        expected = GaussianSmooth(sigma=sigmas)(volume[None])[0]
        torch.testing.assert_close(smoothed, expected, rtol=0, atol=ROUNDING)
        assert torch.equal(volume, before)

    @pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 2)])
    def test_of_a_thin_volume(self, shape: tuple[int, ...]) -> None:
        thin = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        expected = GaussianSmooth(sigma=(1.0, 1.0, 1.0))(thin[None])[0]
        smoothed = gaussian_smooth(thin, (1.0, 1.0, 1.0))
        torch.testing.assert_close(smoothed, expected, rtol=0, atol=ROUNDING)

    def test_of_a_view_of_memory(self, volume: Tensor) -> None:
        turned = volume.permute(2, 0, 1).flip(0)
        expected = GaussianSmooth(sigma=(0.5, 1.0, 1.5))(turned[None])[0]
        smoothed = gaussian_smooth(turned, (0.5, 1.0, 1.5))
        torch.testing.assert_close(smoothed, expected, rtol=0, atol=ROUNDING)


class TestHistogramShift:
    def test_is_an_interpolation_between_control_points(self, volume: Tensor) -> None:
        volume = 3 * volume - 1
        reference, moved = [0.0, 0.25, 0.5, 0.75, 1.0], [0.0, 0.6, 0.55, 0.9, 1.0]
        low, high = volume.min().item(), volume.max().item()
        points = [low + (high - low) * np.array(p) for p in (reference, moved)]
        expected = np.interp(volume.numpy().astype(float), *points)
        shifted = histogram_shift(volume, reference, moved).numpy()
        # values up to 2, slopes up to 2.4
        np.testing.assert_allclose(shifted, expected, rtol=0, atol=5 * ROUNDING)

    def test_keeps_ends_and_order(self, volume: Tensor) -> None:
        shifted = histogram_shift(volume, [0.0, 0.5, 1.0], [0.0, 0.1, 1.0])
        order = volume.reshape(-1).argsort()
        assert (shifted.reshape(-1)[order].diff() >= -ROUNDING).all()
        assert shifted.min().item() == pytest.approx(volume.min().item(), abs=ROUNDING)
        assert shifted.max().item() == pytest.approx(volume.max().item(), abs=ROUNDING)

    def test_of_one_value_is_that_value(self) -> None:
        flat = torch.full((3, 4, 5), 0.3)
        assert torch.equal(histogram_shift(flat, [0.0, 0.5, 1.0], [0.0, 0.9, 1.0]), flat)


class TestAffine:
    @pytest.mark.parametrize("fill", [0.0, -7.5])
    def test_linear_is_that_of_scipy(self, fill: float, volume: Tensor) -> None:
        for matrix in matrices(20):
            expected = affine_transform(
                volume.numpy().astype(float),
                matrix.numpy(),
                order=1,
                mode="grid-constant",
                cval=fill,
            )
            found = affine_linear(volume, matrix, fill)
            # a fill of -7.5 makes the steps at the border as high
            atol = RESAMPLED * (1 + abs(fill))
            np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=atol)

    def test_nearest_is_the_closest_voxel(self, labels: Tensor) -> None:
        for matrix in matrices(20):
            points = np.indices(SHAPE).reshape(3, -1)
            source = np.rint(matrix[:, :3].numpy() @ points + matrix[:, 3:].numpy()).astype(int)
            inside = ((source >= 0) & (source < np.array(SHAPE)[:, None])).all(0)
            expected = np.zeros(inside.shape, np.uint8)
            expected[inside] = labels.numpy()[tuple(source[:, inside])]
            found = affine_nearest(labels, matrix)
            assert found.dtype == torch.uint8
            np.testing.assert_array_equal(found.numpy().reshape(-1), expected)

    @pytest.mark.parametrize("resample", [affine_linear, affine_nearest])
    def test_whole_steps_are_exact(
        self, resample: Callable[[Tensor, Tensor], Tensor], volume: Tensor, labels: Tensor
    ) -> None:
        source = volume if resample is affine_linear else labels
        matrix = torch.eye(3, 4, dtype=torch.float64)
        assert torch.equal(resample(source, matrix), source)
        matrix[:, 3] = torch.tensor([2.0, -3.0, 0.0])
        moved = resample(source, matrix)
        assert torch.equal(moved[:-2, 3:], source[2:, :-3])
        assert not moved[-2:].any()
        assert not moved[:, :3].any()

    def test_far_outside_is_fill(self, volume: Tensor, labels: Tensor) -> None:
        matrix = torch.eye(3, 4, dtype=torch.float64)
        for shift in (-1e6, -20.0, 20.0, 1e6):
            matrix[1, 3] = shift
            assert (affine_linear(volume, matrix, 5.0) == 5.0).all()
            assert not affine_nearest(labels, matrix).any()

    def test_of_a_view_of_memory(self, volume: Tensor, labels: Tensor) -> None:
        (matrix,) = matrices(1)
        turned = volume.permute(2, 0, 1).flip(0)
        moved = affine_linear(turned, matrix)
        assert torch.equal(moved, affine_linear(turned.contiguous(), matrix))
        turned = labels.permute(2, 0, 1).flip(0)
        moved = affine_nearest(turned, matrix)
        assert torch.equal(moved, affine_nearest(turned.contiguous(), matrix))


class TestResize:
    @pytest.mark.parametrize("size", [SHAPE, (18, 28, 22), (4, 9, 30), (1, 1, 1), (9, 1, 40)])
    def test_is_torchs(self, size: tuple[int, ...], volume: Tensor) -> None:
        for source in (volume, volume.permute(2, 0, 1).flip(0)):
            expected = interpolate(source[None, None], size=size, mode="trilinear")[0, 0]
            found = resize(source, size)
            torch.testing.assert_close(found, expected, rtol=0, atol=RESAMPLED)

    def test_of_one_voxel(self) -> None:
        assert (resize(torch.full((1, 1, 1), 0.3), (3, 4, 5)) == 0.3).all()


class Elsewhere(Tensor):
    """Memory of the CPU that says it is a GPU's, which gets other forms of the kernels."""

    device = property(lambda self: torch.device("cuda"))  # type: ignore[assignment]


class TestFormsForGpus:
    def elsewhere(self, tensor: Tensor) -> Tensor:
        found = tensor.clone().as_subclass(Elsewhere)
        assert found.device.type == "cuda"
        return found

    def test_smooth(self, volume: Tensor) -> None:
        sigmas = (0.3, 1.0, 2.5)
        found = gaussian_smooth(self.elsewhere(volume), sigmas).as_subclass(Tensor)
        expected = gaussian_smooth(volume, sigmas)
        torch.testing.assert_close(found, expected, rtol=0, atol=ROUNDING)

    def test_histogram_shift(self, volume: Tensor) -> None:
        points = [0.0, 0.25, 0.5, 1.0], [0.0, 0.6, 0.55, 1.0]
        found = histogram_shift(self.elsewhere(volume), *points).as_subclass(Tensor)
        expected = histogram_shift(volume, *points)
        torch.testing.assert_close(found, expected, rtol=0, atol=5 * ROUNDING)

    def test_resize(self, volume: Tensor) -> None:
        found = resize(self.elsewhere(volume), (12, 9, 20)).as_subclass(Tensor)
        torch.testing.assert_close(found, resize(volume, (12, 9, 20)), rtol=0, atol=RESAMPLED)

    @pytest.mark.parametrize("fill", [0.0, -7.5])
    def test_affine(self, fill: float, volume: Tensor, labels: Tensor) -> None:
        for matrix in matrices(20):
            found = affine_linear(self.elsewhere(volume), matrix, fill).as_subclass(Tensor)
            expected = affine_linear(volume, matrix, fill)
            # indices go through -1..1 in float32, which costs another 1e-6 or two
            atol = 4 * RESAMPLED * (1 + abs(fill))
            torch.testing.assert_close(found, expected, rtol=0, atol=atol)
            moved = affine_nearest(self.elsewhere(labels), matrix)
            assert moved.dtype == torch.uint8
            assert torch.equal(moved.as_subclass(Tensor), affine_nearest(labels, matrix))

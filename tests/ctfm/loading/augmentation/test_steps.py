"""Each transform, drawn and computed here, against MONAI's own with the same seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import (
    EnsureTyped,
    RandAffined,
    RandCoarseDropoutd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandHistogramShiftd,
    RandRotate90d,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSpatialCropd,
    RandZoomd,
    Resized,
    ScaleIntensityd,
    Transform,
)
from scipy.stats import ks_2samp, kstest

from ctfm.base.errors import UserError
from ctfm.loading.augmentation.pipeline import Augmentation
from ctfm.loading.augmentation.steps import AsMonai
from loading_support import assert_as_monai, by_monai, make_pair

SHAPE = (10, 17, 13)
BOTH = ("image", "label")
LINEAR: dict[str, Any] = {"mode": ("bilinear", "nearest"), "padding_mode": "zeros"}

FAST: dict[str, Callable[[], Transform]] = {
    "affine": lambda: RandAffined(
        BOTH, prob=0.7, rotate_range=[0.3] * 3, scale_range=[0.2] * 3, **LINEAR
    ),
    "affine with everything": lambda: RandAffined(
        BOTH,
        prob=1,
        rotate_range=[(0.1, 0.5), 0.2, 0.3],
        shear_range=[0.2] * 6,
        translate_range=[3, (1, 4), 2],
        scale_range=[(-0.3, 0), 0.1, 0.2],
        spatial_size=SHAPE,
        cache_grid=True,
        **LINEAR,
    ),
    "affine along the first axis": lambda: RandAffined(
        BOTH, prob=1, rotate_range=0.4, scale_range=0.3, translate_range=3, **LINEAR
    ),
    "affine of the image": lambda: RandAffined(
        "image", prob=1, rotate_range=0.4, padding_mode="zeros"
    ),
    "affine without a range": lambda: RandAffined(BOTH, prob=1, **LINEAR),
    "flip": lambda: RandFlipd(BOTH, prob=0.5, spatial_axis=0),
    "flip of two axes": lambda: RandFlipd(BOTH, prob=0.5, spatial_axis=(0, 2)),
    "flip of the last axis": lambda: RandFlipd(BOTH, prob=0.5, spatial_axis=-1),
    "flip of all axes": lambda: RandFlipd(BOTH, prob=0.5),
    "flip of the image": lambda: RandFlipd("image", prob=0.5, spatial_axis=1),
    "smooth": lambda: RandGaussianSmoothd("image", prob=0.7, sigma_x=(0.25, 2.5)),
    "scale": lambda: RandScaleIntensityd("image", factors=0.3, prob=0.5),
    "scale from a range": lambda: RandScaleIntensityd("image", factors=(0.1, 0.4), prob=0.5),
    "shift": lambda: RandShiftIntensityd("image", offsets=0.1, prob=0.5),
    "shift from a range": lambda: RandShiftIntensityd("image", offsets=(-0.2, 0.1), prob=0.5),
    "histogram": lambda: RandHistogramShiftd("image", num_control_points=5, prob=0.7),
    "histogram of some points": lambda: RandHistogramShiftd("image", (3, 12), prob=0.7),
    "resize": lambda: Resized("image", spatial_size=(12, 9, 20), mode="trilinear"),
}  # fmt: skip

SLOW: dict[str, Callable[[], Transform]] = {
    "affine that reflects": lambda: RandAffined(
        BOTH, prob=0.7, rotate_range=0.4, mode=("bilinear", "nearest"), padding_mode="reflection"
    ),
    "affine of nearest voxels": lambda: RandAffined(
        BOTH, prob=0.7, rotate_range=0.4, mode="nearest", padding_mode="zeros"
    ),
    "affine by splines": lambda: RandAffined(
        "image", prob=0.7, rotate_range=0.4, mode=3, padding_mode="nearest"
    ),
    "flip of the label": lambda: RandFlipd("label", prob=0.5, spatial_axis=0),
    "flip in the other order": lambda: RandFlipd(("label", "image"), prob=0.5, spatial_axis=0),
    "smooth by another kernel": lambda: RandGaussianSmoothd("image", prob=0.7, approx="sampled"),
    "smooth both": lambda: RandGaussianSmoothd(BOTH, prob=0.7),
    "scale by channel": lambda: RandScaleIntensityd("image", 0.3, prob=0.5, channel_wise=True),
    "shift by channel": lambda: RandShiftIntensityd("image", 0.3, prob=0.5, channel_wise=True),
    "shift by a factor": lambda: RandShiftIntensityd("image", 0.3, prob=0.5, factor_key="factor"),
    "noise on both": lambda: RandGaussianNoised(BOTH, prob=0.5),
    "resize both": lambda: Resized(BOTH, (12, 9, 20), mode=("trilinear", "nearest")),
    "resize by area": lambda: Resized("image", (12, 9, 20), mode="area"),
    "resize to corners": lambda: Resized(
        "image", (12, 9, 20), mode="trilinear", align_corners=True
    ),
    "resize without aliasing": lambda: Resized(
        "image", (5, 9, 9), mode="trilinear", anti_aliasing=True
    ),
    "resize the longest": lambda: Resized("image", 9, size_mode="longest", mode="trilinear"),
    "resize some axes": lambda: Resized("image", (12, -1, 20), mode="trilinear"),
    "drop out": lambda: RandCoarseDropoutd("image", holes=2, spatial_size=3, prob=0.7),
    "turn": lambda: RandRotate90d(BOTH, prob=0.7, spatial_axes=(0, 2)),
    "crop": lambda: RandSpatialCropd(BOTH, roi_size=(7, 8, 9), random_size=False),
    "zoom": lambda: RandZoomd(
        BOTH, prob=0.7, min_zoom=0.7, max_zoom=1.3, mode=("trilinear", "nearest")
    ),
    "scale to 0..1, which draws nothing": lambda: ScaleIntensityd("image"),
    "change type, which draws nothing": lambda: EnsureTyped(BOTH),
}


@pytest.mark.parametrize("name", FAST)
def test_fast_forms_are_as_monai(name: str) -> None:
    augmentation = Augmentation([FAST[name]()])
    assert not isinstance(augmentation.steps[0], AsMonai)
    assert_as_monai(augmentation, [FAST[name]()], *make_pair(SHAPE), seeds=range(15))


@pytest.mark.parametrize("name", SLOW)
def test_what_has_no_fast_form_runs_as_monai_wrote_it(name: str) -> None:
    augmentation = Augmentation([SLOW[name]()])
    assert isinstance(augmentation.steps[0], AsMonai)
    assert_as_monai(augmentation, [SLOW[name]()], *make_pair(SHAPE), seeds=range(15), exactly=True)


def test_a_transform_of_ones_own_runs_as_it_is() -> None:
    class Darker(RandFlipd):
        def __call__(self, data: Any, lazy: bool | None = None) -> Any:
            return {key: value // 2 for key, value in super().__call__(data).items()}

    augmentation = Augmentation([Darker(BOTH, prob=0.5)])
    image, label = make_pair(SHAPE)
    assert_as_monai(augmentation, [Darker(BOTH, prob=0.5)], image, label, range(5), exactly=True)


class TestNoise:
    """Made from a seed, on the image's device: a volume of noise need not be drawn ahead."""

    def draws(self, count: int = 1000, **options: Any) -> list[tuple[float, float, int]]:
        augmentation = Augmentation([RandGaussianNoised("image", prob=1, **options)])
        return [augmentation.draw(seed)[0] for seed in range(count)]

    def test_standard_deviations_are_those_that_monai_draws(self) -> None:
        monai = RandGaussianNoised("image", prob=1, std=0.1)
        expected = []
        for seed in range(1000, 2000):
            monai.set_random_state(seed)
            noisy = monai({"image": torch.zeros(1, 12, 12, 12)})
            expected.append(float(noisy["image"].std()))
        found = [std for _, std, _ in self.draws(std=0.1)]
        assert ks_2samp(found, expected).pvalue > 0.01
        assert kstest(found, "uniform", (0, 0.1)).pvalue > 0.01

    def test_fixed_standard_deviation_and_mean(self) -> None:
        draws = self.draws(20, std=0.3, mean=2, sample_std=False)
        assert {draw[:2] for draw in draws} == {(2.0, 0.3)}

    def test_noise_is_normal(self) -> None:
        augmentation = Augmentation([RandGaussianNoised("image", prob=1, std=0.2, mean=0.5)])
        image = torch.rand(20, 30, 40, generator=torch.Generator().manual_seed(0))
        drawn = augmentation.draw(3)
        noise = augmentation.apply(image.clone(), None, drawn)[0] - image
        mean, std, _ = drawn[0]
        assert mean == 0.5
        assert noise.mean().item() == pytest.approx(mean, abs=4 * std / noise.numel() ** 0.5)
        assert noise.std().item() == pytest.approx(std, rel=0.02)
        assert kstest(noise.reshape(-1)[::5].numpy(), "norm", (mean, std)).pvalue > 0.01
        beside = np.corrcoef(noise[..., 1:].reshape(-1), noise[..., :-1].reshape(-1))[0, 1]
        assert abs(beside) < 0.03

    def test_another_seed_gives_other_noise(self) -> None:
        augmentation = Augmentation([RandGaussianNoised("image", prob=1)])
        first, again, other = (
            augmentation.apply(torch.zeros(4, 4, 4), None, augmentation.draw(seed))[0]
            for seed in (1, 1, 2)
        )
        assert torch.equal(first, again)
        assert not torch.allclose(first / first.std(), other / other.std(), atol=0.1)
        assert len({draw[2] for draw in self.draws(200)}) == 200

    def test_share(self) -> None:
        augmentation = Augmentation([RandGaussianNoised("image", prob=0.2)])
        noisy = [augmentation.draw(seed)[0] is not None for seed in range(1000)]
        monai = RandGaussianNoised("image", prob=0.2)
        for seed, expected in enumerate(noisy[:20]):
            done, _ = by_monai([monai], torch.zeros(2, 2, 2), None, seed)
            assert bool(done.any()) == expected
        assert 160 < sum(noisy) < 240  # 200, standard deviation 13


def test_affine_to_another_size_is_refused() -> None:
    """MONAI would crop or pad each volume, resampled or not."""
    augmentation = Augmentation([RandAffined("image", (8, 8, 8), prob=1, padding_mode="zeros")])
    message = r"RandAffined has spatial_size \(8, 8, 8\) and gets volumes of \(10, 17, 13\)"
    with pytest.raises(UserError, match=message):
        augmentation.apply(make_pair(SHAPE)[0], None, augmentation.draw(0))

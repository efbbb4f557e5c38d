"""Lists of transforms: the two recipes, labels beside images, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from monai.transforms import (
    Compose,
    EnsureTyped,
    RandAffined,
    RandFlip,
    RandFlipd,
    RandGaussianSmoothd,
    RandRotate90d,
    RandScaleIntensityd,
    RandSpatialCropd,
    RandZoomd,
    Transform,
)
from torch import Tensor

from ctfm.base.errors import UserError
from ctfm.loading.augmentation.pipeline import Augmentation, Drawn
from loading_support import (
    assert_as_monai,
    make_pair,
    pretraining_transforms,
    whole_body_transforms,
)

BOTH = ("image", "label")
PATCH = (16, 24, 20)


def geometry() -> list[Transform]:
    """Everything that moves voxels, fast and slow."""
    turn = RandZoomd(BOTH, prob=0.5, mode=("trilinear", "nearest"), padding_mode="constant")
    return [
        RandFlipd(BOTH, prob=0.5, spatial_axis=(1, 2)),
        RandAffined(
            BOTH,
            prob=0.8,
            rotate_range=[0.3] * 3,
            shear_range=[0.1] * 6,
            translate_range=[2] * 3,
            scale_range=[0.2] * 3,
            mode=("bilinear", "nearest"),
            padding_mode="zeros",
        ),
        turn,
        RandRotate90d(BOTH, prob=0.5, spatial_axes=(0, 2)),
    ]


class TestRecipes:
    def test_whole_body(self) -> None:
        """The transforms of train.json; the noise is tested by itself."""
        transforms = whole_body_transforms(PATCH, noise=False)
        augmentation = Augmentation(transforms)
        steps = [type(step).__name__ for step in augmentation.steps]
        assert steps == ["Affine", "GaussianSmooth", "ScaleIntensity", "ShiftIntensity"]
        assert_as_monai(augmentation, transforms, *make_pair(PATCH), seeds=range(100))

    def test_whole_body_with_noise_draws_the_rest_alike(self) -> None:
        augmentation = Augmentation(whole_body_transforms(PATCH))
        without = Augmentation(whole_body_transforms(PATCH, noise=False))
        assert len(augmentation.steps) == len(without.steps) + 1
        for seed in range(50):
            drawn, expected = augmentation.draw(seed)[:-1], without.draw(seed)
            assert str(drawn) == str(expected)

    def test_pretraining(self) -> None:
        """To the recipe's own patch; views are brought there from all sizes."""
        for seed, shape in enumerate([(11, 43, 43), (32, 128, 128), (20, 77, 77)]):
            transforms = pretraining_transforms((32, 128, 128))
            augmentation = Augmentation(transforms)
            steps = [type(step).__name__ for step in augmentation.steps]
            assert steps == ["Resize", "Flip", "HistogramShift", "GaussianSmooth"]
            seeds = range(5 * seed, 5 * seed + 5)
            assert_as_monai(augmentation, transforms, make_pair(shape)[0], None, seeds)

    def test_pretraining_with_many_seeds(self) -> None:
        transforms = pretraining_transforms((8, 24, 24))
        image = make_pair((6, 17, 17))[0]
        assert_as_monai(Augmentation(transforms), transforms, image, None, seeds=range(100))


@pytest.mark.parametrize(
    "make",
    [
        lambda: [Compose([RandFlipd(BOTH, prob=0.5)]), RandScaleIntensityd("image", 0.3, prob=0.5)],
        lambda: [EnsureTyped(BOTH), *whole_body_transforms(PATCH, noise=False)],
        lambda: [RandSpatialCropd(BOTH, (9, 8, 7), random_size=False), *geometry()],
        lambda: [*geometry(), RandGaussianSmoothd("image", prob=0.5)],
        lambda: [RandRotate90d(BOTH, prob=1), geometry()[1]],
        lambda: [],
    ],
    ids=["nested", "nothing drawn first", "cropped first", "geometry", "turned first", "none"],
)
def test_fast_and_slow_together(make: Callable[[], list[Transform]]) -> None:
    """Also where a transform changes the size that the next one finds."""
    # flattened: MONAI seeds a nested Compose by itself
    transforms = Compose(make()).flatten().transforms
    assert_as_monai(Augmentation(make()), transforms, *make_pair(PATCH), seeds=range(20))


class TestDraws:
    def test_are_a_function_of_the_seed(self) -> None:
        """Not of what was drawn before, nor of the state that others share."""
        transforms = [*whole_body_transforms(PATCH), *geometry()]
        one, two = Augmentation(transforms), Augmentation(transforms)
        drawn = {seed: str(one.draw(seed)) for seed in (0, 7, 2**31 - 1, 2**32 + 7)}
        np.random.seed(5)
        torch.manual_seed(5)
        for seed in reversed(drawn):
            assert str(two.draw(seed)) == drawn[seed]
        assert len(set(drawn.values())) == 3, "MONAI counts seeds modulo 2**32"

    def test_can_be_applied_in_any_order(self) -> None:
        transforms = [*geometry(), *whole_body_transforms(PATCH)]
        augmentation = Augmentation(transforms)
        image, label = make_pair(PATCH)
        drawn = [augmentation.draw(seed) for seed in range(6)]

        def results(order: list[int]) -> dict[int, tuple[Tensor, Tensor | None]]:
            return {i: augmentation.apply(image.clone(), label.clone(), drawn[i]) for i in order}

        first, second = results([0, 1, 2, 3, 4, 5]), results([4, 1, 5, 0, 3, 2])
        for i, (found, moved) in first.items():
            assert torch.equal(found, second[i][0])
            assert moved is not None
            assert second[i][1] is not None
            assert torch.equal(moved, second[i][1])

    def test_can_be_applied_by_many_threads(self) -> None:
        """What runs as MONAI wrote it draws from a state that threads share, one at a time."""
        augmentation = Augmentation([*geometry(), RandSpatialCropd(BOTH, (7, 8, 9))])
        image, label = make_pair(PATCH)
        draws = [augmentation.draw(seed) for seed in range(100)]

        def result(drawn: Drawn) -> Tensor:
            return augmentation.apply(image.clone(), label.clone(), drawn)[0]

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(result, draws))
        assert all(torch.equal(a, result(b)) for a, b in zip(found, draws, strict=True))

    def test_disturb_nobody_else(self) -> None:
        """The transforms are copied: their owner's random state stays as it is."""
        transform = RandFlipd("image", prob=0.5).set_random_state(seed=1)
        expected = transform.R.get_state()[1].copy()
        augmentation = Augmentation([transform, RandSpatialCropd("image", (7, 8, 9))])
        augmentation.apply(make_pair(PATCH)[0], None, augmentation.draw(5))
        assert (transform.R.get_state()[1] == expected).all()

    def test_first_steps_can_be_left_to_others(self) -> None:
        augmentation = Augmentation(whole_body_transforms(PATCH, noise=False))
        image, label = make_pair(PATCH)
        for seed in range(10):
            drawn = augmentation.draw(seed)
            moved, kept = image.clone(), label.clone()
            if drawn[0] is not None:
                moved, kept = augmentation.steps[0].apply(moved, kept, drawn[0])
            rest = augmentation.apply(moved, kept, drawn, first=1)
            whole = augmentation.apply(image.clone(), label.clone(), drawn)
            assert torch.equal(rest[0], whole[0])
            assert torch.equal(rest[1], whole[1])


class TestLabels:
    def board(self, shape: tuple[int, ...], cell: int) -> Tensor:
        """A checkerboard of {0, 7, 200}."""
        places = sum(torch.meshgrid(*[torch.arange(n) // cell for n in shape], indexing="ij"))
        return torch.tensor([0, 7, 200], dtype=torch.uint8)[places % 3]

    @pytest.mark.parametrize("cell", [1, 4])
    def test_are_never_interpolated(self, cell: int) -> None:
        label = self.board(PATCH, cell)
        augmentation = Augmentation([*whole_body_transforms(PATCH), *geometry()])
        seen: set[int] = set()
        for seed in range(40):
            image = torch.zeros(PATCH)
            _, moved = augmentation.apply(image, label.clone(), augmentation.draw(seed))
            assert moved is not None
            seen |= {int(value) for value in moved.unique()}
        assert seen == {0, 7, 200}

    def test_move_with_the_image(self) -> None:
        """Their image is the label itself: away from the cells' borders it still is."""
        label = self.board((40, 40, 40), 10)
        augmentation = Augmentation(geometry())
        compared = 0
        for seed in range(20):
            drawn = augmentation.draw(seed)
            found, moved = augmentation.apply(label.float(), label.clone(), drawn)
            assert moved is not None
            # where all neighbours within two voxels are alike
            padded = torch.nn.functional.pad(moved.float(), (2,) * 6, value=-1)[None, None]
            high = torch.nn.functional.max_pool3d(padded, 5, stride=1)[0, 0]
            low = -torch.nn.functional.max_pool3d(-padded, 5, stride=1)[0, 0]
            inside = high == low
            assert (found[inside] - moved[inside]).abs().max() < 0.5
            compared += int((inside & (moved > 0)).sum())
        assert compared > 20 * 1000

    def test_follow_the_voxels_that_images_come_from(self) -> None:
        """An image of each voxel's own coordinate says where the label's voxel was."""
        shape = (30, 30, 30)
        places = torch.stack(torch.meshgrid(*[torch.arange(30.0)] * 3, indexing="ij"))
        augmentation = Augmentation(geometry()[:2])
        for seed in range(12):
            drawn = augmentation.draw(seed)
            # where no zeros from outside the volume are mixed in
            inside = augmentation.apply(torch.ones(shape), None, drawn)[0] > 1 - 1e-6
            assert inside.sum() > 0.2 * np.prod(shape)
            for axis in range(3):
                label = places[axis].to(torch.uint8) + 50
                found, moved = augmentation.apply(places[axis] + 50, label, drawn)
                assert moved is not None
                assert (found[inside] - moved[inside]).abs().max() < 0.501

    def test_are_left_alone_by_transforms_of_the_image(self) -> None:
        label = self.board(PATCH, 2)
        augmentation = Augmentation(pretraining_transforms(PATCH))
        kept = augmentation.apply(torch.rand(PATCH), label.clone(), augmentation.draw(0))[1]
        assert kept is not None
        assert torch.equal(kept, label)


class TestSides:
    def test_affine_transforms_do_not_mirror(self) -> None:
        """A mirrored left kidney would be labelled as the left one still."""
        affine = Augmentation(whole_body_transforms(PATCH)).steps[0]
        affine.transform.prob = 1
        matrices = torch.stack([affine.draw(seed) for seed in range(1000)])
        assert (torch.linalg.det(matrices[:, :, :3]) > 0.8**3).all()


class TestRefused:
    @pytest.mark.parametrize(
        ("transform", "message"),
        [
            (RandFlip(), r"transform RandFlip has keys \[\]"),
            (RandFlipd("pred"), r"transform RandFlipd has keys \['pred'\]: a store gives image"),
            (RandFlipd(("image", "mask")), r"has keys \['image', 'mask'\]"),
            (RandFlipd("image", lazy=True), "transform RandFlipd is lazy"),
        ],
    )
    def test_other_keys_and_lazy_ones(self, transform: Transform, message: str) -> None:
        with pytest.raises(UserError, match=message):
            Augmentation([RandGaussianSmoothd("image"), transform])

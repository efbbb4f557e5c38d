"""Over 1,000 samples, what a training sees is distributed as MONAI's own draws are.

Ours are those of `Samples` and `Augmentation`, which give every loader its parameters; MONAI's come
from its transforms, each drawing on with a random state of its own. Seeds are fixed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import (
    Compose,
    RandAffined,
    RandCropByLabelClassesd,
    RandFlipd,
    RandGaussianSmoothd,
    RandHistogramShiftd,
    Randomizable,
    RandScaleIntensityd,
    RandShiftIntensityd,
    Transform,
)
from scipy.stats import binomtest, chi2_contingency, ks_2samp

from ctfm.loading.augmentation.pipeline import Augmentation
from ctfm.loading.dataset import StoreDataset
from ctfm.loading.store.boxes import Samples
from ctfm.loading.store.sampling import ClassCrops, Views
from loading_support import pretraining_transforms, whole_body_transforms

#: Probability with which right draws would look worse.
UNLIKELY = 0.01
COUNT = 1000
CLASSES = [1, 3, 5]
PATCH = (6, 7, 8)


def our_draws(samples: Samples, transforms: list[Transform]) -> dict[type, list[Any]]:
    """What each transform drew for each of the first boxes; None where it does nothing."""
    boxes: list[Any] = []
    for epoch in range(1, 1000):
        boxes += [box for i in range(len(samples)) for box in samples.boxes(epoch, i)]
        if len(boxes) >= COUNT:
            break
    augmentation = Augmentation(transforms)
    rows = [augmentation.draw(box.seed) for box in boxes[:COUNT]]
    kinds = [type(step.transform) for step in augmentation.steps]
    return {kind: list(column) for kind, column in zip(kinds, zip(*rows, strict=True), strict=True)}


@pytest.fixture(scope="module")
def crops(stored: str) -> dict[type, list[Any]]:
    samples = ClassCrops(stored, PATCH, CLASSES, crops_per_scan=40)
    return our_draws(samples, whole_body_transforms(PATCH))


@pytest.fixture(scope="module")
def views(stored: str) -> dict[type, list[Any]]:
    return our_draws(Views(stored, PATCH), pretraining_transforms(PATCH))


def of(kind: type, transforms: list[Transform]) -> Any:
    """The transform of that kind, with a random state of its own."""
    (found,) = [t for t in transforms if type(t) is kind]
    assert isinstance(found, Randomizable)
    return found.set_random_state(seed=99)


def monai_draws(transform: Any, inner: Any, read: Any) -> list[Any]:
    """As long as ours, by MONAI's code alone."""
    found = []
    for _ in range(COUNT):
        transform.randomize(None)
        if transform._do_transform:
            inner.randomize(None)
            found.append(read())
        else:
            found.append(None)
    return found


def assert_same_distribution(ours: list[Any], theirs: list[Any]) -> None:
    """How often, and each number."""
    assert len(ours) == len(theirs) == COUNT
    drawn, expected = ([x for x in xs if x is not None] for xs in (ours, theirs))
    table = [[len(xs), COUNT - len(xs)] for xs in (drawn, expected)]
    assert chi2_contingency(table).pvalue > UNLIKELY
    columns = zip(np.transpose(drawn), np.transpose(expected), strict=True)
    for one, two in columns if np.ndim(drawn) > 1 else [(drawn, expected)]:
        assert ks_2samp(one, two).pvalue > UNLIKELY


class TestWholeBody:
    def test_blur(self, crops: dict[type, list[Any]]) -> None:
        transform = of(RandGaussianSmoothd, whole_body_transforms(PATCH))
        inner = transform.rand_smooth
        theirs = monai_draws(transform, inner, lambda: (inner.x, inner.y, inner.z))
        assert_same_distribution(crops[RandGaussianSmoothd], theirs)

    def test_intensity_factors(self, crops: dict[type, list[Any]]) -> None:
        transform = of(RandScaleIntensityd, whole_body_transforms(PATCH))
        theirs = monai_draws(transform, transform.scaler, lambda: transform.scaler.factor)
        assert_same_distribution(crops[RandScaleIntensityd], theirs)

    def test_intensity_offsets(self, crops: dict[type, list[Any]]) -> None:
        transform = of(RandShiftIntensityd, whole_body_transforms(PATCH))
        theirs = monai_draws(transform, transform.shifter, lambda: transform.shifter._offset)
        assert_same_distribution(crops[RandShiftIntensityd], theirs)

    def test_rotations_and_scales(self, crops: dict[type, list[Any]]) -> None:
        """Read off the matrix that MONAI makes when it resamples."""
        transform = of(RandAffined, whole_body_transforms(PATCH))
        grid = transform.rand_affine.rand_affine_grid

        def matrix() -> np.ndarray:
            grid(PATCH)
            return np.asarray(grid.get_transformation_matrix())[:3]

        theirs = monai_draws(transform, transform.rand_affine, matrix)
        drawn = crops[RandAffined]
        for read in (angles, scales):
            ours, expected = (
                [None if m is None else read(np.asarray(m)) for m in matrices]
                for matrices in (drawn, theirs)
            )
            assert_same_distribution(ours, expected)


def scales(matrix: np.ndarray) -> tuple[float, ...]:
    """A rotation times a diagonal: the lengths of the columns."""
    return tuple(np.linalg.norm(matrix[:, :3], axis=0))


def angles(matrix: np.ndarray) -> tuple[float, ...]:
    """Three numbers that tell a small rotation."""
    turn = matrix[:, :3] / scales(matrix)
    return turn[1, 0], turn[2, 0], turn[2, 1]


class TestPretraining:
    def test_flips(self, views: dict[type, list[Any]]) -> None:
        drawn = views[RandFlipd]
        assert {flip for flip in drawn if flip is not None} == {(0,)}
        flipped = [flip is not None for flip in drawn]
        assert binomtest(sum(flipped), COUNT, 0.5).pvalue > UNLIKELY
        # the two views of a crop are flipped apart
        alike = sum(a == b for a, b in zip(flipped[::2], flipped[1::2], strict=True))
        assert binomtest(alike, COUNT // 2, 0.5).pvalue > UNLIKELY

    def test_blur(self, views: dict[type, list[Any]]) -> None:
        transform = of(RandGaussianSmoothd, pretraining_transforms(PATCH))
        inner = transform.rand_smooth
        theirs = monai_draws(transform, inner, lambda: (inner.x, inner.y, inner.z))
        assert_same_distribution(views[RandGaussianSmoothd], theirs)

    def test_histogram_shifts(self, views: dict[type, list[Any]]) -> None:
        transform = of(RandHistogramShiftd, pretraining_transforms(PATCH))
        inner = transform.shifter
        theirs = monai_draws(transform, inner, lambda: inner.floating_control_points[1:-1])
        ours = [None if d is None else d[1][1:-1] for d in views[RandHistogramShiftd]]
        assert_same_distribution(ours, theirs)

    def test_transforms_are_drawn_apart(self, views: dict[type, list[Any]]) -> None:
        """From one seed for a view, yet one transform tells nothing of the next."""
        kinds = (RandFlipd, RandHistogramShiftd, RandGaussianSmoothd)
        happened = np.array([[d is not None for d in views[kind]] for kind in kinds])
        assert np.abs(np.corrcoef(happened) - np.eye(3)).max() < 0.1


def test_label_frequencies_of_crops(stored: str) -> None:
    """How much of a crop each class is; MONAI crops the same scans, each as often."""
    count = COUNT // 5
    samples = ClassCrops(stored, PATCH, CLASSES, crops_per_scan=count)
    dataset = StoreDataset(samples)
    ours = [dataset[i]["label"] for i in range(len(dataset))]
    crop = RandCropByLabelClassesd(
        "label",
        label_key="label",
        spatial_size=PATCH,
        num_classes=4,
        ratios=[0, 1, 1, 1],
        num_samples=count,
    )
    crop.set_random_state(seed=99)
    theirs = []
    for scan in samples.scans:
        label = samples.classes(scan.label((0, 0, 0), scan.entry.shape))
        theirs += [item["label"] for item in crop({"label": torch.from_numpy(label[None])})]
    assert len(ours) == len(theirs) == COUNT
    for class_id in range(4):
        shares = [[float((x == class_id).float().mean()) for x in xs] for xs in (ours, theirs)]
        assert ks_2samp(*shares).pvalue > UNLIKELY
        assert np.mean(shares[0]) == pytest.approx(np.mean(shares[1]), rel=0.1)


def test_delivered_intensities(stored: str) -> None:
    """Mean and spread of augmented crops, against MONAI's pipeline drawing on by itself."""
    samples = ClassCrops(stored, PATCH, CLASSES, crops_per_scan=60)
    boxes = [samples.boxes(1, i)[0] for i in range(len(samples))]
    images = [(torch.from_numpy(box.image()).float() + 1024) / 3072 for box in boxes]
    augmentation = Augmentation(whole_body_transforms(PATCH))
    label = torch.zeros(PATCH, dtype=torch.uint8)
    monai = Compose(whole_body_transforms(PATCH)).set_random_state(seed=99)
    found: list[list[tuple[float, float]]] = [[], []]
    for box, image in zip(boxes, images, strict=True):
        data = {"image": image[None].clone(), "label": label[None].clone()}
        theirs = monai(data)["image"]
        ours, _ = augmentation.apply(image, label, augmentation.draw(box.seed))
        for numbers, result in zip(found, (ours, theirs), strict=True):
            numbers.append((result.mean().item(), result.std().item()))
    for one, two in zip(np.transpose(found[0]), np.transpose(found[1]), strict=True):
        assert ks_2samp(one, two).pvalue > UNLIKELY

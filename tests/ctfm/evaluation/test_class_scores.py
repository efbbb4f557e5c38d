"""Scores of one case, against MONAI, a literal reference and closed forms."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.metrics import (
    DiceMetric,
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from monai.networks.utils import one_hot
from scipy import ndimage

from ctfm.base.errors import UserError
from ctfm.contract.classes import TOTALSEGMENTATOR_V2
from ctfm.evaluation.class_scores import segmentation_scores

CLASSES = {1: "one", 2: "two", 3: "three"}
SPACING = (2.5, 0.7, 1.2)


def blobs(seed: int, shape=(14, 17, 15)) -> np.ndarray:
    """Three irregular classes that touch each other and the border."""
    noise = np.random.default_rng(seed).normal(size=(4, *shape))
    return ndimage.gaussian_filter(noise, (0, 2, 2, 2)).argmax(axis=0).astype(np.uint8)


def related_blobs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    reference = blobs(seed)
    prediction = np.roll(reference, (1, 2), axis=(0, 2))
    stray = np.random.default_rng(seed).random(reference.shape) < 0.01
    return np.where(stray, blobs(seed + 1), prediction), reference


def cube(start, size=6, shape=(16, 16, 16)) -> np.ndarray:
    label = np.zeros(shape, dtype=np.uint8)
    label[tuple(slice(s, s + size) for s in start)] = 1
    return label


def only(scores):
    (score,) = scores
    return score


def distances_in_words(a: np.ndarray, b: np.ndarray, spacing) -> np.ndarray:
    """From each surface voxel of `a` the distance to the nearest one of `b`; all pairs."""

    def surface(mask):
        voxels = {tuple(v) for v in np.argwhere(mask)}
        steps = [s for s in product((-1, 0, 1), repeat=3) if sum(map(abs, s)) == 1]
        return [v for v in voxels if any(tuple(np.add(v, s)) not in voxels for s in steps)]

    return np.array(
        [
            min(math.dist(np.multiply(v, spacing), np.multiply(w, spacing)) for w in surface(b))
            for v in surface(a)
        ]
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), SPACING])
def test_agrees_with_monai(seed, spacing):
    prediction, reference = related_blobs(seed)
    scores = segmentation_scores(prediction, reference, spacing, CLASSES, nsd_tolerance_mm=1.5)

    maps = [one_hot(torch.as_tensor(m)[None, None], 4) for m in (prediction, reference)]
    expected = {
        "dice": DiceMetric(include_background=False, reduction="none")(*maps),
        "asd_mm": compute_average_surface_distance(*maps, symmetric=True, spacing=spacing),
        "hd95_mm": compute_hausdorff_distance(*maps, percentile=95, spacing=spacing),
        "nsd": compute_surface_dice(*maps, class_thresholds=[1.5] * 3, spacing=spacing),
    }
    for name, values in expected.items():
        mine = [getattr(score, name) for score in scores]
        np.testing.assert_allclose(mine, values[0].numpy(), rtol=1e-5, err_msg=name)
        assert min(mine) > 0, "the blobs must be a real test of every score"


def test_agrees_with_the_definitions_in_words():
    a, b = cube((3, 4, 5), size=4), cube((5, 5, 5), size=5)
    score = only(segmentation_scores(a, b, SPACING, {1: "one"}, nsd_tolerance_mm=1.3))
    there, back = distances_in_words(a, b, SPACING), distances_in_words(b, a, SPACING)
    both = np.concatenate([there, back])
    assert score.asd_mm == pytest.approx(both.mean())
    assert score.hd95_mm == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert score.nsd == pytest.approx(np.mean(both <= 1.3))


@pytest.mark.parametrize("shift", [0, 1, 4, 6])
def test_dice_of_shifted_cubes(shift):
    score = only(segmentation_scores(cube((2, 4 + shift, 5)), cube((2, 4, 5)), SPACING, {1: "one"}))
    assert score.dice == pytest.approx((6 - shift) / 6)
    assert score.reference_ml == score.prediction_ml == pytest.approx(6**3 * 2.5 * 0.7 * 1.2 / 1000)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_parallel_sheets_are_as_far_apart_as_the_spacing_says(axis):
    sheets = [np.zeros((9, 9, 9), dtype=np.uint8) for _ in range(2)]
    for sheet, place in zip(sheets, (2, 5), strict=True):
        sheet[(slice(None),) * axis + (place,)] = 1
    gap = 3 * SPACING[axis]
    scores = {
        tolerance: only(segmentation_scores(*sheets, SPACING, {1: "one"}, tolerance))
        for tolerance in (gap, gap - 0.1)
    }
    assert scores[gap].asd_mm == scores[gap].hd95_mm == pytest.approx(gap)
    assert scores[gap].dice == 0
    assert [score.nsd for score in scores.values()] == [1, 0]


def test_tolerance_survives_a_spacing_rounded_by_float32():
    spacing = np.nextafter(np.float32([3, 3, 3]), np.float32(4))
    score = only(segmentation_scores(cube((5, 5, 5)), cube((6, 5, 5)), spacing, {1: "one"}))
    assert score.nsd == 1
    assert type(score.reference_ml) is float


def test_identical_maps_are_perfect():
    label = blobs(3)
    for score in segmentation_scores(label, label, SPACING, CLASSES):
        assert (score.dice, score.asd_mm, score.hd95_mm, score.nsd) == (1, 0, 0, 1)


def test_class_that_was_not_predicted():
    score = only(segmentation_scores(cube((0, 0, 0), 0), cube((2, 2, 2)), SPACING, {1: "one"}))
    assert (score.dice, score.nsd, score.prediction_ml) == (0, 0, 0)
    assert math.isnan(score.asd_mm)
    assert math.isnan(score.hd95_mm)
    assert (score.missed, score.spurious) == (True, False)


@pytest.mark.parametrize("size", [0, 4])
def test_class_that_the_reference_does_not_have(size):
    score = only(segmentation_scores(cube((2, 2, 2), size), cube((0, 0, 0), 0), SPACING, {1: "a"}))
    assert all(math.isnan(v) for v in (score.dice, score.asd_mm, score.hd95_mm, score.nsd))
    assert (score.missed, score.spurious) == (False, size > 0)


def test_scores_what_is_named_in_the_order_of_ids():
    prediction, reference = related_blobs(0)
    everything = segmentation_scores(prediction, reference, SPACING, CLASSES)
    asked = {9: "nine", 3: "three", 0: "background", 1: "one"}
    some = segmentation_scores(prediction, reference, SPACING, asked)
    assert [(score.class_id, score.name) for score in some] == [
        (1, "one"),
        (3, "three"),
        (9, "nine"),
    ]
    assert some[:2] == [everything[0], everything[2]]


@pytest.mark.parametrize(
    "convert",
    [
        torch.as_tensor,
        np.asfortranarray,
        lambda m: m.astype(np.float32),
        lambda m: m.astype(np.int64),
        lambda m: MetaTensor(m.astype(np.float32)),
    ],
    ids=["torch", "fortran", "float32", "int64", "MetaTensor"],
)
def test_container_and_type_do_not_matter(convert):
    prediction, reference = related_blobs(1)
    expected = segmentation_scores(prediction, reference, SPACING, CLASSES)
    found = segmentation_scores(convert(prediction), convert(reference), SPACING, CLASSES)
    assert found == expected


def test_boolean_mask_is_class_one():
    a, b = cube((2, 2, 2)), cube((3, 2, 2))
    expected = segmentation_scores(a, b, SPACING, {1: "one"})
    assert segmentation_scores(a > 0, b > 0, SPACING, {1: "one"}) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction": np.zeros((3, 3, 3), np.uint8)}, "same grid"),
        ({"prediction": np.zeros((1, 4, 4, 4), np.uint8)}, "prediction has shape"),
        ({"reference": np.full((4, 4, 4), 0.5)}, "not whole"),
        ({"reference": np.full((4, 4, 4), np.nan)}, "not whole"),
        ({"spacing": (1, 1)}, "three positive numbers"),
        ({"spacing": (1, 1, 0)}, "three positive numbers"),
        ({"spacing": (1, 1, math.nan)}, "three positive numbers"),
        ({"classes": {0: "background"}}, "class ids"),
        ({"classes": {-1: "void", 1: "one"}}, "class ids"),
    ],
)
def test_refuses_what_it_cannot_score(change, message):
    label = np.zeros((4, 4, 4), dtype=np.uint8)
    good = {"prediction": label, "reference": label, "spacing": (1, 1, 1), "classes": {1: "one"}}
    with pytest.raises(UserError, match=message):
        segmentation_scores(**{**good, **change})


def test_real_torso_shifted_by_one_voxel(real_data: Path):
    reference = np.asanyarray(nib.load(real_data / "ct_torso_3mm_labels_fast.nii.gz").dataobj)
    shifted = ndimage.shift(reference, (1, 0, 0), order=0)
    scores = segmentation_scores(shifted, reference, (3, 3, 3), TOTALSEGMENTATOR_V2)
    present = [score for score in scores if score.reference_ml]
    assert len(scores) == 117
    assert len(present) == 61
    liver = scores[4]
    assert liver.name == "liver"
    assert 0.9 < liver.dice < 1
    assert liver.nsd == 1, "no surface is farther away than one voxel, which is the tolerance"
    assert all(0 < score.asd_mm <= 3 for score in present)

"""Which boxes of which scans: shares, places and bounds, beside MONAI's own croppers."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import (
    RandCropByLabelClasses,
    RandScaleCrop,
    RandSpatialCropSamples,
    ScaleIntensityRange,
    SpatialCrop,
    SpatialPad,
)
from scipy.stats import binomtest, chi2_contingency, chisquare, ks_2samp

from ctfm.base.errors import UserError
from ctfm.loading.store.boxes import Samples
from ctfm.loading.store.building import build_store
from ctfm.loading.store.index import Store
from ctfm.loading.store.sampling import ClassCrops, Views, Volumes
from store_support import SPACING, row

#: Probability with which a right sampler would look worse; seeds are fixed, so each test is too.
UNLIKELY = 0.01
SIDE = 24
#: Small enough that the tiny scans' organs are nowhere closer to the border than half of it.
PATCH = (5, 6, 3)
CLASSES = [1, 3, 5]


@pytest.fixture
def one(datalist: Callable[..., str], tmp_path: Path) -> str:
    """A store with one scan."""
    listed = datalist({"training": [row(0)]}, "one.json")
    build_store(listed, str(tmp_path / "one"), "whole_body", spacing=SPACING, workers=1)
    return str(tmp_path / "one")


@pytest.fixture
def four(datalist: Callable[..., str], tmp_path: Path) -> str:
    """A store with four scans in one list."""
    listed = datalist({"training": [row(i) for i in range(4)]}, "four.json")
    build_store(listed, str(tmp_path / "four"), "whole_body", spacing=SPACING, workers=1)
    return str(tmp_path / "four")


def drawn(samples: Samples, epoch: int = 1) -> list[Any]:
    """What distinguishes the boxes of an epoch."""
    boxes = [box for i in range(len(samples)) for box in samples.boxes(epoch, i)]
    return [(box.scan.entry.name, box.start, box.size, box.seed) for box in boxes]


def volume(store: str) -> tuple[np.ndarray, np.ndarray]:
    (scan,) = Store(store).scans("training")
    whole = (0, 0, 0), scan.entry.shape
    return scan.image(*whole), scan.label(*whole)


class TestAnySamples:
    @pytest.mark.parametrize(
        "make",
        [
            lambda store, **options: ClassCrops(
                store, (30, 8, 9), CLASSES, crops_per_scan=4, **options
            ),
            lambda store, **options: Views(
                store, (8, 30, 9), crops=2, scans_per_epoch=7, **options
            ),
        ],
        ids=["crops", "views"],
    )
    def test_are_functions_of_seed_epoch_and_index(
        self, make: Callable[..., Samples], store: Path
    ) -> None:
        samples = make(str(store), seed=3)
        first, second = drawn(samples), drawn(samples, epoch=2)
        again = pickle.loads(pickle.dumps(make(str(store), seed=3)))
        np.random.seed(0)
        torch.manual_seed(0)
        backwards = [again.boxes(2, i) for i in reversed(range(len(again)))]
        boxes = [box for one in reversed(backwards) for box in one]
        assert [(b.scan.entry.name, b.start, b.size, b.seed) for b in boxes] == second
        assert drawn(again) == first
        other = drawn(make(str(store), seed=4))
        seeds = [box[-1] for box in [*first, *second, *other]]
        assert len(set(seeds)) == len(seeds), "no two boxes are augmented alike"
        assert all(0 <= seed < 2**31 for seed in seeds)

    @pytest.mark.parametrize("length", [1, 3, 4, 7])
    def test_all_scans_are_shown_equally_often(self, length: int, four: str) -> None:
        samples = Views(four, (8, 8, 8), crops=1, scans_per_epoch=length)
        names = [samples.scan(epoch, i).entry.name for epoch in range(1, 9) for i in range(length)]
        passes = [tuple(names[i : i + 4]) for i in range(0, len(names), 4)]
        assert all(len(set(scans)) == 4 for scans in passes)
        assert set(Counter(names).values()) == {2 * length}
        if length == 7:
            assert len(set(passes)) > 7, "each pass has its own order"

    def test_each_scan_gives_as_many_crops_as_asked(self, store: Path) -> None:
        samples = ClassCrops(str(store), PATCH, CLASSES, crops_per_scan=3)
        assert len(samples) == 6
        assert Counter(box[0] for box in drawn(samples)) == {
            "s0/ct.nii.gz": 3,
            "s1/ct.nii.gz": 3,
        }

    def test_all_scans_are_shown_first_equally_often(self, four: str) -> None:
        samples = Views(four, (8, 8, 8), crops=1)
        first = Counter(samples.scan(epoch, 0).entry.name for epoch in range(1, 401))
        assert chisquare(list(first.values())).pvalue > UNLIKELY
        repeated = Views(four, (8, 8, 8), crops=1, seed=1)
        same = sum(samples.scan(e, 0) == repeated.scan(e, 0) for e in range(1, 401))
        assert binomtest(same, 400, 1 / 4).pvalue > UNLIKELY


class TestClassCrops:
    def boxes(self, store: str, count: int, **options: Any) -> list[Any]:
        options = {"patch": PATCH, "class_ids": CLASSES} | options
        samples = ClassCrops(store, crops_per_scan=count, **options)
        return [samples.boxes(1, i)[0] for i in range(len(samples))]

    def centers(self, boxes: list[Any]) -> np.ndarray:
        return np.array([[a + n // 2 for a, n in zip(b.start, b.size, strict=True)] for b in boxes])

    @pytest.mark.parametrize("class_id", CLASSES)
    @pytest.mark.parametrize("patch", [PATCH, (15, 16, 3)])
    def test_lie_around_a_voxel_of_the_class(
        self, class_id: int, patch: tuple[int, ...], one: str
    ) -> None:
        """Unless that would put them beyond a border, along which they are moved inside."""
        _, label = volume(one)
        ratios = [float(i == class_id) for i in (0, *CLASSES)]
        boxes = self.boxes(one, 200, patch=patch, ratios=ratios)
        moved = 0
        for box, center in zip(boxes, self.centers(boxes), strict=True):
            ends = zip(box.start, patch, label.shape, strict=True)
            assert all(a >= 0 and a + n <= size for a, n, size in ends)
            lines = tuple(
                # where a box touches a border, its voxel may lie anywhere between
                slice(None) if a in (0, size - n) else slice(c, c + 1)
                for a, c, n, size in zip(box.start, center, patch, label.shape, strict=True)
            )
            moved += slice(None) in lines
            assert (label[lines] == class_id).any()
        assert (moved == 0) == (patch == PATCH)
        assert len({box.start for box in boxes}) > 20

    def test_classes_and_places_are_those_of_monai(self, one: str) -> None:
        _, label = volume(one)
        mine = self.centers(self.boxes(one, 1000))
        monai = RandCropByLabelClasses(
            PATCH, num_classes=6, ratios=[0, 1, 0, 1, 0, 1], num_samples=1000
        )
        monai.set_random_state(1)
        monai.randomize(torch.from_numpy(label[None]))
        assert monai.centers is not None
        theirs = np.array(monai.centers)
        found = [Counter(label[tuple(np.transpose(points))]) for points in (mine, theirs)]
        assert found[0].keys() == set(CLASSES)
        counts = [[counter[i] for i in CLASSES] for counter in found]
        assert chisquare(counts[0]).pvalue > UNLIKELY
        assert chi2_contingency(counts).pvalue > UNLIKELY
        for axis in range(3):
            assert ks_2samp(mine[:, axis], theirs[:, axis]).pvalue > UNLIKELY

    def test_ratios(self, one: str) -> None:
        """Of background, where any place counts as one, and of each class."""
        _, label = volume(one)
        share = np.array([np.mean(label == i) for i in CLASSES])
        boxes = self.boxes(one, 1000, patch=(1, 1, 1), ratios=[6, 2, 1, 1])
        found = Counter(label[box.start] for box in boxes)
        of_classes = 0.6 * share + [0.2, 0.1, 0.1]
        expected = 1000 * np.array([1 - of_classes.sum(), *of_classes])
        assert chisquare([found[i] for i in (0, *CLASSES)], expected).pvalue > UNLIKELY

    def test_classes_are_counted_in_the_given_order(self, one: str) -> None:
        samples = ClassCrops(one, PATCH, [5, 1])
        label = np.array([0, 1, 2, 3, 5, 255], np.uint8)
        mapped = samples.classes(label)
        assert mapped.dtype == np.uint8
        assert mapped.tolist() == [0, 2, 0, 0, 1, 0]
        assert samples.classes(np.array([60000, 5], np.uint16)).tolist() == [0, 1]
        all_of_them = ClassCrops(one, PATCH, [1, 2, 3])
        for kind in (np.uint8, np.uint16):
            for values, expected in (([0, 3, 1], [0, 3, 1]), ([4, 3, 200], [0, 3, 0]), ([], [])):
                mapped = all_of_them.classes(np.array(values, kind))
                assert mapped.dtype == np.uint8
                assert mapped.tolist() == expected

    @pytest.mark.parametrize("patch", [(30, 12, 31), (24, 25, 24), (27, 40, 60)])
    def test_small_volumes_are_padded_as_by_monai(self, patch: tuple[int, ...], one: str) -> None:
        image, label = volume(one)
        padded = SpatialPad(patch, value=-1024)(image[None])
        padded_label = SpatialPad(patch)(label[None])
        before = [max(0, p - n) // 2 for p, n in zip(patch, image.shape, strict=True)]
        for box in self.boxes(one, 5, patch=patch):
            start = [a + b for a, b in zip(box.start, before, strict=True)]
            crop = SpatialCrop(roi_start=start, roi_end=np.add(start, patch))
            np.testing.assert_array_equal(box.image(), crop(padded)[0])
            np.testing.assert_array_equal(box.label(), crop(padded_label)[0])

    def test_places_in_a_padded_volume_are_those_of_monai(self, one: str) -> None:
        """Along the axis that is not padded."""
        _, label = volume(one)
        patch = (30, 5, 31)
        mine = self.centers(self.boxes(one, 1000, patch=patch))
        monai = RandCropByLabelClasses(
            patch, num_classes=6, ratios=[0, 1, 0, 1, 0, 1], num_samples=1000
        )
        monai.set_random_state(1)
        monai.randomize(SpatialPad(patch)(torch.from_numpy(label[None])))
        assert monai.centers is not None
        theirs = np.array(monai.centers) - [3, 0, 3]
        assert (mine[:, [0, 2]] == theirs[:, [0, 2]]).all()
        assert ks_2samp(mine[:, 1], theirs[:, 1]).pvalue > UNLIKELY

    def test_classes_that_a_scan_lacks_are_left_out(self, one: str) -> None:
        _, label = volume(one)
        boxes = self.boxes(one, 300, class_ids=[99, 1, 5, 100])
        found = Counter(label[tuple(np.transpose(self.centers(boxes)))])
        assert found.keys() == {1, 5}
        assert binomtest(found[1], 300).pvalue > UNLIKELY

    @pytest.mark.parametrize(
        "options",
        [
            {"class_ids": [99]},
            {"class_ids": [99, 98], "ratios": [0, 0, 1]},
            {"class_ids": [99, 1], "ratios": [0, 1, 0]},  # it has one, which is not wanted
        ],
    )
    def test_without_any_of_them_crops_come_from_anywhere(
        self, options: dict[str, Any], one: str
    ) -> None:
        starts = np.array([box.start for box in self.boxes(one, 1000, **options)])
        room = SIDE - np.array(PATCH)
        assert (starts.min(0) == 0).all()
        assert (starts.max(0) == room).all()
        for axis, n in enumerate(room):
            # but for the ends, where boxes are moved to from beyond
            inner = starts[(starts[:, axis] > 0) & (starts[:, axis] < n), axis]
            assert chisquare(np.bincount(inner)[1:]).pvalue > UNLIKELY

    @pytest.mark.parametrize(
        "ratios", [[1, 1, 1], [0, 1, 1, 1, 1], [0, 0, 0, 0], [0, -1, 1, 1], []]
    )
    def test_wrong_ratios(self, ratios: list[float], one: str) -> None:
        with pytest.raises(UserError, match=r"ratios are \[.*\] for 3 classes: give background's"):
            ClassCrops(one, PATCH, CLASSES, ratios=ratios)

    def test_a_narrower_window_is_scaled_as_by_monai(self, one: str) -> None:
        samples = ClassCrops(one, PATCH, CLASSES, hu_window=(20, 180))
        (box,) = samples.boxes(1, 0)
        hu = torch.from_numpy(box.image())
        expected = ScaleIntensityRange(20, 180, 0, 1, clip=True)(hu)
        assert torch.allclose(samples.scaled(hu), torch.as_tensor(expected), atol=1e-6)
        assert {0.0, 1.0} <= set(samples.scaled(hu).unique().tolist())

    @pytest.mark.parametrize("window", [(180, 20), (-2000, 100), (0, 5000)])
    def test_wrong_windows(self, window: tuple[float, float], one: str) -> None:
        with pytest.raises(UserError, match=r"hu_window is .*: give one inside \[-1024, 2048\]"):
            ClassCrops(one, PATCH, CLASSES, hu_window=window)

    def test_unlabelled_scans(self, four: str) -> None:
        message = r"2 scans of list 'training' are stored without labels \(first: s2/ct\.nii\.gz\)"
        with pytest.raises(UserError, match=message):
            ClassCrops(four, PATCH, CLASSES)


class TestViews:
    def test_lie_in_their_crops_at_one_scale_for_all_axes(self, four: str) -> None:
        patch = (16, 20, 12)
        samples = Views(four, patch, crops=5, views=3)
        assert samples.shape == (5, 3)
        assert not samples.labelled
        for index in range(len(samples)):
            boxes = samples.boxes(1, index)
            assert len(boxes) == 15
            for first in range(0, 15, 3):
                views = boxes[first : first + 3]
                low = np.min([box.start for box in views], 0)
                high = np.max([np.add(box.start, box.size) for box in views], 0)
                assert (low >= 0).all()
                assert (high <= SIDE).all()
                assert (high - low <= patch).all(), "the views of one crop fit into a crop"
                for box in views:
                    # a scale that ceil(patch * scale) can be the size of, along all axes
                    at_least = max((s - 1) / p for s, p in zip(box.size, patch, strict=True))
                    at_most = min(s / p for s, p in zip(box.size, patch, strict=True))
                    assert at_least < at_most
                    assert at_most >= 0.33
                    assert at_least < 1

    def test_crops_lie_where_monai_puts_them(self, four: str) -> None:
        patch = (7, 16, 23)
        samples = Views(four, patch, crops=250, views=1, scale=(1, 1))
        mine = [box.start for i in range(4) for box in samples.boxes(1, i)]
        monai = RandSpatialCropSamples(patch, 1, random_size=False).set_random_state(1)
        theirs = []
        for _ in range(1000):
            monai.cropper.randomize((SIDE,) * 3)
            theirs.append([place.start for place in monai.cropper._slices])
        for ours, expected in zip(np.transpose(mine), np.transpose(theirs), strict=True):
            assert ks_2samp(ours, expected).pvalue > UNLIKELY
            assert set(ours) == set(expected)

    def test_views_lie_where_monai_puts_them(self, four: str) -> None:
        """The crop fills the volume, so that a view's place is its place in the crop."""
        patch = (SIDE,) * 3
        samples = Views(four, patch, crops=1, views=250)
        mine = [(*box.size, *box.start) for i in range(4) for box in samples.boxes(1, i)]
        theirs = []
        generator = np.random.RandomState(1)
        for _ in range(1000):
            crop = RandScaleCrop(generator.uniform(0.33, 1.0), random_size=False)
            crop.set_random_state(state=generator)
            crop.randomize(patch)
            theirs.append((*crop._size, *(place.start for place in crop._slices)))
        for ours, expected in zip(np.transpose(mine), np.transpose(theirs), strict=True):
            assert ks_2samp(ours, expected).pvalue > UNLIKELY
        for axis in range(3):
            size, start = np.transpose(mine)[[axis, axis + 3]]
            ends = [np.sum(start == 0), np.sum(start + size == SIDE)]
            assert chisquare(ends).pvalue > UNLIKELY, "views touch both borders of a crop alike"
        # the scale joins the axes, nothing else does; standard deviation of a difference: 0.04
        joined = [np.corrcoef(np.transpose(found)) for found in (mine, theirs)]
        assert np.abs(joined[0] - joined[1]).max() < 0.15

    def test_views_of_a_crop_are_drawn_apart(self, four: str) -> None:
        boxes = Views(four, (SIDE,) * 3, crops=500, views=2).boxes(1, 0)
        sizes = np.reshape([box.size[0] for box in boxes], (500, 2))
        places = np.reshape([box.start[1] for box in boxes], (500, 2))
        for found in (sizes, places):
            assert abs(np.corrcoef(found.T)[0, 1]) < 0.15

    def test_small_volumes_lie_in_the_middle_of_a_crop(self, four: str) -> None:
        """As SpatialPad puts them."""
        samples = Views(four, (30, 16, 31), crops=20, views=1, scale=(1, 1))
        for box in samples.boxes(1, 0):
            image = box.scan.image((0, 0, 0), box.scan.entry.shape)
            padded = SpatialPad((30, 16, 31), value=-1024)(image[None])
            place = box.start[1]
            np.testing.assert_array_equal(box.image(), padded[0, :, place : place + 16])

    @pytest.mark.parametrize("scale", [(0, 1), (0.5, 0.4), (0.5, 1.1), (-1, 1), (0.5,), ()])
    def test_wrong_scale(self, scale: tuple[float, ...], four: str) -> None:
        with pytest.raises(UserError, match=r"scale is \[.*\]: give 0 < smallest <= largest <= 1"):
            Views(four, (8, 8, 8), scale=scale)


class TestVolumes:
    def test_are_the_scans_in_order(self, four: str) -> None:
        samples = Volumes(four, None, split="training")
        names = [f"s{i}/ct.nii.gz" for i in range(4)]
        assert [box[0] for box in drawn(samples)] == names
        assert drawn(samples, epoch=2) == drawn(samples)
        assert not samples.labelled
        scan = Store(four).scans("training")[2]
        (box,) = samples.boxes(1, 2)
        np.testing.assert_array_equal(box.image(), scan.image((0, 0, 0), scan.entry.shape))

    def test_have_labels_where_classes_are_given(self, one: str) -> None:
        samples = Volumes(one, [3, 5], split="training")
        assert samples.labelled
        (box,) = samples.boxes(1, 0)
        _, label = volume(one)
        expected = (label == 3) + 2 * (label == 5)
        np.testing.assert_array_equal(samples.classes(box.label()), expected)

    def test_unlabelled_scans(self, store: Path) -> None:
        with pytest.raises(UserError, match="2 scans of list 'validation' are stored without"):
            Volumes(str(store), CLASSES)


def test_a_store_of_other_voxels_is_refused(store: Path) -> None:
    assert len(Volumes(str(store), None, spacing=[3.0, 3.0, 3.0])) == 2
    message = r"holds voxels of \[3.0, 3.0, 3.0\] mm, the network expects \[1.5, 1.5, 1.5\]"
    with pytest.raises(UserError, match=message):
        ClassCrops(str(store), (8, 8, 8), [1], spacing=[1.5, 1.5, 1.5])
    with pytest.raises(UserError, match=message):
        Views(str(store), (8, 8, 8), spacing=[1.5, 1.5, 1.5])


def test_one_fold_validates_and_the_others_train(
    datalist: Callable[..., str], tmp_path: Path
) -> None:
    """Whatever list a row in a fold stands in; the number may change without another build."""
    content = {
        "training": [row(0, fold=0), row(1, fold=1)],
        "validation": [{**row(2), "label": row(0)["label"], "fold": 1}],
    }
    folder = str(tmp_path / "folds")
    build_store(datalist(content, "folds.json"), folder, "whole_body", spacing=SPACING, workers=1)
    names = [row(i)["image"] for i in range(3)]
    for fold, validated in ((None, [2]), (0, [0]), (1, [1, 2])):
        volumes = Volumes(folder, [1], fold=fold)
        crops = ClassCrops(folder, (16, 16, 16), [1], fold=fold)
        assert [scan.entry.name for scan in volumes.scans] == [names[i] for i in validated]
        assert {s.entry.name for s in crops.scans} == set(names) - {names[i] for i in validated}

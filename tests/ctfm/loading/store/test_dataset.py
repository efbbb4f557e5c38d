"""The store as a dataset: what items are, and that loaders give the same ones."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader as MonaiDataLoader
from monai.data.utils import set_rnd
from monai.transforms import Compose, RandFlipd, RandScaleIntensityd, RandShiftIntensityd
from torch.utils.data import DataLoader

from ctfm.loading.dataset import StoreDataset
from ctfm.loading.store.sampling import ClassCrops, Views, Volumes
from loading_support import pretraining_transforms, whole_body_transforms

CLASSES = [5, 1, 3]
PATCH = (16, 12, 20)


@pytest.fixture
def crops(store: Path) -> StoreDataset:
    samples = ClassCrops(str(store), PATCH, CLASSES, crops_per_scan=3)
    return StoreDataset(samples, whole_body_transforms(PATCH))


@pytest.fixture
def views(store: Path) -> StoreDataset:
    samples = Views(str(store), (8, 16, 16), crops=3, views=2, scans_per_epoch=3)
    return StoreDataset(samples, pretraining_transforms((8, 16, 16)))


def assert_same(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert one.keys() == two.keys()
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == two[key].dtype
            assert torch.equal(value, two[key])
        else:
            assert value == two[key]


class TestItems:
    def test_crops(self, crops: StoreDataset) -> None:
        assert len(crops) == 6
        for index in range(6):
            item = crops[index]
            assert {
                k: (type(v), v.dtype, tuple(v.shape)) for k, v in item.items() if k != "id"
            } == {
                "image": (torch.Tensor, torch.float32, (1, *PATCH)),
                "label": (torch.Tensor, torch.uint8, (1, *PATCH)),
            }
            assert set(item["label"].unique().tolist()) <= {0, 1, 2, 3}
            assert item["id"] in ("s0/ct.nii.gz", "s1/ct.nii.gz")

    def test_views(self, views: StoreDataset) -> None:
        assert len(views) == 3
        item = views[0]
        assert item.keys() == {"image", "id"}
        assert type(item["image"]) is torch.Tensor
        assert item["image"].dtype == torch.float32
        assert item["image"].shape == (3, 2, 1, 8, 16, 16)
        boxes = views.samples.boxes(1, 0)
        for number, box in enumerate(boxes):
            image = torch.from_numpy(box.image()[None]).float()
            wanted = Compose(pretraining_transforms((8, 16, 16))).set_random_state(box.seed)(
                {"image": (image + 1024) / 3072}
            )
            found = item["image"][number // 2, number % 2]
            torch.testing.assert_close(found, wanted["image"].as_tensor(), rtol=0, atol=1e-6)

    def test_volumes(self, store: Path) -> None:
        samples = Volumes(str(store), CLASSES, split="training")
        item = StoreDataset(samples)[1]
        scan = samples.scans[1]
        hu, label = (read((0, 0, 0), scan.entry.shape) for read in (scan.image, scan.label))
        assert item["image"].dtype == torch.float32
        assert item["label"].dtype == torch.uint8
        np.testing.assert_allclose(item["image"][0].numpy(), (hu + 1024.0) / 3072, atol=1e-6)
        np.testing.assert_array_equal(
            item["label"][0].numpy(), (label == 5) + 2 * (label == 1) + 3 * (label == 3)
        )

    def test_values_lie_in_0_to_1(self, store: Path) -> None:
        """Air outside of a scan is 0."""
        samples = ClassCrops(str(store), (40, 16, 16), CLASSES, crops_per_scan=2)
        for index in range(4):
            image = StoreDataset(samples)[index]["image"]
            assert image.min() == 0
            assert 0.3 < image.max() <= 1
            assert (image[0, 0] == 0).all()
            assert (image[0, -1] == 0).all()

    def test_recipes_window_decides_what_0_and_1_are(self, store: Path) -> None:
        index = json.loads((store / "store.json").read_text())
        assert index["recipe"]["hu_window"] == [-1024, 2048]
        index["recipe"]["hu_window"] = [-900, 100]
        (store / "store.json").write_text(json.dumps(index))
        samples = Volumes(str(store), None)
        scan = samples.scans[0]
        hu = scan.image((0, 0, 0), scan.entry.shape)
        found = StoreDataset(samples)[0]["image"][0].numpy()
        np.testing.assert_allclose(found, (hu + 900.0) / 1000, atol=1e-6)


class TestDraws:
    def test_are_those_of_the_samples(self, crops: StoreDataset) -> None:
        """Whatever else MONAI seeds, and in whatever order items are taken."""
        forwards = [crops[i] for i in range(6)]
        set_rnd(crops, 5)
        np.random.seed(3)
        torch.manual_seed(3)
        for index in reversed(range(6)):
            assert_same(crops[index], forwards[index])

    def test_epochs_differ(self, crops: StoreDataset) -> None:
        first = [crops[i] for i in range(6)]
        crops.set_epoch(2)
        second = [crops[i] for i in range(6)]
        assert not any(
            torch.equal(a["image"], b["image"]) for a, b in zip(first, second, strict=True)
        )
        crops.set_epoch(1)
        assert_same(crops[4], first[4])

    def test_a_nested_compose_is_a_list(self, store: Path) -> None:
        """So that it draws here what it draws in DALI's loader."""
        samples = ClassCrops(str(store), PATCH, CLASSES)
        flat = [
            RandFlipd(("image", "label"), prob=0.5),
            RandScaleIntensityd("image", 0.3, prob=0.5),
            RandShiftIntensityd("image", 0.3, prob=0.5),
        ]
        one, two = StoreDataset(samples, flat), StoreDataset(samples, [Compose(flat[:2]), flat[2]])
        for epoch in range(1, 6):
            one.set_epoch(epoch)
            two.set_epoch(epoch)
            assert_same(one[0], two[0])


class TestLoaders:
    @pytest.mark.parametrize("workers", [0, 1, 2])
    @pytest.mark.parametrize("loader", [DataLoader, MonaiDataLoader])
    def test_give_the_same_items(
        self, loader: Callable[..., Any], workers: int, crops: StoreDataset
    ) -> None:
        crops.set_epoch(3)
        batches = list(loader(crops, batch_size=2, num_workers=workers))
        assert len(batches) == 3
        for number, batch in enumerate(batches):
            items = [crops[2 * number], crops[2 * number + 1]]
            stacked = {key: torch.stack([i[key] for i in items]) for key in ("image", "label")}
            assert_same(dict(batch), {**stacked, "id": [item["id"] for item in items]})

    def test_give_views(self, views: StoreDataset) -> None:
        (batch,) = DataLoader(views, batch_size=3, num_workers=2)
        assert batch["image"].shape == (3, 3, 2, 1, 8, 16, 16)
        assert torch.equal(batch["image"][2], views[2]["image"])

    def test_workers_that_stay_hear_of_the_epoch(self, crops: StoreDataset) -> None:
        loader = DataLoader(crops, batch_size=None, num_workers=1, persistent_workers=True)
        for epoch in (1, 2, 5):
            crops.set_epoch(epoch)
            for index, item in enumerate(loader):
                assert_same(item, crops[index])

    def test_travels_to_workers(self, crops: StoreDataset) -> None:
        crops.set_epoch(2)
        item = crops[1]
        assert_same(pickle.loads(pickle.dumps(crops))[1], item)

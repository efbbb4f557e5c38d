"""DALI's loader gives what torch's gives, in any order of events; on the CPU, as it runs here."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import pytest
import torch
from monai.transforms import (
    RandAffined,
    RandFlipd,
    RandRotate90d,
    RandShiftIntensityd,
    RandSpatialCropd,
    Resized,
    SpatialPadd,
    Transform,
)
from torch.utils.data import DataLoader

from ctfm.base.errors import UserError
from ctfm.loading.dali.loader import DaliLoader
from ctfm.loading.dataset import StoreDataset
from ctfm.loading.store.boxes import Samples
from ctfm.loading.store.sampling import ClassCrops, Views, Volumes
from loading_support import TIES, TOLERANCE, pretraining_transforms, whole_body_transforms

pytest.importorskip("nvidia.dali", reason="needs DALI: pip install 'ct-fm-bundles[dali]'")

Batch = dict[str, Any]
CLASSES = [5, 1, 3]
PATCH = (16, 24, 20)
BOTH = ("image", "label")


def crops(store: str, **options: Any) -> ClassCrops:
    return ClassCrops(store, PATCH, CLASSES, **{"crops_per_scan": 2, **options})


def views(store: str, **options: Any) -> Views:
    return Views(store, PATCH, **{"crops": 3, "views": 2, **options})


def load(samples: Samples, transforms: Sequence[Transform] = (), **options: Any) -> DaliLoader:
    return DaliLoader(samples, transforms, **{"num_workers": 2, **options})


def assert_alike(found: Iterable[Batch], wanted: Iterable[Batch], exactly: bool = False) -> None:
    """Batch by batch; to the last bit, or to rounding as `loading_support` bounds it."""
    for one, two in zip(found, wanted, strict=True):
        assert one.keys() == two.keys()
        assert one["id"] == two["id"]
        assert type(one["image"]) is torch.Tensor
        assert one["image"].dtype == two["image"].dtype == torch.float32
        atol = 0 if exactly else TOLERANCE
        torch.testing.assert_close(one["image"], two["image"], rtol=0, atol=atol)
        if "label" in one:
            assert one["label"].dtype == two["label"].dtype == torch.uint8
            assert one["label"].shape == two["label"].shape == one["image"].shape
            assert (one["label"] != two["label"]).sum() <= (0 if exactly else TIES)


def by_torch(
    samples: Samples, transforms: Sequence[Transform], batch_size: int, epoch: int = 1
) -> DataLoader[Batch]:
    dataset = StoreDataset(samples, transforms)
    dataset.set_epoch(epoch)
    return DataLoader(dataset, batch_size=batch_size)


class TestAgainstTorch:
    @pytest.mark.parametrize("resampling", ["kernels", "dali", None])
    def test_class_crops(self, resampling: str | None, stored: str) -> None:
        """DALI resamples in float32 as torch does: 5e-6 was the largest difference."""
        transforms = whole_body_transforms(PATCH, noise=False)
        loader = load(
            crops(stored, crops_per_scan=4), transforms, batch_size=3, resampling=resampling
        )
        assert loader.warp == (resampling == "dali")
        for epoch in (1, 2):
            loader.set_epoch(epoch)
            assert_alike(loader, by_torch(loader.samples, transforms, 3, epoch))

    @pytest.mark.parametrize("resampling", ["kernels", "dali"])
    @pytest.mark.parametrize("size", [PATCH, (4, 9, 40)])
    def test_views(self, size: tuple[int, ...], resampling: str, stored: str) -> None:
        """DALI's resize is torch's trilinear interpolation, to smaller sizes too.

        2e-6 was the largest difference.
        """
        transforms = pretraining_transforms(size)
        loader = load(views(stored), transforms, batch_size=2, resampling=resampling)
        assert loader.resize == loader.flip == (resampling == "dali")
        for epoch in (1, 2):
            loader.set_epoch(epoch)
            assert_alike(loader, by_torch(loader.samples, transforms, 2, epoch))

    @pytest.mark.parametrize("class_ids", [None, CLASSES])
    def test_volumes(self, class_ids: list[int] | None, stored: str) -> None:
        samples = Volumes(stored, class_ids)
        loader = load(samples)
        assert_alike(loader, by_torch(samples, (), 1))
        assert [batch["id"] for batch in loader] == [["s3/ct.nii.gz"], ["s4/ct.nii.gz"]]
        assert ("label" in next(iter(loader))) == (class_ids is not None)

    @pytest.mark.parametrize("labelled", [True, False])
    @pytest.mark.parametrize("resampling", ["kernels", "dali"])
    @pytest.mark.parametrize(
        "make",
        [
            lambda both: [RandFlipd(both, prob=0.5), turning(both)],
            lambda both: [Resized("image", PATCH, mode="trilinear"), turning(both)],
            lambda both: [
                Resized("image", PATCH, mode="trilinear"),
                RandFlipd(both, prob=0.5, spatial_axis=(0, 2)),
                turning(both),
                RandShiftIntensityd("image", 0.1, prob=0.5),
            ],
            lambda both: [turning("image"), RandFlipd(both, prob=0.5)],
            lambda both: [turning(both), RandSpatialCropd(both, (7, 8, 9), random_size=False)],
            lambda both: [SpatialPadd(both, (20, 24, 30)), turning(both)],
            lambda both: [RandRotate90d(both, prob=1, max_k=1, spatial_axes=(0, 1)), turning(both)],
        ],
        ids=["flip", "resize", "all three", "image alone", "crop", "pad first", "turn first"],
    )
    def test_other_lists(
        self, make: Callable[[Any], list[Transform]], resampling: str, labelled: bool, stored: str
    ) -> None:
        """Whatever DALI does of a list, the result is that of the list."""
        samples: Samples = crops(stored)
        if not labelled:
            samples = Views(stored, PATCH, crops=1, views=2, scale=(1, 1))
        transforms = make(BOTH if labelled else "image")
        loader = load(samples, transforms, batch_size=2, resampling=resampling)
        assert_alike(loader, by_torch(samples, transforms, 2))

    def test_views_that_are_resized_late(self, stored: str) -> None:
        """They come to one size only then."""
        transforms = [RandFlipd("image", prob=0.5), Resized("image", PATCH, mode="trilinear")]
        loader = load(views(stored), transforms, batch_size=2, resampling="dali")
        assert not loader.resize
        assert_alike(loader, by_torch(loader.samples, transforms, 2))

    def test_air_beyond_a_crop_is_the_recipes(self, stored: str, tmp_path: Path) -> None:
        """Where the window begins at -900 HU, that is what an affine transform moves in."""
        shutil.copytree(stored, tmp_path / "store")
        index = tmp_path / "store" / "store.json"
        index.write_text(index.read_text().replace("-1024", "-900"))
        samples = crops(str(tmp_path / "store"))
        assert samples.recipe.hu_window[0] == -900
        transforms = [turning(BOTH)]
        for resampling in ("kernels", "dali"):
            loader = load(samples, transforms, batch_size=2, resampling=resampling)
            assert_alike(loader, by_torch(samples, transforms, 2))

    def test_noise_is_added(self, stored: str) -> None:
        """Its values differ, as they come from a seed; where there is none, nothing differs."""
        transforms = whole_body_transforms(PATCH)
        loader = load(crops(stored, crops_per_scan=4), transforms)
        noisy = 0
        plain = by_torch(loader.samples, whole_body_transforms(PATCH, noise=False), 1)
        for index, (one, two) in enumerate(zip(loader, plain, strict=True)):
            (box,) = loader.samples.boxes(1, index)
            drawn = loader.augmentation.draw(box.seed)[-1]
            difference = one["image"] - two["image"]
            if drawn is None:
                assert difference.abs().max() < TOLERANCE
            else:
                noisy += 1
                assert difference.std().item() == pytest.approx(drawn[1], rel=0.05)
        assert 0 < noisy < 20


def turning(keys: Any) -> RandAffined:
    modes = "bilinear" if keys == "image" else ("bilinear", "nearest")
    return RandAffined(
        keys,
        prob=0.7,
        rotate_range=[0.3] * 3,
        scale_range=[0.2] * 3,
        mode=modes,
        padding_mode="zeros",
    )


class TestBatches:
    def test_views_have_crops_and_views(self, stored: str) -> None:
        loader = load(views(stored), pretraining_transforms((8, 8, 8)), batch_size=2)
        shapes = [tuple(batch["image"].shape) for batch in loader]
        assert shapes == [(2, 3, 2, 1, 8, 8, 8)] * 2 + [(1, 3, 2, 1, 8, 8, 8)]
        assert [len(batch["id"]) for batch in loader] == [2, 2, 1]

    @pytest.mark.parametrize(("drop_last", "sizes"), [(False, [4, 4, 2]), (True, [4, 4])])
    def test_last_one(self, drop_last: bool, sizes: list[int], stored: str) -> None:
        loader = load(crops(stored), batch_size=4, drop_last=drop_last)
        assert len(loader) == len(sizes)
        assert [len(batch["image"]) for batch in loader] == sizes
        wanted = list(by_torch(loader.samples, (), 4))[: len(sizes)]
        assert_alike(loader, wanted)

    def test_none_at_all(self, stored: str) -> None:
        with pytest.raises(UserError, match="10 samples make no batch of 11 in each of 1 proc"):
            load(crops(stored), batch_size=11, drop_last=True)

    def test_volumes_of_different_sizes(self, stored: str) -> None:
        loader = load(Volumes(stored, CLASSES), batch_size=2)
        with pytest.raises(UserError, match=r"sizes \(30, 30, 30\) and \(32, 32, 32\): set batch"):
            next(iter(loader))

    def test_are_not_written_over(self, stored: str) -> None:
        """Each is its own memory, while others are on their way and afterwards."""
        transforms = whole_body_transforms(PATCH)
        loader = load(crops(stored, crops_per_scan=4), transforms, batch_size=2)
        kept, copies = [], []
        for batch in loader:
            kept.append(batch)
            copies.append({key: torch.clone(batch[key]) for key in BOTH} | {"id": batch["id"]})
        list(loader)
        assert len(kept) == 10
        assert_alike(kept, copies, exactly=True)
        for batch in kept:
            for key in BOTH:
                batch[key].zero_()  # neither are they DALI's memory, nor the store's
        assert_alike(loader, copies, exactly=True)

    def test_say_nothing(self, stored: str, caplog: pytest.LogCaptureFixture) -> None:
        """DALI's compiler warns of what it does not understand."""
        with caplog.at_level(logging.WARNING):
            list(load(crops(stored), whole_body_transforms(PATCH), resampling="dali"))
            list(load(views(stored), pretraining_transforms(PATCH), resampling="dali"))
        assert caplog.text == ""


class TestEpochs:
    @pytest.mark.parametrize("resampling", ["kernels", "dali"])
    def test_are_replayed_to_the_last_bit(self, resampling: str, stored: str) -> None:
        """By another loader with other threads, noise included."""
        transforms = whole_body_transforms(PATCH)
        one = load(crops(stored), transforms, batch_size=3, resampling=resampling)
        two = load(crops(stored), transforms, batch_size=3, resampling=resampling, num_workers=1)
        first = list(one)
        one.set_epoch(2)
        second = list(one)
        for loader in (one, two):
            loader.set_epoch(1)
            assert_alike(loader, first, exactly=True)
            loader.set_epoch(2)
            assert_alike(loader, second, exactly=True)
        assert not any(
            torch.equal(a["image"], b["image"]) for a, b in zip(first, second, strict=True)
        )

    @pytest.mark.parametrize("resampling", ["kernels", "dali"])
    def test_views_are_replayed_to_the_last_bit(self, resampling: str, stored: str) -> None:
        transforms = pretraining_transforms(PATCH)
        one, two = (
            load(views(stored), transforms, num_workers=n, resampling=resampling) for n in (1, 3)
        )
        assert_alike(one, list(two), exactly=True)

    def test_go_on_where_they_were_left(self, stored: str) -> None:
        loader = load(crops(stored), whole_body_transforms(PATCH), batch_size=2)
        loader.set_epoch(3)
        whole = list(loader)
        for start in (1, 4, 5):
            loader.set_epoch(3, start)
            assert_alike(loader, whole[start:], exactly=True)
        assert_alike(loader, whole, exactly=True)  # the next pass is whole again
        assert len(loader) == 5

    def test_an_epoch_is_chosen_before_its_first_batch(self, stored: str) -> None:
        loader = load(crops(stored), batch_size=2)
        first = list(loader)
        found = []
        for batch in loader:
            loader.set_epoch(7)  # for the next pass
            found.append(batch)
        assert_alike(found, first, exactly=True)
        assert not torch.equal(next(iter(loader))["image"], first[0]["image"])

    def test_an_abandoned_pass_leaves_nothing_behind(self, stored: str) -> None:
        loader = load(crops(stored), whole_body_transforms(PATCH), batch_size=2)
        whole = list(loader)
        for taken in (1, 2, 4, 5):
            iterator = iter(loader)
            assert_alike(islice(iterator, taken), whole[:taken], exactly=True)
            del iterator
            assert_alike(loader, whole, exactly=True)

    def test_passes_at_once_do_not_mix(self, stored: str) -> None:
        loader = load(crops(stored), whole_body_transforms(PATCH), batch_size=2)
        whole = list(loader)
        one, two, found = iter(loader), iter(loader), []
        for batch in one:
            found.append((batch, next(two)))
        for batches in zip(*found, strict=True):
            assert_alike(batches, whole, exactly=True)

    def test_pipeline_is_built_once(self, stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also when trainers take no more batches than there are, and so never meet the end."""
        loader = load(crops(stored), batch_size=2, resampling="dali")
        built, build = [], loader._built
        monkeypatch.setattr(loader, "_built", lambda: built.append(1) or build())
        for _ in range(3):
            iterator = iter(loader)
            assert len(list(islice(iterator, len(loader)))) == 5
            del iterator
            list(loader)
        assert len(built) == 1


class TestRanks:
    def of(
        self, monkeypatch: pytest.MonkeyPatch, world: int, make: Callable[[], DaliLoader]
    ) -> list[list[Batch]]:
        """The batches of each process."""
        found = []
        for rank in range(world):
            monkeypatch.setattr(idist, "get_rank", lambda rank=rank: rank)
            monkeypatch.setattr(idist, "get_world_size", lambda: world)
            loader = make()
            batches = list(loader)
            assert len(batches) == len(loader)
            found.append(batches)
        return found

    def images(self, batches: Iterable[Batch]) -> list[bytes]:
        return [image.numpy().tobytes() for batch in batches for image in batch["image"]]

    def test_share_the_samples(self, stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Twelve, three of which make a batch; two processes get two batches each."""
        samples = views(stored, scans_per_epoch=12)
        transforms = pretraining_transforms((8, 8, 8))
        alone = self.images(load(samples, transforms, batch_size=3))
        assert len(set(alone)) == 12
        one, two = self.of(monkeypatch, 2, lambda: load(samples, transforms, batch_size=3))
        assert len(one) == len(two) == 2
        assert self.images(one) == alone[:3] + alone[6:9]
        assert self.images(two) == alone[3:6] + alone[9:]

    def test_get_equally_many(self, stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ten samples for two processes with three a batch: the first ones come again."""
        samples = crops(stored)
        alone = self.images(load(samples))
        found = self.of(monkeypatch, 2, lambda: load(samples, batch_size=3))
        assert [self.images(batches) for batches in found] == [
            alone[0:3] + alone[6:9],
            alone[3:6] + alone[9:] + alone[:2],
        ]
        full = self.of(monkeypatch, 2, lambda: load(samples, batch_size=3, drop_last=True))
        assert [self.images(batches) for batches in full] == [alone[0:3], alone[3:6]]

    def test_more_than_samples(self, stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
        found = self.of(monkeypatch, 7, lambda: load(crops(stored, crops_per_scan=1), batch_size=2))
        assert [len(batches) for batches in found] == [1] * 7
        assert len({image for batches in found for image in self.images(batches)}) == 5

    def test_validate_each_volume_once(self, stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A volume that came again would count twice in the metric."""
        names = [f"s{i}/ct.nii.gz" for i in range(5)]
        for world, shares in ((1, [5]), (2, [3, 2]), (4, [2, 1, 1, 1]), (5, [1] * 5)):
            found = self.of(monkeypatch, world, lambda: load(Volumes(stored, None, "training")))
            assert [len(batches) for batches in found] == shares
            seen = [name for batches in found for batch in batches for name in batch["id"]]
            assert sorted(seen) == names

    def test_without_a_volume(self, stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(UserError, match="2 samples make no batch of 1 in each of 3 processes"):
            self.of(monkeypatch, 3, lambda: load(Volumes(stored, CLASSES)))


class TestErrors:
    def test_a_damaged_scan_is_named(self, stored: str, tmp_path: Path) -> None:
        """When it is repaired, the same loader reads it."""
        shutil.copytree(stored, tmp_path / "store")
        samples = Volumes(str(tmp_path / "store"), None, split="training")
        damaged = samples.scans[3].image_path
        whole = damaged.read_bytes()
        damaged.write_bytes(whole[:1000])
        loader = load(samples)
        for _ in range(2):
            with pytest.raises(UserError, match=rf"{damaged.name}: damaged .* delete it and run"):
                list(loader)
        damaged.write_bytes(whole)
        assert_alike(loader, by_torch(samples, (), 1))

    def test_of_a_transform_come_through(self, stored: str) -> None:
        transforms = [RandAffined("image", (8, 8, 8), prob=1, padding_mode="zeros")]
        for resampling in ("kernels", "dali"):
            loader = load(views(stored, scale=(1, 1)), transforms, resampling=resampling)
            with pytest.raises(UserError, match="RandAffined has spatial_size"):
                list(loader)

    def test_wrong_warp(self, stored: str) -> None:
        with pytest.raises(UserError, match="resampling is 'gpu': choose dali or kernels"):
            load(crops(stored), resampling="gpu")


def test_tells_trainers_what_torch_loaders_tell(stored: str) -> None:
    loader = load(crops(stored), batch_size=3)
    assert loader.dataset is loader.samples
    assert loader.batch_size == 3
    assert len(loader) == int(np.ceil(len(loader.dataset) / 3)) == 4

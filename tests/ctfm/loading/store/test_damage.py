"""A stored scan that turns out to be damaged while a training reads it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from ctfm.base.errors import UserError
from ctfm.loading.dataset import StoreDataset
from ctfm.loading.loader import StoreLoader
from ctfm.loading.store.boxes import Samples
from ctfm.loading.store.building import build_store
from ctfm.loading.store.index import Store
from ctfm.loading.store.sampling import ClassCrops, Views
from ctfm.loading.store.volumes import DamagedFileError, close_files
from loading_support import pretraining_transforms
from store_support import SPACING, row

PATCH = (8, 16, 16)


@pytest.fixture
def store(datalist: Callable[..., str], tmp_path: Path) -> Iterator[Path]:
    """Four scans to train on, the second of which is cut short after the index was written."""
    listed = datalist({"training": [row(0), row(1), {"image": row(2)["image"]}, row(3)]})
    build_store(listed, str(tmp_path / "store"), "whole_body", spacing=SPACING, workers=1)
    damaged = Store(tmp_path / "store").scans("training")[1].image_path
    damaged.write_bytes(damaged.read_bytes()[:300])
    close_files()
    yield tmp_path / "store"
    close_files()


def views(store: Path, **options: Any) -> Views:
    return Views(str(store), PATCH, crops=2, **{"scans_per_epoch": 8, **options})


def by_threads(samples: Samples, **options: Any) -> Any:
    return StoreLoader(samples, pretraining_transforms(PATCH), num_workers=2, **options)


def by_torch(samples: Samples, **options: Any) -> Any:
    return DataLoader(StoreDataset(samples, pretraining_transforms(PATCH)), **options)


def by_dali(samples: Samples, **options: Any) -> Any:
    pytest.importorskip("nvidia.dali", reason="needs DALI: pip install 'ct-fm-bundles[dali]'")
    from ctfm.loading.dali.loader import DaliLoader

    transforms = pretraining_transforms(PATCH)
    return DaliLoader(samples, transforms, num_workers=2, resampling="dali", **options)


@pytest.mark.parametrize("load", [by_threads, by_torch, by_dali])
class TestEachLoader:
    def test_skips_and_goes_on(
        self, load: Callable[..., Any], store: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        samples = views(store, max_damaged=0.5)
        with caplog.at_level(logging.WARNING):
            found = [name for batch in load(samples, batch_size=2) for name in batch["id"]]
        assert len(found) == 8
        assert set(found) == {row(i)["image"] for i in (0, 2, 3)}
        skipped = [r.getMessage() for r in caplog.records]
        assert len(skipped) == 1
        assert skipped[0].startswith("skipped scan 1 of 4: ")
        assert len(samples.damaged) == 1

    def test_stops_at_the_first_one_unless_told_otherwise(
        self, load: Callable[..., Any], store: Path
    ) -> None:
        loader = load(views(store), batch_size=2)
        for _ in range(2):  # another pass too
            with pytest.raises(DamagedFileError, match=r"damaged .*: delete it and run"):
                list(loader)

    def test_stops_when_there_are_too_many(self, load: Callable[..., Any], store: Path) -> None:
        with pytest.raises(UserError, match=r"^1 of 4 scans are damaged, more than max_damaged="):
            list(load(views(store, max_damaged=0.2), batch_size=2))


def test_the_others_are_what_they_would_have_been(store: Path) -> None:
    """Whenever the damage is found: batches before and after, in a resumed epoch too."""
    whole = list(by_threads(views(store, max_damaged=0.5), batch_size=1))
    again = list(by_threads(views(store, max_damaged=0.5), batch_size=1))
    resumed = by_threads(views(store, max_damaged=0.5), batch_size=1)
    resumed.set_epoch(1, start=5)
    for one, two in zip([*whole, *whole[5:]], [*again, *resumed], strict=True):
        assert one["id"] == two["id"]
        assert torch.equal(one["image"], two["image"])


def test_labels_too(datalist: Callable[..., str], tmp_path: Path) -> None:
    build_store(datalist(), str(tmp_path / "store"), "whole_body", spacing=SPACING, workers=1)
    scans = Store(tmp_path / "store").scans("training")
    scans[0].label_path.write_bytes(b"")
    samples = ClassCrops(
        str(tmp_path / "store"), PATCH, [1, 3, 5], crops_per_scan=3, max_damaged=0.5
    )
    found = [name for batch in StoreLoader(samples, num_workers=1) for name in batch["id"]]
    assert found == [scans[1].entry.name] * 6

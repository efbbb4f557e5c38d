"""Facts beside a scan come out of loaders, workers, decollation and caches as they went in."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, PersistentDataset, decollate_batch
from monai.transforms import Compose, Lambdad, Transform

from ctfm.imaging.carried import Carried


@dataclass(frozen=True)
class Facts(Carried):
    texts: tuple[str, ...]
    number: float | None = None


class AddFacts(Transform):
    """One warning more for each scan: lists of several lengths."""

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        n = data["n"]
        image = MetaTensor(torch.full((1, 2, 2, 2), float(n)))
        return {"image": image, "facts": expected(n), "n": n}


def expected(n: int) -> Facts:
    return Facts(("a",) * n, None if n % 2 else n / 3)


ROWS = [{"n": n} for n in range(5)]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("workers", [0, 2])
def test_each_scan_keeps_its_own_through_batches_and_workers(batch_size: int, workers: int) -> None:
    loader = DataLoader(Dataset(ROWS, AddFacts()), batch_size=batch_size, num_workers=workers)
    rows = []
    for batch in loader:
        size = len(batch["image"])
        assert [type(facts) for facts in batch["facts"]] == [Facts] * size
        for detach in (True, False):
            decollated = decollate_batch(batch, detach=detach)
            assert len(decollated) == size
        rows += decollated
    assert [row["facts"] for row in rows] == [expected(n) for n in range(5)]


def test_processes_that_are_spawned_send_it() -> None:
    loader = DataLoader(
        Dataset(ROWS[:2], AddFacts()), batch_size=2, num_workers=1, multiprocessing_context="spawn"
    )
    (batch,) = loader
    assert batch["facts"] == [expected(0), expected(1)]


def test_caches_give_it_back(tmp_path: Path) -> None:
    steps = Compose([AddFacts(), Lambdad("image", torch.clone)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # MONAI warns of cache files that it cannot load
        for _ in range(2):
            cached = PersistentDataset(copy.deepcopy(ROWS), steps, cache_dir=tmp_path)
            assert [row["facts"] for row in cached] == [expected(n) for n in range(5)]
    assert len([*tmp_path.glob("*.pt")]) == 5

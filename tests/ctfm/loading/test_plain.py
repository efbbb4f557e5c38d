"""Torch's loader over files: an order that resumes, and scans that cannot be read."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import pytest
import torch
from monai.data import DataLoader, Dataset

from ctfm.base.errors import UserError, one_line
from ctfm.imaging.transforms import LoadScand
from ctfm.loading.plain import PassSampler, TolerantDataset
from support import make_ct, save


def sampler(total: int = 7, iterations: int = 3, batch_size: int = 2, **options: Any) -> Any:
    return PassSampler(range(total), iterations, batch_size, **options)


def epochs(count: int, **options: Any) -> list[list[int]]:
    made, found = sampler(**options), []
    for epoch in range(1, count + 1):
        made.set_epoch(epoch)
        found.append(list(made))
    return found


class TestPassSampler:
    def test_all_items_are_shown_equally_often(self) -> None:
        shown = [i for epoch in epochs(7) for i in epoch]
        assert len(shown) == 7 * 6
        assert Counter(shown) == dict.fromkeys(range(7), 6)
        first, second = shown[:7], shown[7:14]
        assert set(first) == set(second) == set(range(7))
        assert first != second

    def test_order_is_of_the_seed(self) -> None:
        assert epochs(3, seed=1) == epochs(3, seed=1)
        assert epochs(3, seed=1) != epochs(3, seed=2)

    def test_resumes_within_an_epoch(self) -> None:
        made = sampler()
        made.set_epoch(2, start=1)
        assert list(made) == epochs(2)[1][2:]
        assert len(made) == 6
        assert list(made) == epochs(2)[1]  # once alone

    def test_processes_share_each_batch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two with batches of 2 see what one with batches of 4 sees."""
        together = sampler(batch_size=4)
        together.set_epoch(2)
        whole = torch.tensor(list(together)).reshape(3, 2, 2)
        monkeypatch.setattr(idist, "get_world_size", lambda: 2)
        for rank in range(2):
            monkeypatch.setattr(idist, "get_rank", lambda rank=rank: rank)
            part = sampler(batch_size=2)
            part.set_epoch(2)
            assert torch.tensor(list(part)).reshape(3, 2).equal(whole[:, rank])


@pytest.fixture
def scans(tmp_path: Path) -> list[dict[str, str]]:
    """Five CTs, the second of which is cut short and the fourth missing."""
    rows = [{"image": str(tmp_path / f"{i}.nii.gz")} for i in range(5)]
    for i in (0, 1, 2, 4):
        save(make_ct(seed=i, side=16)[0], Path(rows[i]["image"]))
    content = Path(rows[1]["image"]).read_bytes()
    Path(rows[1]["image"]).write_bytes(content[: len(content) // 2])
    return rows


def read(rows: list[dict[str, str]], max_damaged: float) -> TolerantDataset:
    return TolerantDataset(Dataset(rows, LoadScand("image")), max_damaged)


class TestTolerantDataset:
    def test_the_next_readable_scan_takes_the_place(
        self, scans: list[dict[str, str]], caplog: pytest.LogCaptureFixture
    ) -> None:
        data = read(scans, 0.5)
        with caplog.at_level(logging.WARNING):
            found = [Path(data[i]["image"].meta["filename_or_obj"]).name for i in range(5)]
            assert [Path(data[i]["image"].meta["filename_or_obj"]).name for i in range(5)] == found
        assert found == ["0.nii.gz", "2.nii.gz", "2.nii.gz", "4.nii.gz", "4.nii.gz"]
        assert data.damaged == {1, 3}
        assert [r.getMessage().split(":")[0] for r in caplog.records] == [
            "skipped scan 1 of 5",
            "skipped scan 2 of 5",
        ]
        assert "3.nii.gz" in caplog.records[1].getMessage()

    def test_too_many_stop_in_one_line(self, scans: list[dict[str, str]]) -> None:
        data = read(scans, 0.3)
        assert data[1] is not None
        with pytest.raises(
            UserError, match=r"^2 of 5 scans cannot be read, more than max_damaged=0\.3.*3\.nii\.gz"
        ):
            data[3]

    def test_none_may_be_damaged(self, scans: list[dict[str, str]]) -> None:
        with pytest.raises(RuntimeError) as caught:
            read(scans, 0)[1]
        assert "1.nii.gz" in str(one_line(caught.value))

    def test_defects_are_not_skipped(self) -> None:
        def broken(_row: Any) -> Any:
            raise KeyError("a defect")

        with pytest.raises(RuntimeError) as caught:
            TolerantDataset(Dataset([{}] * 3, broken), 0.9)[0]
        assert isinstance(caught.value.__cause__, KeyError)

    @pytest.mark.parametrize("num_workers", [0, 1])
    def test_in_a_loader(self, scans: list[dict[str, str]], num_workers: int) -> None:
        loader = DataLoader(read(scans, 0.5), batch_size=5, num_workers=num_workers)
        (batch,) = loader
        assert batch["image"].shape == (5, 1, 16, 16, 16)

"""Writing beside the network: what is done is kept, what fails is said, and one scan at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import DataLoader, MetaTensor

from ctfm.base.errors import UserError
from ctfm.imaging.scans import ScanDataset, collate_scans
from ctfm.inference.evaluators import FinishedScan, ScanEvaluator


def load(row: dict[str, Any]) -> dict[str, Any]:
    image = MetaTensor(torch.zeros(1, 4, 4, 4), meta={"filename_or_obj": row["image"]})
    return {**row, "image": image}


def evaluator(
    writing: Callable[[Any], Any], network: Callable[[torch.Tensor], torch.Tensor] = torch.neg
) -> tuple[ScanEvaluator, list[Any]]:
    class Network(torch.nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return network(inputs)

    rows = [{"image": name} for name in "abc"]
    loader = DataLoader(ScanDataset(rows, load), batch_size=1, collate_fn=collate_scans)
    made = ScanEvaluator(
        device=torch.device("cpu"), val_data_loader=loader, network=Network(), writing=writing
    )
    finished: list[Any] = []
    made.tell_when_finished(finished.append)
    return made, finished


def test_the_network_goes_on_while_a_scan_is_written() -> None:
    calls, second = [0], threading.Event()

    def network(inputs: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 2:
            second.set()
        return inputs

    def writing(data: dict[str, Any]) -> dict[str, Any]:
        waited = second.wait(timeout=20)  # the first scan is written when the second is computed
        return {**data, "waited": waited, "thread": threading.current_thread().name}

    run, finished = evaluator(writing, network)
    run.run()
    assert [scan.output["waited"] for scan in finished] == [True] * 3
    assert all(scan.output["thread"].startswith("writing") for scan in finished)
    assert [str(scan.row["image"].meta["filename_or_obj"]) for scan in finished] == [*"abc"]
    assert set(finished[0].seconds) == {"reading", "network", "writing"}


def test_scan_that_cannot_be_written_does_not_stop_the_others() -> None:
    def writing(data: dict[str, Any]) -> dict[str, Any]:
        if data["image"].meta["filename_or_obj"] == "b":
            raise UserError("no room for it")
        return data

    run, finished = evaluator(writing)
    with pytest.raises(UserError, match="1 of 3 scans failed"):
        run.run()
    assert [isinstance(scan, FinishedScan) for scan in finished] == [True, False, True]
    assert (run.failures[0].path, run.failures[0].reason) == ("b", "no room for it")


def test_what_is_to_be_done_about_failures_is_error_or_warn() -> None:
    with pytest.raises(UserError, match="on_failure is 'ignore': choose error or warn"):
        ScanEvaluator(on_failure="ignore")


def test_interrupt_does_not_lose_what_is_being_written(tmp_path: Path) -> None:
    calls, stopped = [0], threading.Event()

    def network(inputs: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 2:
            stopped.set()
            raise KeyboardInterrupt
        return inputs

    def writing(data: dict[str, Any]) -> dict[str, Any]:
        stopped.wait(timeout=20)
        (tmp_path / str(data["image"].meta["filename_or_obj"])).touch()
        return data

    run, finished = evaluator(writing, network)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert len(finished) == 1

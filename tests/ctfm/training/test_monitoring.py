"""Monitors attached to a trainer of embeddings that are what the test says."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import pytest
import torch
from monai.engines import SupervisedTrainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from ctfm.training.losses.nt_xent import IntraSampleNTXentLoss
from ctfm.training.losses.scores import contrastive_scores
from ctfm.training.monitoring import ContrastiveMonitor, ThroughputMonitor

BATCHES, SCANS, CROPS = 4, 2, 5


class Batches:
    """Views whose loading takes its time."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.damaged = {"a", "b"}
        self.samples = self

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        for _ in range(BATCHES):
            time.sleep(self.seconds)
            yield {"image": torch.randn(SCANS, CROPS, 2, 1, 2, 2, 2, generator=generator)}


class Network(nn.Module):
    """Embeddings that are the voxels, or nearly one point."""

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))
        self.spread = spread

    def forward(self, views: Tensor) -> Tensor:
        return self.weight * (1 + self.spread * views.flatten(3))


def run(monitor: ThroughputMonitor, seconds: float = 0.0, spread: float = 10.0) -> Any:
    network = Network(spread)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=Batches(seconds),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.0),
        loss_function=IntraSampleNTXentLoss(),
        train_handlers=[monitor],
        decollate=False,
    )
    trainer.run()
    return trainer


def scalars(folder: Path) -> dict[str, list[float]]:
    (file,) = folder.iterdir()
    events = EventAccumulator(str(file)).Reload()
    return {tag: [e.value for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_curves_are_the_scores_of_each_batch(tmp_path: Path) -> None:
    monitor = ContrastiveMonitor(str(tmp_path), iterations=1)
    trainer = run(monitor)
    assert monitor.writer is not None
    monitor.writer.flush()
    found = scalars(tmp_path)
    with torch.no_grad():
        expected = [contrastive_scores(trainer.network(b["image"])) for b in Batches()]
    for name in ("top1", "alignment", "uniformity", "std"):
        assert found[name] == pytest.approx([scores[name] for scores in expected])
        assert monitor.values[name] == pytest.approx(found[name])
    assert set(found) - set(expected[0]) == {"views_per_second", "share_of_time_waiting_for_data"}


def test_points_are_as_far_apart_as_asked(tmp_path: Path) -> None:
    monitor = ContrastiveMonitor(str(tmp_path), iterations=2)
    run(monitor)
    assert monitor.writer is not None
    monitor.writer.flush()
    assert {len(values) for values in scalars(tmp_path).values()} == {BATCHES // 2}


def test_summary_says_where_the_time_goes(tmp_path: Path) -> None:
    monitor = ContrastiveMonitor(str(tmp_path), iterations=1)
    text = monitor.summary(run(monitor, seconds=0.05))
    assert monitor.images == BATCHES * SCANS * CROPS * 2
    assert monitor.waited >= BATCHES * 0.05
    assert monitor.waited <= monitor.seconds
    for words in ("top1 ", "std ", " views/s", "% waiting for data", "2 scans skipped"):
        assert words in text


def test_collapse_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        run(ContrastiveMonitor(str(tmp_path / "a"), iterations=1), spread=10.0)
        assert caplog.records == []
        run(ContrastiveMonitor(str(tmp_path / "b"), iterations=1), spread=0.001)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == BATCHES
    assert messages[0].startswith("iteration 1: embeddings collapse (standard deviation 0.00")


def test_images_without_crops(tmp_path: Path) -> None:
    """What reconstruction trains on."""
    monitor = ThroughputMonitor(str(tmp_path), iterations=1)
    text = monitor.summary(run(monitor))
    assert monitor.images == BATCHES * SCANS
    assert " images/s" in text
    assert "top1" not in text


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idist, "get_rank", lambda: 1)
    monitor = ContrastiveMonitor(str(tmp_path), iterations=1)
    run(monitor)
    assert list(tmp_path.iterdir()) == []
    assert math.isfinite(monitor.values["std"][-1])

"""Handlers, each attached to a real engine with a network of a few hundred parameters."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import MeanDice, ValidationHandler, from_engine
from monai.transforms import AsDiscreted, Compose, RandAffined, RandGaussianNoised
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DistributedSampler

from ctfm.base.errors import UserError
from ctfm.training.batchnorm import BatchNormStatistics, prepare_statistics
from ctfm.training.handlers import (
    EpochSeed,
    FreezeEncoder,
    TensorBoard,
    TrainingProgress,
    training_loss,
)


class Network(nn.Module):
    """An encoder with BatchNorm, and a decoder."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Conv3d(1, 4, 1, bias=False), nn.BatchNorm3d(4), nn.ReLU())
        self.decoder = nn.Sequential(
            nn.Conv3d(4, 4, 1, bias=False), nn.BatchNorm3d(4), nn.Conv3d(4, 2, 1)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(image))


def rows(count: int = 4) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 1, 4, 4, 4, generator=generator) * 3 + 1
    return [{"image": image, "label": (image > 1).float()} for image in images]


def make_trainer(*handlers: Any, network: nn.Module | None = None, **options: Any) -> Any:
    network = Network() if network is None else network
    return SupervisedTrainer(
        **{
            "device": torch.device("cpu"),
            "max_epochs": 2,
            "train_data_loader": DataLoader(Dataset(rows()), batch_size=2),
            "network": network,
            "optimizer": torch.optim.SGD(network.parameters(), lr=0.1),
            "loss_function": lambda pred, label: ((pred[:, :1] - label) ** 2).mean(),
            "train_handlers": handlers,
            "decollate": False,
            **options,
        }
    )


def make_evaluator(network: nn.Module, *handlers: Any) -> Any:
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(rows(2)), batch_size=1),
        network=network,
        postprocessing=AsDiscreted(keys="pred", argmax=True),
        key_val_metric={
            "val_mean_dice": MeanDice(
                num_classes=2, output_transform=from_engine(["pred", "label"])
            )
        },
        val_handlers=handlers,
    )


class TestEpochSeed:
    def draws(self, seed: int, epoch: int) -> list[np.ndarray]:
        """One draw of each source, after an epoch of that number has started."""
        dataset = Dataset(
            rows(),
            Compose(
                [
                    RandGaussianNoised("image", prob=1),
                    Compose([RandAffined("image", prob=1, translate_range=2)]),
                ]
            ),
        )
        engine = make_trainer(EpochSeed(seed, dataset))
        engine.state.epoch = epoch
        engine.fire_event(Events.EPOCH_STARTED)
        return [
            torch.rand(3).numpy(),
            np.random.rand(3),
            np.array([random.random() for _ in range(3)]),
            np.asarray(dataset[0]["image"]),
        ]

    def test_same_seed_epoch_and_rank_draw_the_same(self) -> None:
        for first, second in zip(self.draws(3, 5), self.draws(3, 5), strict=True):
            np.testing.assert_array_equal(first, second)

    @pytest.mark.parametrize("change", ["seed", "epoch", "rank"])
    def test_another_seed_epoch_or_rank_draws_otherwise(
        self, change: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = self.draws(3, 5)
        if change == "rank":
            monkeypatch.setattr(idist, "get_rank", lambda: 1)
        after = self.draws(3 + (change == "seed"), 5 + (change == "epoch"))
        for first, second in zip(before, after, strict=True):
            assert not np.array_equal(first, second)

    @pytest.mark.parametrize("workers", [0, 1])
    def test_an_epoch_depends_on_no_earlier_one(self, workers: int) -> None:
        """Batches of epoch 2 after epoch 1, and of a run that begins with epoch 2."""

        def batches(first: int) -> list[torch.Tensor]:
            dataset = Dataset(rows(), RandGaussianNoised("image", prob=1))
            loader = DataLoader(dataset, batch_size=2, shuffle=True, num_workers=workers)
            engine = make_trainer(EpochSeed(0, dataset), train_data_loader=loader)
            engine.add_event_handler(Events.STARTED, lambda e: setattr(e.state, "epoch", first))
            seen: dict[int, list[torch.Tensor]] = {1: [], 2: []}
            engine.add_event_handler(
                Events.ITERATION_COMPLETED,
                lambda e: seen[e.state.epoch].append(e.state.batch["image"].as_tensor()),
            )
            engine.run()
            return seen[2]

        for straight, resumed in zip(batches(0), batches(1), strict=True):
            assert torch.equal(straight, resumed)

    def test_a_distributed_sampler_is_told_the_epoch(self) -> None:
        class Told(DistributedSampler):
            epochs: list[int] = []  # noqa: RUF012

            def set_epoch(self, epoch: int) -> None:
                self.epochs.append(epoch)

        dataset = Dataset(rows())
        loader = DataLoader(dataset, sampler=Told(dataset, num_replicas=1, rank=0), batch_size=2)
        engine = make_trainer()
        engine.state.dataloader = loader
        engine.state.epoch = 7
        EpochSeed(0, dataset)(engine)
        assert Told.epochs == [7]


class TestTrainingProgress:
    def lines(self, caplog: pytest.LogCaptureFixture, *handlers: Any, **options: Any) -> list[str]:
        with caplog.at_level(logging.INFO, logger="ctfm.training.handlers"):
            make_trainer(*handlers, **options).run()
        return [r.getMessage() for r in caplog.records if r.name == "ctfm.training.handlers"]

    def test_one_line_an_epoch_with_its_mean_loss(self, caplog: pytest.LogCaptureFixture) -> None:
        losses: list[float] = []
        trainer = make_trainer(TrainingProgress())
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED, lambda e: losses.append(e.state.output["loss"].item())
        )
        with caplog.at_level(logging.INFO, logger="ctfm.training.handlers"):
            trainer.run()
        lines = [r.getMessage() for r in caplog.records if r.name == "ctfm.training.handlers"]
        assert [line.split("  ")[:2] for line in lines] == [
            ["epoch 1/2", f"loss {np.mean(losses[:2]):.4f}"],
            ["epoch 2/2", f"loss {np.mean(losses[2:]):.4f}"],
        ]
        assert all(line.endswith(" it/s") for line in lines)

    def test_metric_and_best_are_added_after_an_evaluation(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        network = Network()
        evaluator = make_evaluator(network)
        handlers = ValidationHandler(2, evaluator), TrainingProgress(evaluator)
        evaluator.state.best_metric, evaluator.state.best_metric_epoch = 0.9876, 1
        first, second, third = self.lines(caplog, *handlers, network=network, max_epochs=3)
        assert "val_mean_dice" not in first + third, "only epoch 2 was evaluated"
        value = evaluator.state.metrics["val_mean_dice"]
        assert second.endswith(f"  val_mean_dice {value:.4f} (best 0.9876)")

    def test_other_ranks_say_nothing(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(idist, "get_rank", lambda: 1)
        assert self.lines(caplog, TrainingProgress()) == []

    @pytest.mark.parametrize("rank", [0, 1])
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_loss_that_is_no_number_ends_the_training(
        self, value: float, rank: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(idist, "get_rank", lambda: rank)
        factors = iter([1.0, 1.0, 1.0, value])
        trainer = make_trainer(
            TrainingProgress(), loss_function=lambda pred, _: pred.mean() * next(factors)
        )
        with pytest.raises(UserError, match=r"became -?(nan|inf) in epoch 2, iteration 4: lower"):
            trainer.run()


class TestTensorBoard:
    def scalars(self, folder: Path) -> dict[str, dict[int, float]]:
        events = EventAccumulator(str(folder)).Reload()
        tags = events.Tags()["scalars"]
        return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in tags}

    def test_curves_are_on_disk_when_the_epoch_is_over(self, tmp_path: Path) -> None:
        network = Network()
        evaluator = make_evaluator(network, TensorBoard(str(tmp_path / "e"), iteration_log=False))
        trainer = make_trainer(
            ValidationHandler(2, evaluator), TensorBoard(str(tmp_path / "t")), network=network
        )
        losses: dict[int, float] = {}
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED,
            lambda e: losses.update({e.state.iteration: e.state.output["loss"].item()}),
        )
        on_disk: list[int] = []
        trainer.add_event_handler(
            Events.EPOCH_COMPLETED,
            lambda _: on_disk.append(len(self.scalars(tmp_path / "t")["loss"])),
        )
        trainer.run()
        assert on_disk == [2, 4]
        assert self.scalars(tmp_path / "t")["loss"] == pytest.approx(losses)
        dice = evaluator.state.metrics["val_mean_dice"]
        assert self.scalars(tmp_path / "e") == {"val_mean_dice": {2: pytest.approx(dice)}}

    def test_other_ranks_write_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(idist, "get_rank", lambda: 1)
        make_trainer(TensorBoard(str(tmp_path / "t"))).run()
        assert not (tmp_path / "t").exists()


class Wrapped(nn.Module):
    """A network as `DistributedDataParallel` wraps it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.module(image)


class TestFreezeEncoder:
    def states(self, network: nn.Module, epochs: int, *handlers: Any, last: int = 2) -> list[Any]:
        """Parameters and buffers before the training and after each epoch."""
        inner = getattr(network, "module", network)

        def state() -> dict[str, torch.Tensor]:
            return {name: value.clone() for name, value in inner.state_dict().items()}

        trainer = make_trainer(
            FreezeEncoder(network, epochs), *handlers, network=network, max_epochs=last
        )
        found = [state()]
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: found.append(state()))
        trainer.run()
        return found

    def moved(self, before: dict[str, Any], after: dict[str, Any]) -> set[str]:
        return {name for name in before if not torch.equal(before[name], after[name])}

    @pytest.mark.parametrize("wrapped", [False, True])
    def test_decoder_learns_alone_then_all(self, wrapped: bool) -> None:
        network = Wrapped(Network()) if wrapped else Network()
        start, frozen, thawed = self.states(network, epochs=1)
        assert self.moved(start, frozen) == {n for n in start if n.startswith("decoder.")}
        assert self.moved(frozen, thawed) == set(start)
        assert all(p.requires_grad for p in network.parameters())

    def test_network_without_encoder_matters_only_when_it_is_to_be_frozen(self) -> None:
        plain = nn.Conv3d(1, 2, 1)
        make_trainer(FreezeEncoder(plain, epochs=0), network=plain)
        with pytest.raises(UserError, match="Conv3d has no encoder to freeze"):
            make_trainer(FreezeEncoder(plain, epochs=1), network=plain)

    def test_frozen_encoder_has_no_gradients(self) -> None:
        network = Network()
        self.states(network, epochs=2)
        assert {p.requires_grad for p in network.encoder.parameters()} == {False}
        assert {p.requires_grad for p in network.decoder.parameters()} == {True}
        assert all(p.grad is None for p in network.encoder.parameters())

    def test_frozen_encoder_normalises_as_in_evaluation(self) -> None:
        network = Network()
        with torch.no_grad():
            network.encoder[1].running_mean += 1
        self.states(network, epochs=2)
        batch = torch.stack([row["image"] for row in rows()])
        assert torch.equal(network.train().encoder(batch), network.eval().encoder(batch))

    def test_never_freezes_with_zero_epochs(self) -> None:
        start, after, _ = self.states(Network(), epochs=0)
        assert self.moved(start, after) == set(start)

    def test_measured_statistics_leave_a_frozen_encoder_alone(self) -> None:
        """The statistics of a pretrained encoder are measured anew only once it is thawed."""
        network = Network()
        with torch.no_grad():
            network.encoder[1].running_mean += 1
            network.encoder[1].running_var *= 2
        loader = DataLoader(Dataset(rows()), batch_size=2)
        measure = BatchNormStatistics(network, loader, batches=2)
        start, frozen, thawed = self.states(network, 1, measure)
        assert self.moved(start, frozen) == {n for n in start if n.startswith("decoder.")}
        assert self.moved(frozen, thawed) == set(start)

    def test_frozen_for_good_stays_frozen_when_thawed(self) -> None:
        network = prepare_statistics(Network(), "frozen")
        loader = DataLoader(Dataset(rows()), batch_size=2)
        measure = BatchNormStatistics(network, loader, batches=2)
        start, frozen, thawed = self.states(network, 1, measure)
        statistics = {n for n in start if "running" in n or "tracked" in n}
        assert self.moved(start, thawed) == set(start) - statistics
        assert self.moved(start, frozen) == {
            n for n in start if n.startswith("decoder.") and n not in statistics
        }

    def test_says_when_it_freezes_and_thaws(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO, logger="ctfm.training.handlers"):
            self.states(Network(), epochs=2, last=4)
        said = [r.getMessage() for r in caplog.records if r.name == "ctfm.training.handlers"]
        assert said == ["epoch 1: encoder frozen", "epoch 3: encoder thawed"]


class TestTrainingLoss:
    @pytest.mark.parametrize("decollate", [True, False])
    def test_reads_what_a_trainer_keeps(self, decollate: bool) -> None:
        expected: list[float] = []

        def loss(pred: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            value = ((pred[:, :1] - label) ** 2).mean()
            expected.append(value.item())
            return value

        trainer = make_trainer(loss_function=loss, decollate=decollate)
        found: list[dict[str, float]] = []
        trainer.add_event_handler(
            Events.ITERATION_COMPLETED, lambda e: found.append(training_loss(e.state.output))
        )
        trainer.run()
        assert isinstance(trainer.state.output, list) is decollate
        assert found == [{"loss": value} for value in expected]
        assert all(type(row["loss"]) is float for row in found)

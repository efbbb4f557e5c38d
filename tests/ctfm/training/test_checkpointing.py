"""Checkpoints of a training with MONAI's engines and a network of a few parameters."""

from __future__ import annotations

import errno
import logging
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Events
from ignite.metrics import Metric
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, ValidationHandler
from monai.optimizers import WarmupCosineSchedule
from torch import nn

from ctfm.base.errors import UserError
from ctfm.training.checkpointing import Checkpoint
from ctfm.training.handlers import EpochSeed

State = dict[str, torch.Tensor]


class Scripted(Metric):
    """A metric that is what the test says, by epoch from 1."""

    def __init__(self, values: Sequence[float]) -> None:
        super().__init__(output_transform=lambda output: output)
        self.values = values
        self.evaluator: Any = None

    def reset(self) -> None:
        """Nothing is gathered."""

    def update(self, output: Any) -> None:
        """Nothing is gathered."""

    def compute(self) -> float:
        return self.values[self.evaluator.state.epoch - 1]


class Training:
    """A training that can be run again from its folder; each has a network of its own."""

    def __init__(
        self,
        folder: Path,
        metrics: Sequence[float] = (0.5, 0.4, 0.6, 0.3, 0.2, 0.1, 0.1, 0.1),
        *,
        epochs: int = 2,
        val_interval: int = 1,
        hidden: int = 3,
        wrapped: bool = False,
        scale: float | None = None,
        **options: Any,
    ) -> None:
        torch.manual_seed(0)
        network: nn.Module = nn.Sequential(nn.Linear(2, hidden), nn.Linear(hidden, 2))
        self.network: nn.Module = nn.Sequential()
        self.network.module = network
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
        self.schedule = WarmupCosineSchedule(self.optimizer, epochs / 100, epochs, end_lr=0.001)
        rows = [{"image": torch.tensor([i / 4, 1.0]), "label": torch.tensor(0.0)} for i in range(4)]
        loader = DataLoader(Dataset(rows), batch_size=2)
        metric = Scripted(metrics)
        self.evaluator: Any = SupervisedEvaluator(
            device=torch.device("cpu"),
            val_data_loader=loader,
            network=network,
            key_val_metric={"score": metric},
        )
        metric.evaluator = self.evaluator
        self.trainer: Any = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=epochs,
            train_data_loader=loader,
            network=network,
            optimizer=self.optimizer,
            loss_function=lambda pred, label: (pred**2).mean(),
            decollate=False,
            train_handlers=[
                LrScheduleHandler(self.schedule, print_lr=False),
                ValidationHandler(val_interval, self.evaluator, epoch_level=True),
            ],
        )
        self.epochs: list[int] = []
        self.learning_rates: list[float] = []
        self.trainer.add_event_handler(Events.EPOCH_STARTED, self._note)
        if scale is not None:  # MONAI makes a scaler on GPUs, when the run begins
            scaler = torch.amp.GradScaler("cpu", init_scale=scale)
            self.trainer.add_event_handler(Events.STARTED, lambda e: setattr(e, "scaler", scaler))
        Checkpoint(
            str(folder),
            self.network if wrapped else network,
            self.optimizer,
            self.schedule,
            self.evaluator,
            **options,
        ).attach(self.trainer)

    def _note(self, engine: Any) -> None:
        self.epochs.append(engine.state.epoch)
        self.learning_rates.append(self.optimizer.param_groups[0]["lr"])

    def run(self) -> Training:
        self.trainer.run()
        return self

    def state(self) -> State:
        """Of the network, now."""
        return {k: v.clone() for k, v in self.trainer.network.state_dict().items()}

    def state_at(self, epoch: int) -> State:
        """Of the network, after that epoch, from a run of its own."""
        found: list[State] = []
        self.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: found.append(self.state()))
        self.run()
        return found[epoch - 1]

    def stop_after(self, epoch: int) -> Training:
        """Run and end as if killed, once the files of that epoch are written."""

        @self.trainer.on(Events.EPOCH_COMPLETED(once=epoch))
        def kill(_engine: Any) -> None:
            raise Killed

        with pytest.raises(Killed):
            self.run()
        return self


class Killed(Exception):  # noqa: N818
    """Ends a training in the middle."""


def read(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def same(first: State, second: State) -> bool:
    return set(first) == set(second) and all(torch.equal(first[k], second[k]) for k in first)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestWhatIsKept:
    def test_best_and_last(self, tmp_path: Path) -> None:
        metrics = (0.5, 0.9, 0.7)
        training = Training(tmp_path / "a", metrics, epochs=3).run()
        assert names(tmp_path / "a") == ["last.pt", "model.pt"]
        best, last = read(tmp_path / "a" / "model.pt"), read(tmp_path / "a" / "last.pt")
        assert same(best, Training(tmp_path / "b", metrics, epochs=3).state_at(2))
        assert same(last["model"], training.state())
        assert not same(best, last["model"])
        assert (last["epoch"], last["best_metric"], last["best_metric_epoch"]) == (3, 0.9, 2)

    def test_names_have_no_prefix_of_a_wrapped_network(self, tmp_path: Path) -> None:
        Training(tmp_path, wrapped=True).run()
        for state in (read(tmp_path / "model.pt"), read(tmp_path / "last.pt")["model"]):
            assert set(state) == {"0.weight", "0.bias", "1.weight", "1.bias"}

    @pytest.mark.parametrize(
        ("interval", "metrics", "expected"),
        [
            (1, (0.1,) * 5, [1, 2, 3, 4, 5]),
            (2, (0.9, 0.1, 0.1, 0.1, 0.1), [1, 2, 4, 5]),
            (9, (0.1, 0.1, 0.9, 0.1, 0.1), [1, 3, 5]),
        ],
        ids=["each", "second", "best and final"],
    )
    def test_interval(
        self, interval: int, metrics: Sequence[float], expected: list[int], tmp_path: Path
    ) -> None:
        """``last.pt`` is also saved with a new best: a killed training then knows both."""
        training = Training(tmp_path, metrics, epochs=5, interval=interval)
        saved = []
        training.trainer.add_event_handler(
            Events.EPOCH_COMPLETED, lambda _: saved.append(read(tmp_path / "last.pt")["epoch"])
        )
        training.run()
        assert sorted(set(saved)) == expected

    def test_other_ranks_write_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(idist, "get_rank", lambda: 1)
        Training(tmp_path).run()
        assert names(tmp_path) == []

    def test_model_of_an_earlier_training_is_kept_once(self, tmp_path: Path) -> None:
        torch.save({"earlier": torch.ones(1)}, tmp_path / "model.pt")
        Training(tmp_path, (0.1, 0.2, 0.3), epochs=3).run()
        assert set(read(tmp_path / "model.previous.pt")) == {"earlier"}
        assert read(tmp_path / "last.pt")["best_metric_epoch"] == 3

    @pytest.mark.parametrize("interval", [1, 9])
    def test_earlier_model_outlives_a_kill_after_any_epoch(
        self, interval: int, tmp_path: Path
    ) -> None:
        """Before the first evaluation, and after it: model.pt changes owner with epoch 2."""
        options: dict[str, Any] = {"epochs": 4, "val_interval": 2, "interval": interval}
        for killed_after in (1, 2, 3):
            folder = tmp_path / str(killed_after)
            folder.mkdir()
            torch.save({"earlier": torch.ones(1)}, folder / "model.pt")
            Training(folder, **options).stop_after(killed_after)
            Training(folder, **options).run()
            assert set(read(folder / "model.previous.pt")) == {"earlier"}
            assert "0.weight" in read(folder / "model.pt")


class TestResume:
    def test_goes_on_as_if_nothing_had_happened(self, tmp_path: Path) -> None:
        metrics = (0.5, 0.4, 0.6, 0.2, 0.1)
        Training(tmp_path / "a", metrics, epochs=5).stop_after(2)
        resumed = Training(tmp_path / "a", metrics, epochs=5).run()
        straight = Training(tmp_path / "b", metrics, epochs=5).run()
        assert resumed.epochs == [3, 4, 5]
        assert resumed.learning_rates == straight.learning_rates[2:]
        assert resumed.trainer.state.iteration == straight.trainer.state.iteration
        for name in ("model.pt", "last.pt"):
            first, second = read(tmp_path / "a" / name), read(tmp_path / "b" / name)
            assert same(first.pop("model", first), second.pop("model", second))
        torch.testing.assert_close(first, second, rtol=0, atol=0)

    def test_worse_evaluation_does_not_overwrite_the_best(self, tmp_path: Path) -> None:
        Training(tmp_path, (0.9, 0.1), epochs=4).stop_after(2)
        best = read(tmp_path / "model.pt")
        resumed = Training(tmp_path, (0.9, 0.1, 0.8, 0.7), epochs=4).run()
        assert resumed.evaluator.state.best_metric == 0.9
        assert same(read(tmp_path / "model.pt"), best)

    def test_better_evaluation_overwrites_the_best(self, tmp_path: Path) -> None:
        Training(tmp_path, (0.9, 0.1), epochs=3).stop_after(2)
        resumed = Training(tmp_path, (0.9, 0.1, 0.95), epochs=3).run()
        assert same(read(tmp_path / "model.pt"), resumed.state())
        assert names(tmp_path) == ["last.pt", "model.pt"], "the best of this training is no other's"

    def test_says_where_it_goes_on(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        Training(tmp_path, epochs=3).stop_after(1)
        with caplog.at_level(logging.INFO, logger="ctfm.training.checkpointing"):
            Training(tmp_path, epochs=3).run()
        assert f"resuming after epoch 1 from {tmp_path / 'last.pt'}" in caplog.text

    def test_finished_training_says_so_and_does_not_train(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        Training(tmp_path).run()
        before = (tmp_path / "last.pt").read_bytes()
        with caplog.at_level(logging.INFO, logger="ctfm.training.checkpointing"):
            again = Training(tmp_path).run()
        assert "all 2 epochs are done; raise epochs to go on" in caplog.text
        assert again.epochs == []
        assert again.trainer.state.iteration == 4
        assert (tmp_path / "last.pt").read_bytes() == before

    def test_raised_epochs_follow_the_longer_schedule(self, tmp_path: Path) -> None:
        Training(tmp_path / "a", epochs=4).run()
        resumed = Training(tmp_path / "a", epochs=8).run()
        straight = Training(tmp_path / "b", epochs=8).run()
        assert resumed.epochs == [5, 6, 7, 8]
        assert resumed.learning_rates[1:] == pytest.approx(straight.learning_rates[5:])

    def test_scaler_of_mixed_precision_goes_on(self, tmp_path: Path) -> None:
        Training(tmp_path, epochs=2, scale=8.0).run()
        resumed = Training(tmp_path, epochs=3, scale=2.0).run()
        assert resumed.trainer.scaler.get_scale() == 8.0
        Training(tmp_path, epochs=4).run()
        assert read(tmp_path / "last.pt")["scaler"] == {}


class TestRefusals:
    def refused(self, training: Training) -> str:
        with pytest.raises(UserError) as caught:
            training.run()
        assert training.epochs == [], "nothing was trained"
        return str(caught.value)

    def test_starting_anew_over_a_training(self, tmp_path: Path) -> None:
        Training(tmp_path).run()
        message = self.refused(Training(tmp_path, resume=False))
        assert message == (
            f"{tmp_path / 'last.pt'} exists and resume is False: choose another ckpt_dir, or "
            "delete that file"
        )

    def test_starting_anew_in_an_empty_folder_is_fine(self, tmp_path: Path) -> None:
        assert Training(tmp_path, resume=False).run().epochs == [1, 2]

    def test_checkpoint_of_another_network(self, tmp_path: Path) -> None:
        Training(tmp_path, hidden=5).run()
        message = self.refused(Training(tmp_path, epochs=3))
        assert "was written by another training (Error(s) in loading" in message
        assert "choose another ckpt_dir, or the same network and optimizer settings" in message
        assert "\n" not in message

    @pytest.mark.parametrize(
        "content",
        [{}, [], {"model": {}}, {"model": 3}, "optimizer", "epoch"],
        ids=["empty", "list", "no tensors", "number", "no optimizer", "no epoch"],
    )
    def test_checkpoint_of_something_else(self, content: Any, tmp_path: Path) -> None:
        if isinstance(content, str):
            Training(tmp_path).run()
            state = read(tmp_path / "last.pt")
            content = {k: v for k, v in state.items() if k != content}
        torch.save(content, tmp_path / "last.pt")
        assert "was written by another training" in self.refused(Training(tmp_path, epochs=3))

    def test_damaged_checkpoint(self, tmp_path: Path) -> None:
        Training(tmp_path).run()
        whole = (tmp_path / "last.pt").read_bytes()
        for damage in (b"", b"no checkpoint", whole[: len(whole) // 2]):
            (tmp_path / "last.pt").write_bytes(damage)
            message = self.refused(Training(tmp_path, epochs=3))
            assert "last.pt cannot be read (" in message
            assert message.endswith("delete it to start anew")

    def test_code_in_a_checkpoint_is_not_run(self, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> Any:
                return (Path.touch, (tmp_path / "sprung",))

        torch.save({"model": Trap()}, tmp_path / "last.pt")
        assert "cannot be read (UnpicklingError)" in self.refused(Training(tmp_path))
        assert not (tmp_path / "sprung").exists()


@contextmanager
def small_disk() -> Iterator[None]:
    """No file of this process can grow beyond 100 bytes; no fixture, since pytest writes too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestFullDisk:
    @pytest.mark.parametrize(
        "error",
        [
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 768 vs 662"),
            OSError(errno.ENOSPC, "No space left on device"),
        ],
        ids=["as torch says it", "as the system says it"],
    )
    @pytest.mark.parametrize("name", ["last.pt", "model.pt"])
    def test_old_files_stay(
        self, name: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Training(tmp_path, (0.1, 0.2, 0.3), epochs=3).stop_after(2)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        save = torch.save

        def full(state: Any, path: Path) -> None:
            if name in path.name:
                path.write_bytes(b"half of it")
                raise error
            save(state, path)

        monkeypatch.setattr(torch, "save", full)
        with pytest.raises(UserError, match=rf"cannot write .*{name}: .*(disk full|No space left)"):
            Training(tmp_path, (0.1, 0.2, 0.3), epochs=3).run()
        after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        assert set(after) == {"last.pt", "model.pt"}
        assert after["last.pt"] == before["last.pt"]
        assert (after["model.pt"] == before["model.pt"]) is (name == "model.pt")

    def test_no_room_from_the_start(self, tmp_path: Path) -> None:
        training = Training(tmp_path / "models")
        message = r"cannot write .*model\.pt: .*is the disk full"
        with small_disk(), pytest.raises(UserError, match=message):
            training.run()
        assert names(tmp_path / "models") == []


class TestWithinAnEpoch:
    """Two iterations make an epoch here."""

    def stopped_in(self, folder: Path, iteration: int) -> Training:
        training = Training(folder, epochs=3, iterations=1)

        @training.trainer.on(Events.ITERATION_STARTED(once=iteration + 1))
        def kill(_engine: Any) -> None:
            raise Killed

        with pytest.raises(Killed):
            training.run()
        return training

    def test_goes_on_in_the_middle(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.stopped_in(tmp_path, 3)
        saved = read(tmp_path / "last.pt")
        assert (saved["epoch"], saved["iteration"], saved["epoch_length"]) == (1, 3, 2)
        resumed = Training(tmp_path, epochs=3, iterations=1)
        done: list[int] = []
        resumed.trainer.add_event_handler(
            Events.ITERATION_COMPLETED, lambda e: done.append(e.state.iteration)
        )
        with caplog.at_level(logging.INFO):
            resumed.run()
        assert done == [4, 5, 6]
        assert resumed.epochs == [2, 3]
        assert "resuming in epoch 2, after 1 of its 2 iterations" in caplog.text

    def test_the_seed_handler_tells_the_place(self, tmp_path: Path) -> None:
        self.stopped_in(tmp_path, 3)
        resumed = Training(tmp_path, epochs=3, iterations=1)
        told: list[tuple[int, int]] = []

        class Placed:
            def set_epoch(self, epoch: int, start: int = 0) -> None:
                told.append((epoch, start))

        EpochSeed(0, Placed()).attach(resumed.trainer)
        resumed.run()
        assert told == [(2, 1), (3, 0)]

    def test_an_epoch_of_another_length_starts_anew(self, tmp_path: Path) -> None:
        self.stopped_in(tmp_path, 3)
        state = read(tmp_path / "last.pt")
        torch.save({**state, "epoch_length": 5}, tmp_path / "last.pt")
        resumed = Training(tmp_path, epochs=3, iterations=1).run()
        assert resumed.epochs == [2, 3]
        assert resumed.trainer.state.iteration == 6

    def test_an_interrupted_save_leaves_the_one_before(self, tmp_path: Path) -> None:
        self.stopped_in(tmp_path, 1)
        assert read(tmp_path / "last.pt")["iteration"] == 1

    def test_an_epoch_ends_in_one_save(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        saved: list[str] = []
        save = torch.save
        monkeypatch.setattr(
            torch, "save", lambda state, path: (saved.append(path.name), save(state, path))
        )
        Training(tmp_path, (0.5, 0.4), epochs=2, iterations=1).run()
        assert sum("last" in name for name in saved) == 4


def test_weights_are_kept_on_the_way(tmp_path: Path) -> None:
    training = Training(tmp_path, (0.5,) * 5, epochs=5, keep_interval=2).run()
    kept = [name for name in names(tmp_path) if name.startswith("epoch")]
    assert kept == ["epoch_0002.pt", "epoch_0004.pt"]
    state = read(tmp_path / "epoch_0004.pt")
    assert state["epoch"] == 4
    assert set(state["model"]) == set(training.state())


def test_without_an_evaluator(tmp_path: Path) -> None:
    """Pretraining has no metric that says which epoch is the best."""
    training = Training(tmp_path / "unused")
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=training.trainer.data_loader,
        network=training.trainer.network,
        optimizer=training.optimizer,
        loss_function=lambda pred, label: (pred**2).mean(),
        decollate=False,
    )
    handler = Checkpoint(
        str(tmp_path / "a"), training.trainer.network, training.optimizer, training.schedule
    )
    handler.attach(trainer)
    trainer.run()
    assert names(tmp_path / "a") == ["last.pt"]
    assert read(tmp_path / "a" / "last.pt")["epoch"] == 2

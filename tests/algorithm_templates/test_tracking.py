"""MLflow: what a training writes there, in MONAI's handler, by a client that keeps it in memory."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from monai.handlers import mlflow_handler

from auto3dseg_support import make_fold, make_task
from ctfm.auto3dseg import training
from ctfm.auto3dseg.training import train_fold
from ctfm.base.errors import UserError

URI = "sqlite:////nowhere/mlflow.db"

pytestmark = pytest.mark.usefixtures("one_thread")


class Client:
    """The part of MLflow's client that MONAI's handler calls.

    Attributes:
        runs: name -> status.
        metrics: (run, metric, step).
        params: of runs.
    """

    runs: dict[str, str]
    metrics: list[tuple[str, str, int]]
    params: dict[str, str]

    def __init__(self, tracking_uri: str) -> None:
        assert tracking_uri == URI

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id=name, lifecycle_stage="active")

    def search_runs(self, _experiment: str) -> list[Any]:
        return [self.get_run(name) for name in self.runs]

    def create_run(self, experiment_id: str, run_name: str) -> Any:
        assert experiment_id == "livers"
        self.runs[run_name] = "RUNNING"
        return self.get_run(run_name)

    def get_run(self, name: str) -> Any:
        info = SimpleNamespace(run_id=name, run_name=name, status=self.runs[name])
        return SimpleNamespace(info=info, data=SimpleNamespace(params=self.params))

    def log_batch(
        self, run_id: str, metrics: list[Any], params: list[Any], tags: list[Any]
    ) -> None:
        assert not tags
        self.metrics.extend((run_id, m.key, m.step) for m in metrics)
        for param in params:
            # as the server: a parameter keeps its value
            assert self.params.setdefault(param.key, param.value) == param.value

    def set_terminated(self, run_id: str, status: str) -> None:
        self.runs[run_id] = status


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> type[Client]:
    """A module in place of MLflow."""
    Client.runs, Client.metrics, Client.params = {}, [], {}
    fake = ModuleType("mlflow")
    entities = SimpleNamespace(
        Metric=lambda key, value, timestamp, step: SimpleNamespace(key=key, value=value, step=step),
        Param=lambda key, value: SimpleNamespace(key=key, value=value),
        RunStatus=SimpleNamespace(FINISHED="FINISHED", to_string=str),
        LifecycleStage=SimpleNamespace(ACTIVE="active"),
    )
    vars(fake).update(MlflowClient=Client, entities=entities)
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.setattr(mlflow_handler, "mlflow", fake)
    monkeypatch.setattr(training, "_log_to", lambda *_: None)
    return Client


def test_losses_and_dice_of_a_fold_are_written_and_a_resumed_training_goes_on(
    tmp_path: Path, mlflow: type[Client]
) -> None:
    source = make_task(tmp_path) | {"mlflow_experiment_name": "livers"}
    algo = make_fold(tmp_path / "work", source, tracking_uri=URI)
    train_fold(algo.config_files, num_epochs=1)
    name = "work/segresnetctfm_0"
    assert mlflow.runs == {name: "FINISHED"}
    mlflow.runs[name] = "RUNNING"  # as after kill -9
    train_fold(algo.config_files, num_epochs=2)
    assert mlflow.runs == {name: "FINISHED"}
    found = {
        metric: [s for _, m, s in mlflow.metrics if m == metric] for _, metric, _ in mlflow.metrics
    }
    assert found["val_mean_dice"] == [1, 2]
    assert found["loss"] == [2, 4], "at the end of each epoch of two cases"
    assert {"lr_group_0", "lr_group_1"} <= found.keys(), "of encoder and decoder"
    assert mlflow.params["fold"] == "0"


def test_a_missing_package_or_a_folder_is_told_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow: type[Client]
) -> None:
    source = make_task(tmp_path)
    with pytest.raises(UserError, match="sqlite:////absolute/path"):
        make_fold(tmp_path / "a", source, tracking_uri="mlruns")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UserError, match=r"mlflow is needed to write .*: pip install mlflow"):
        make_fold(tmp_path / "b", source, tracking_uri=URI)

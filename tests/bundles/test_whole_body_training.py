"""The whole-body bundle trains, resumes, follows its overlays and evaluates."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import SegResNetDS
from monai.networks.nets.segresnet_ds import SegResEncoder

from support import command, run_apart, run_here
from training_support import curve, in_folder, kill_once, last, run_in_two_processes


def network(**changes: Any) -> SegResNetDS:
    torch.manual_seed(7)
    options = {"init_filters": 4, "blocks_down": (1, 1, 1, 1, 1), "dsdepth": 2, "out_channels": 4}
    return SegResNetDS(**{**options, **changes})


def test_training_keeps_best_and_last(training: dict[str, Any], tmp_path: Path) -> None:
    workflow = run_here("train", "from_scratch", **training)
    best = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    latest = last(training)
    assert set(best) == set(network().state_dict())
    assert latest["epoch"] == 2
    assert latest["best_metric"] == workflow.evaluator.state.best_metric
    assert len(curve(training)) == 6
    assert list((tmp_path / "models").glob(".*")) == []


@pytest.mark.parametrize("num_workers", [0, 1])
def test_killed_training_continues_as_if_nothing_had_happened(
    training: dict[str, Any], tmp_path: Path, num_workers: int
) -> None:
    training |= {"epochs": 4, "num_workers": num_workers}
    whole = in_folder(training, tmp_path / "whole")
    typed = command(tmp_path, "train", "from_scratch", **training)
    kill_once(typed, tmp_path, (tmp_path / "models" / "last.pt").exists)
    assert 1 <= last(training)["epoch"] < 4

    run_here("train", "from_scratch", **training)
    run_here("train", "from_scratch", **whole)
    resumed, straight = last(training), last(whole)
    assert resumed["epoch"] == straight["epoch"] == 4
    assert resumed["best_metric"] == straight["best_metric"]
    assert resumed["lr_scheduler"] == straight["lr_scheduler"]
    for name, tensor in straight["model"].items():
        assert torch.equal(resumed["model"][name], tensor), name
    assert curve(training)[-3:] == curve(whole)[-3:]


def test_starting_anew_does_not_overwrite(training: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    torch.save({}, tmp_path / "models" / "last.pt")
    done = run_apart(tmp_path, "train", "from_scratch", **training, resume=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "last.pt exists and resume is False" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_earlier_model_is_kept(training: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    torch.save(network().state_dict(), tmp_path / "models" / "model.pt")
    run_here("train", "from_scratch", **training | {"epochs": 1})
    earlier = torch.load(tmp_path / "models" / "model.previous.pt", weights_only=True)
    assert all(torch.equal(earlier[k], v) for k, v in network().state_dict().items())


def test_pretrained_encoder_is_injected_and_frozen_at_first(
    training: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = SegResEncoder(init_filters=4, in_channels=1, blocks_down=(1, 1, 1, 1, 1))
    torch.save(encoder.state_dict(), tmp_path / "encoder.pt")
    options = {"encoder": str(tmp_path / "encoder.pt"), "freeze_encoder_epochs": 2}
    with caplog.at_level(logging.INFO, logger="ctfm"):
        run_here("train", "finetune_frozen", **training, **options)
    count = len(encoder.state_dict())
    assert f"encoder: {count} of {count} tensors" in caplog.text
    trained = torch.load(tmp_path / "models" / "last.pt", weights_only=True)["model"]
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(trained[f"encoder.{name}"], tensor), name
    options["freeze_encoder_epochs"] = 1
    run_here("train", "finetune_frozen", **training | {"ckpt_dir": str(tmp_path / "b")}, **options)
    thawed = torch.load(tmp_path / "b" / "last.pt", weights_only=True)["model"]
    assert not torch.equal(thawed["encoder.conv_init.weight"], encoder.conv_init.weight)


def test_wrong_encoder_ends_in_one_line(training: dict[str, Any], tmp_path: Path) -> None:
    encoder = SegResEncoder(init_filters=8, in_channels=1, blocks_down=(1, 1, 1, 1, 1))
    torch.save(encoder.state_dict(), tmp_path / "encoder.pt")
    done = run_apart(tmp_path, "train", **training, encoder=str(tmp_path / "encoder.pt"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "init_filters" in done.stderr
    assert not (tmp_path / "models").exists()


def test_group_and_few_shot_and_low_res(training: dict[str, Any], tmp_path: Path) -> None:
    for key in ("class_ids", "network_def__out_channels"):
        training.pop(key)
    stack = ("train", "from_scratch", "group", "few_shot", "low_res")
    training |= {"group": "organs", "scans": 2, "epochs": 1, "spacing": [6.0, 6.0, 6.0]}
    workflow = run_here(*stack, **training)
    assert len(workflow.train_dataset) == 2
    assert workflow.network_def.out_channels == 18


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"datalist": "nowhere.json"}, "nowhere.json: no such datalist"),
        ({"dataset_dir": "elsewhere", "datalist": "{list}"}, "files of list 'training' are not"),
        ({"learning_rate": 1e30}, "the loss became"),
    ],
)
def test_user_mistakes_end_in_one_line(
    change: dict[str, Any], message: str, training: dict[str, Any], data_set: Path, tmp_path: Path
) -> None:
    listed = str(data_set / "datalist.json")
    change = {k: listed if v == "{list}" else v for k, v in change.items()}
    done = run_apart(tmp_path, "train", "from_scratch", **training | change)
    assert done.returncode == 1
    assert message in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_two_processes_train_one_network(training: dict[str, Any], tmp_path: Path) -> None:
    training |= {"epochs": 1, "precise_statistics_batches": 1}
    arguments = command(tmp_path, "train", "from_scratch", "multi_gpu", **training)
    run_in_two_processes(arguments, tmp_path)
    trained = last(training)
    assert trained["epoch"] == 1
    assert set(trained["model"]) == set(network().state_dict()), "names without DDP's prefix"


def test_evaluation_scores_each_case_on_its_own_grid(
    training: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training |= {"spacing": [4.0, 4.0, 4.0]}  # not the cases' own 3 mm
    run_here("train", "from_scratch", **training | {"epochs": 1})
    run_here("train", "evaluate", **training)
    document = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert document["cases"] == 2
    with (tmp_path / "out" / "metrics_cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["spleen", "kidney_left", "liver"] * 2
    assert all(float(row["reference_ml"]) > 0 for row in rows)
    assert "liver" in capsys.readouterr().out


def test_training_learns_and_evaluation_follows(training: dict[str, Any], tmp_path: Path) -> None:
    """Batch size 1, BatchNorm: without care evaluation lags far behind training."""
    training |= {"epochs": 30, "val_interval": 10, "val_overlap": 0}
    workflow = run_here("train", "from_scratch", **training)
    assert workflow.evaluator.state.metrics["val_mean_dice"] > 0.6

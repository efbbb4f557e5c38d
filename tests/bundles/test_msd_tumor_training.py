"""The tumour bundle trains, evaluates by fold and by tumour, and follows its overlays."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import SegResNetDS, resnet10
from monai.networks.nets.segresnet_ds import SegResEncoder

from ctfm.contract.tumors import TUMORS as TASKS
from ctfm.evaluation.comparison.folders import compare_folders
from ctfm.loading.store.building import build_store
from training_support import last, run_in_two_processes
from tumor_support import (
    TASK_NAMES,
    folds_of,
    make_task,
    overrides,
    refusal,
    relabel,
    run_tumor,
    run_tumor_apart,
    tumor_command,
)

NARROW = {"init_filters": 4, "in_channels": 1, "blocks_down": (1, 1, 1, 1, 1)}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def lung(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_task(tmp_path_factory.mktemp("lung"), subjects=6)


@pytest.fixture
def own_lung(lung: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(lung, tmp_path / "data" / lung.name))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_two_runs_are_trained_evaluated_and_compared(
    lung: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pretrained and from scratch, on the same fold; the question that every user has."""
    encoder = SegResEncoder(**NARROW)
    torch.save(encoder.state_dict(), tmp_path / "encoder.pt")
    runs = {"pretrained": (), "scratch": ("from_scratch",)}
    for name, stack in runs.items():
        options = overrides(lung, tmp_path / name, encoder=str(tmp_path / "encoder.pt"), fold=1)
        with caplog.at_level(logging.INFO, logger="ctfm"):
            workflow = run_tumor("train", *stack, **options)
        assert "val_mean_dice" in workflow.evaluator.state.metrics
        run_tumor("train", "evaluate", **options)
    count = len(encoder.state_dict())
    assert caplog.text.count(f"encoder: {count} of {count} tensors") == 1

    outputs = [tmp_path / name / "out" for name in runs]
    held_out = {name for name, fold in folds_of(lung).items() if fold == 1}
    assert len(held_out) == 3
    for output in outputs:
        assert {row["case"] for row in rows(output / "metrics_cases.csv")} == held_out
        assert {row["class"] for row in rows(output / "metrics_cases.csv")} == {"cancer"}
        assert {row["case"] for row in rows(output / "lesions_cases.csv")} == held_out
        document = json.loads((output / "lesions.json").read_text())
        assert document["cases"] == document["cases_with_lesions"] == 3
        assert document["overall"]["lesions"] >= 3
    text = capsys.readouterr().out
    assert "sensitivity" in text
    assert "false/scan" in text
    for metric in ("dice", "nsd", "sensitivity", "false_positives"):
        assert "A - B" in compare_folders(*outputs, metric=metric)


@pytest.mark.parametrize("name", [name for name in TASK_NAMES if name != "lung"])
def test_each_task_trains_and_evaluates(name: str, tmp_path: Path) -> None:
    data = make_task(tmp_path, name)
    options = overrides(data, tmp_path)
    workflow = run_tumor("train", name, "from_scratch", **options)
    classes = TASKS[name].classes
    assert workflow.network_def.out_channels == 1 + len(classes)
    run_tumor("train", name, "evaluate", **options)
    found = rows(tmp_path / "out" / "metrics_cases.csv")
    assert [row["class"] for row in found] == list(classes.values()) * 2
    tumors = [row for row in found if int(row["class_id"]) == len(classes)]
    lesions = rows(tmp_path / "out" / "lesions.csv")
    for row in tumors:
        mine = [one for one in lesions if (one["case"], one["mask"]) == (row["case"], "reference")]
        volume = sum(float(one["volume_ml"]) for one in mine)
        assert volume == pytest.approx(float(row["reference_ml"]), rel=1e-4), "tumour alone"


@pytest.mark.parametrize("loader", ["torch", "dali"])
def test_trains_from_a_store_by_folds(loader: str, lung: Path, tmp_path: Path) -> None:
    """With flips of image and label by each loader."""
    if loader == "dali":
        pytest.importorskip("nvidia.dali", reason="needs DALI: pip install 'ct-fm-bundles[dali]'")
    store = str(tmp_path / "store")
    build_store(
        str(lung / "datalist.json"), store, "lung_tumor", spacing=(6.0, 6.0, 6.0), workers=1
    )
    options = overrides("nowhere", tmp_path, store=store, fold=1)
    stack = ("store",) if loader == "torch" else ("store", "dali")
    data = run_tumor("train", "from_scratch", *stack, **options).evaluator.data_loader
    samples = data.dataset.samples if loader == "torch" else data.samples
    validated = {scan.entry.name for scan in samples.scans}
    assert {Path(name).name.removesuffix(".nii.gz") for name in validated} == {
        name for name, fold in folds_of(lung).items() if fold == 1
    }
    assert last(options)["epoch"] == 1


def test_two_processes_train_one_network(lung: Path, tmp_path: Path) -> None:
    options = overrides(lung, tmp_path)
    run_in_two_processes(
        tumor_command(tmp_path, "train", "from_scratch", "multi_gpu", **options), tmp_path
    )
    assert last(options)["epoch"] == 1


def test_low_res_and_frozen_encoder_stack_on_a_task(tmp_path: Path) -> None:
    data = make_task(tmp_path, "pancreas")
    encoder = SegResEncoder(**NARROW)
    torch.save(encoder.state_dict(), tmp_path / "encoder.pt")
    options = overrides(data, tmp_path, encoder=str(tmp_path / "encoder.pt"))
    run_tumor("train", "pancreas", "low_res", "finetune_frozen", **options)
    trained = last(options)["model"]
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(trained[f"encoder.{name}"], tensor), name


def wrong_encoder(kind: str, path: Path) -> Path:
    torch.manual_seed(0)
    made: dict[str, Any] = {
        "wide": lambda: SegResEncoder(**{**NARROW, "init_filters": 8}),
        "resnet": lambda: resnet10(spatial_dims=3, n_input_channels=1),
        "other depth": lambda: SegResNetDS(**{**NARROW, "blocks_down": (1, 2, 2, 4, 4)}),
    }
    torch.save(made[kind]().state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [("wide", "init_filters"), ("resnet", "ResNet"), ("other depth", "blocks_down")],
)
def test_wrong_encoder_ends_in_one_line(
    kind: str, message: str, lung: Path, tmp_path: Path
) -> None:
    encoder = wrong_encoder(kind, tmp_path / "encoder.pt")
    assert message in refusal("train", **overrides(lung, tmp_path, encoder=str(encoder)))
    assert not (tmp_path / "models").exists()


def test_a_network_trained_here_is_not_taken_for_the_encoder(lung: Path, tmp_path: Path) -> None:
    """A training leaves model.pt where weights are looked for; one that was put there is taken."""
    (tmp_path / "weights").mkdir()
    network = SegResNetDS(**NARROW, dsdepth=2, out_channels=9)
    torch.save(network.state_dict(), tmp_path / "weights" / "model.pt")
    options = overrides(lung, tmp_path, encoder__folder=str(tmp_path / "weights"))
    run_tumor("train", "finetune_frozen", **options)
    trained = last(options)["model"]
    for name, tensor in network.encoder.named_parameters():
        assert torch.equal(trained[f"encoder.{name}"], tensor), name
    (tmp_path / "weights" / "last.pt").touch()
    message = "(looked for ct_fm_encoder.safetensors): `ctfm weights fetch"
    assert message in refusal("train", **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fold": 7}, "no scan is in fold 7 (there are 0, 1)"),
        ({"dataset_dir": "elsewhere", "datalist": "{data}/datalist.json"}, "pass --dataset_dir"),
        ({"dataset_dir": "elsewhere"}, "no such datalist"),
        ({"class_names": ["pancreas", "cancer"]}, "is of another task"),
    ],
)
def test_user_mistakes_end_in_one_line(
    change: dict[str, Any], message: str, lung: Path, tmp_path: Path
) -> None:
    options = overrides(lung, tmp_path) | change
    options = {k: v.format(data=lung) if isinstance(v, str) else v for k, v in options.items()}
    assert message in refusal("train", "from_scratch", **options)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("count", "change", "message"),
    [
        (1, {1: 3}, "lung_001.nii.gz: holds 3; class_names names 0, 1"),
        (6, {1: 0}, "none of the 3 scans of list 'training' has class 1 (cancer)"),
    ],
)
def test_wrong_labels_are_found_before_training(
    count: int, change: dict[int, int], message: str, own_lung: Path, tmp_path: Path
) -> None:
    relabel(own_lung, count, change)
    assert message in refusal("train", "from_scratch", **overrides(own_lung, tmp_path))
    assert not (tmp_path / "models").exists()


def test_wrong_labels_are_refused_while_training_too(own_lung: Path, tmp_path: Path) -> None:
    """Where nobody looked before, and by worker processes as well."""
    relabel(own_lung, 6, {1: 3})
    options = overrides(own_lung, tmp_path, check_labels=False, num_workers=1)
    done = run_tumor_apart(tmp_path, "train", "from_scratch", **options)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert "holds 3; the classes are 0, 1" in line

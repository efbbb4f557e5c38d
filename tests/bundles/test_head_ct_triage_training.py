"""The triage bundle trains, calibrates itself, evaluates, and follows its overlays."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets.segresnet_ds import SegResEncoder

from ctfm.evaluation.classification.calibration import read_calibration
from training_support import last, run_in_two_processes
from triage_support import make_heads, overrides, refusal, run_triage, triage_command

NARROW = {"init_filters": 4, "in_channels": 1, "blocks_down": (1, 1, 1, 1, 1)}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_heads(tmp_path_factory.mktemp("heads"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("encoder") / "ct_fm_encoder.pt"
    torch.save(SegResEncoder(**NARROW).state_dict(), path)
    return path


def weights(workflow: Any) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in workflow.trainer.network.encoder.state_dict().items()}


def test_scans_from_the_cache_and_from_files_go_into_one_batch(
    heads: Path, encoder: Path, tmp_path: Path
) -> None:
    options = overrides(heads, tmp_path, encoder=str(encoder), epochs=3)
    options |= {"cache_dir": str(tmp_path / "cache"), "precise_statistics_batches": 1}
    run_triage("train", **options)
    assert last(options)["epoch"] == 3


def test_trains_calibrates_and_evaluates(
    heads: Path,
    encoder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = overrides(heads, tmp_path, encoder=str(encoder), epochs=2)
    with caplog.at_level(logging.INFO, logger="ctfm"):
        workflow = run_triage("train", **options)
    count = len(SegResEncoder(**NARROW).state_dict())
    assert caplog.text.count(f"encoder: {count} of {count} tensors") == 1
    assert "val_auroc" in workflow.evaluator.state.metrics
    assert last(options)["epoch"] == 2

    found = read_calibration(tmp_path / "models" / "calibration.json")
    assert (found.cases, found.positives) == (6, 3)
    assert found.data == "validation list of datalist.json"
    assert [point.name for point in found.points] == ["fixed", "youden", "sensitive"]
    (tmp_path / "models" / "calibration.json").unlink()
    run_triage("train", "calibrate", **options)
    again = read_calibration(tmp_path / "models" / "calibration.json")
    assert again.temperature == pytest.approx(found.temperature, rel=1e-3)

    run_triage("train", "evaluate", **options)
    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["0", "1"] * 6
    assert len({row["subject"] for row in rows}) == 6
    scaled = torch.tensor([float(row["logit"]) for row in rows]) / again.temperature
    shown = torch.tensor([float(row["probability"]) for row in rows])
    torch.testing.assert_close(torch.sigmoid(scaled), shown)
    for point in again.points:
        assert [row[point.name] for row in rows] == [
            str(int(float(row["probability"]) >= point.threshold)) for row in rows
        ]
    report = json.loads((tmp_path / "out" / "classification.json").read_text())
    assert (report["cases"], report["subjects"]) == (12, 6)
    assert "AUROC" in capsys.readouterr().out


def test_frozen_encoder_stays_as_it_was(heads: Path, encoder: Path, tmp_path: Path) -> None:
    options = overrides(heads, tmp_path, encoder=str(encoder))
    trained = run_triage("train", "frozen", **options)
    before = torch.load(encoder, weights_only=True)
    assert all(torch.equal(value, before[name]) for name, value in weights(trained).items())
    learned = last(options)["optimizer"]["state"]
    assert len(learned) == len(list(trained.trainer.network.head.parameters()))


def test_windows_as_channels(heads: Path, encoder: Path, tmp_path: Path) -> None:
    options = overrides(heads, tmp_path, encoder=str(encoder))
    trained = run_triage("train", "channels", **options)
    assert trained.trainer.network.encoder.state_dict()["conv_init.weight"].shape[1] == 4
    run_triage("train", "channels", "evaluate", **options)
    run_triage(
        "inference",
        "channels",
        input=str(heads / "h000.nii.gz"),
        output_dir=str(tmp_path / "results"),
        ckpt_dir=str(tmp_path / "models"),
        progress=False,
        saliency=True,
    )
    assert (tmp_path / "results" / "h000_saliency.png").is_file()


def test_few_subjects_from_scratch(heads: Path, tmp_path: Path) -> None:
    options = overrides(heads, tmp_path, share=0.5, cache_dir=str(tmp_path / "cache"))
    trained = run_triage("train", "from_scratch", "few_shot", **options)
    assert len(trained.trainer.data_loader.dataset) == 4, "two of the four subjects"


def test_two_processes(heads: Path, tmp_path: Path) -> None:
    options = overrides(heads, tmp_path)
    stack = ("train", "from_scratch", "multi_gpu")
    run_in_two_processes(triage_command(tmp_path, *stack, **options), tmp_path)
    assert read_calibration(tmp_path / "models" / "calibration.json").cases == 6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"window_layout": "rows"}, "choose depth or channels"),
        ({"windows": [[80, 0]]}, "the lower one first"),
        ({"label": 2}, "give 0 (normal) or 1 (abnormal)"),
        ({"label": 0}, "give scans of both classes"),
    ],
)
def test_refusals(change: dict[str, Any], said: str, heads: Path, tmp_path: Path) -> None:
    lists = json.loads((heads / "datalist.json").read_text())
    if "label" in change:
        rows = [{**row, "label": change["label"]} for row in lists["training"]]
        lists["training"] = rows
    (tmp_path / "datalist.json").write_text(json.dumps(lists))
    others = {key: value for key, value in change.items() if key != "label"}
    options = overrides(heads, tmp_path, datalist=str(tmp_path / "datalist.json"), **others)
    assert said in refusal("train", "from_scratch", **options)

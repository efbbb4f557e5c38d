"""One fold's training: options, overlapping classes, stopping and going on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import pytest
import torch

from auto3dseg_support import NARROW, make_fold, make_task, narrow_encoder
from ctfm.auto3dseg import training
from ctfm.auto3dseg.algo import CTFMAlgo
from ctfm.auto3dseg.evaluation import validate_fold as validate
from ctfm.auto3dseg.inference import InferClass
from ctfm.auto3dseg.predicting import infer
from ctfm.auto3dseg.training import PlateauStop, train_fold
from ctfm.base.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep pytest's handlers of the log."""
    monkeypatch.setattr(training, "_log_to", lambda *_: None)


@pytest.fixture
def source(tmp_path: Path) -> dict[str, Any]:
    return make_task(tmp_path)


def test_frozen_encoder_stays_as_it_was_and_scores_are_found_again(
    source: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = [1, 2, 2, 4, 4]  # as published
    encoder = narrow_encoder(tmp_path / "encoder.pt", blocks)
    source |= {"pretrained": str(tmp_path / "encoder.pt"), "freeze_epochs": 2}
    source["network"] = {**NARROW, "blocks_down": blocks}
    algo = make_fold(tmp_path / "work", source)
    train_fold(algo.config_files, learning_rate={"decoder": 0.01})
    model = torch.load(algo.folder / "model" / "last.pt", weights_only=True)["model"]
    assert all(torch.equal(model[f"encoder.{k}"], v) for k, v in encoder.state_dict().items())
    report = json.loads((algo.folder / "model" / "encoder.json").read_text())
    assert report["tensors"] == "161 of 161"
    validate(algo.config_files)
    assert f"mean Dice of 2 cases: {algo.get_score():.4f}" in capsys.readouterr().out


def test_overlapping_classes(source: dict[str, Any], tmp_path: Path) -> None:
    names = [{"name": "all organs", "index": [1, 3, 5]}, {"name": "liver", "index": 5}]
    source |= {"sigmoid": True, "class_names": names}
    algo = make_fold(tmp_path / "work", source)
    train_fold(algo.config_files)
    found = InferClass(algo.config_files).infer(str(tmp_path / "data" / "t.nii.gz"))
    image = nib.load(tmp_path / "data" / "t.nii.gz")
    assert tuple(found.shape) == (2, *image.shape)
    assert float(found.max()) <= 1
    infer(str(algo.folder), [str(tmp_path / "data" / "t.nii.gz")], str(tmp_path / "out"))
    written = {path.name for path in (tmp_path / "out").glob("*_seg.nii.gz")}
    assert written == {"t_all_organs_seg.nii.gz", "t_liver_seg.nii.gz"}


def test_mri_from_scratch(source: dict[str, Any], tmp_path: Path) -> None:
    algo = make_fold(tmp_path / "work", {**source, "modality": "mri"})
    train_fold(algo.config_files, num_epochs=1)
    found = InferClass(algo.config_files).infer(str(tmp_path / "data" / "t.nii.gz"))
    assert bool(torch.isfinite(found).all())


def test_killed_training_is_not_taken_for_trained_and_goes_on(
    source: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    algo = make_fold(tmp_path / "work", source)
    command = algo.command({"num_epochs": 40})
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    last = algo.folder / "model" / "last.pt"
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    with pytest.raises(UserError, match=f"process {process.pid} trains there already"):
        train_fold(algo.config_files)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with pytest.raises(UserError, match="has not ended yet"):
        algo.get_score()
    done = torch.load(last, weights_only=True)["epoch"]
    with caplog.at_level("INFO", logger="ctfm"):
        train_fold(algo.config_files, num_epochs=done + 1)
    assert f"resuming after epoch {done}" in caplog.text
    assert algo.get_score() >= 0
    with pytest.raises(UserError, match="began with pretrained None, not x"):
        train_fold(algo.config_files, pretrained="x", hu_window=[-1024, 2048])


def test_values_survive_the_command_line(source: dict[str, Any], tmp_path: Path) -> None:
    params = {
        "roi_size": [48, 48, 48],
        "class_names": [{"name": "it's", "index": [1, 2]}],
        "pretrained": None,
        "learning_rate::encoder": 1e-4,
        "network#init_filters": 8,
        "flag": True,
        "path": "a b/c,d",
    }
    code = "import fire\nfire.Fire({'run': lambda **options: print(repr(options))})"
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "train.py").write_text(code)
    algo = CTFMAlgo()
    algo.output_path = str(tmp_path)
    command = algo.command(params)
    assert command[0] == sys.executable
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert eval(done.stdout) == {"config_file": [], **params}


def test_failed_training_ends_in_one_line(
    source: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    algo = make_fold(tmp_path / "work", source)
    monkeypatch.setattr(
        CTFMAlgo, "command", lambda *_: [sys.executable, "-c", "raise SystemExit(3)"]
    )
    with pytest.raises(UserError, match="segresnetctfm_0: its training ended with code 3"):
        algo.train({})


def test_two_processes_train_one_fold(
    source: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on two GPUs; without any, the processes compute on the CPU."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PATH", "/nowhere")
    algo = make_fold(tmp_path / "work", source)
    algo.train({"num_epochs": 1}, {"CUDA_VISIBLE_DEVICES": "0,1"})
    last = torch.load(algo.folder / "model" / "last.pt", weights_only=True)
    assert last["epoch_length"] == 1, "two cases, one in each process"
    assert shutil.which("torchrun"), "by which Auto3DSeg starts its ensemble"
    assert algo.get_score() >= 0


@pytest.mark.parametrize(("epoch", "stops"), [(4, False), (5, True), (9, True)])
def test_early_stopping_counts_from_the_best_epoch(epoch: int, stops: bool) -> None:
    stopped = []
    evaluator = SimpleNamespace(state=SimpleNamespace(best_metric_epoch=2))
    engine = SimpleNamespace(
        state=SimpleNamespace(epoch=epoch), terminate=lambda: stopped.append(True)
    )
    PlateauStop(evaluator, 3)(engine)
    assert bool(stopped) is stops

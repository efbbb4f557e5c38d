"""The pretraining bundle trains, resumes, spans processes, and its ablations run."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ctfm.loading.store.building import build_store
from ctfm.weights.loading import read_encoder
from support import PRETRAIN, command, run_apart, run_here
from training_support import curve, in_folder, kill_once, last, run_in_two_processes


@pytest.fixture(scope="module")
def store(data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("pretraining") / "store"
    listed = str(data_set / "datalist.json")
    build_store(listed, str(folder), "pretraining", spacing=(3.0, 3.0, 3.0), workers=1)
    return str(folder)


@pytest.fixture
def pretraining(data_set: Path, tmp_path: Path, store: str) -> dict[str, Any]:
    """Overrides with which a tiny pretraining runs."""
    return {
        "dataset_dir": str(data_set),
        "store": store,
        "output_dir": str(tmp_path / "out"),
        "ckpt_dir": str(tmp_path / "models"),
        "epochs": 2,
        "iterations": 3,
        "batch_size": 2,
        "crops": 3,
        "warmup_epochs": 1,
        "learning_rate": 0.001,
        "monitor_iterations": 1,
        "keep_interval": 1,
        "save_iterations": 1,
    }


class TestTraining:
    @pytest.mark.parametrize("stack", [("train",), ("train", "store")], ids=["files", "store"])
    def test_runs_and_is_watched(self, stack: tuple[str, ...], pretraining: dict[str, Any]) -> None:
        run_here(*stack, bundle=PRETRAIN, **pretraining)
        assert len(curve(pretraining)) == 6
        assert all(math.isfinite(loss) for loss in curve(pretraining))
        for tag in (
            "top1",
            "alignment",
            "uniformity",
            "std",
            "views_per_second",
            "share_of_time_waiting_for_data",
        ):
            assert len(curve(pretraining, tag)) == 6, tag
        assert all(0 <= share <= 1 for share in curve(pretraining, "top1"))
        names = {path.name for path in Path(pretraining["ckpt_dir"]).iterdir()}
        assert names == {"epoch_0001.pt", "epoch_0002.pt", "last.pt"}

    def test_says_in_one_line_how_it_goes(
        self, pretraining: dict[str, Any], tmp_path: Path
    ) -> None:
        done = run_apart(tmp_path, "train", "store", bundle=PRETRAIN, **pretraining)
        assert done.returncode == 0, done.stderr
        lines = [line for line in (done.stdout + done.stderr).splitlines() if "epoch 2/2" in line]
        assert len(lines) == 1
        for word in ("loss", "top1", "alignment", "uniformity", "std", "views/s", "waiting"):
            assert word in lines[0]

    def test_wrong_width_of_the_projection_ends_in_one_line(
        self, pretraining: dict[str, Any], tmp_path: Path
    ) -> None:
        overrides = pretraining | {"embedding_dim": 512}
        done = run_apart(tmp_path, "train", "store", bundle=PRETRAIN, **overrides)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "takes 512 features, the encoder gives 64" in done.stderr.splitlines()[-1]

    def test_checkpointed_activations_train_the_same_network(
        self, pretraining: dict[str, Any], tmp_path: Path
    ) -> None:
        frugal, plain = (in_folder(pretraining, tmp_path / name) for name in ("one", "two"))
        run_here("train", "store", bundle=PRETRAIN, **frugal, checkpoint_activations=True)
        run_here("train", "store", bundle=PRETRAIN, **plain)
        for name, tensor in last(plain)["model"].items():
            assert torch.equal(last(frugal)["model"][name], tensor), name


def test_killed_in_an_epoch_it_goes_on_where_it_was(
    pretraining: dict[str, Any], tmp_path: Path
) -> None:
    pretraining["iterations"] = 8
    killed, whole = (in_folder(pretraining, tmp_path / name) for name in ("killed", "whole"))
    typed = command(tmp_path, "train", "store", bundle=PRETRAIN, **killed)
    saved = Path(killed["ckpt_dir"], "last.pt")
    kill_once(typed, tmp_path, lambda: saved.exists() and last(killed)["iteration"] >= 2)
    assert 2 <= last(killed)["iteration"] < 16
    run_here("train", "store", bundle=PRETRAIN, **killed)
    run_here("train", "store", bundle=PRETRAIN, **whole)
    assert last(killed)["iteration"] == last(whole)["iteration"] == 16
    for name, tensor in last(whole)["model"].items():
        assert torch.equal(last(killed)["model"][name], tensor), name
    assert len(curve(whole)) == 16
    assert curve(killed)[-8:] == curve(whole)[-8:]


def test_two_processes_train_what_one_with_both_batches_trains(
    pretraining: dict[str, Any], tmp_path: Path
) -> None:
    """BatchNorm sees one patch at a time, as CPUs cannot share its statistics."""
    pretraining |= {"epochs": 1, "patches_at_once": 1, "amp": False}
    two, one = (in_folder(pretraining, tmp_path / name) for name in ("two", "one"))
    typed = command(
        tmp_path, "train", "store", "multi_gpu", bundle=PRETRAIN, **two | {"batch_size": 1}
    )
    run_in_two_processes(typed, tmp_path)
    run_here("train", "store", bundle=PRETRAIN, **one)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    for name in last(one)["model"]:
        if name.endswith(statistics):
            continue
        found, expected = last(two)["model"][name], last(one)["model"][name]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4, msg=name)


@pytest.mark.parametrize(
    "stack",
    [
        ("train", "simclr", "store"),
        ("train", "simsiam"),
        ("train", "simsiam", "intrasample", "store"),
        ("train", "vicreg"),
        ("train", "vicreg", "intrasample", "store"),
        ("train", "reconstruction"),
        ("train", "store", "dali"),
    ],
    ids=" ".join,
)
def test_overlays(stack: tuple[str, ...], pretraining: dict[str, Any]) -> None:
    if "dali" in stack:
        pytest.importorskip("nvidia.dali", reason="needs DALI: pip install 'ct-fm-bundles[dali]'")
    if "intrasample" not in stack and "dali" not in stack:
        del pretraining["crops"]
    if "vicreg" in stack:  # heads of 8192 features take a second each
        pretraining["initial_network__projection__widths"] = [64, 32, 32, 32]
    if "reconstruction" in stack:
        pretraining |= {"patch": [32, 32, 32], "network_def__dsdepth": 2}
    run_here(*stack, bundle=PRETRAIN, **pretraining | {"epochs": 1})
    assert len(curve(pretraining)) == 3
    assert all(math.isfinite(loss) for loss in curve(pretraining))
    assert read_encoder(Path(pretraining["ckpt_dir"]) / "last.pt").kind == "encoder"


class TestDamage:
    @pytest.fixture
    def listed(self, data_set: Path, tmp_path: Path) -> str:
        """The data set, and a file that is no scan."""
        content = json.loads((data_set / "datalist.json").read_text())
        (data_set / "broken.nii.gz").write_bytes(b"none")
        content["training"].append({"image": "broken.nii.gz"})
        (tmp_path / "list.json").write_text(json.dumps(content))
        return str(tmp_path / "list.json")

    def test_is_skipped(self, listed: str, pretraining: dict[str, Any], tmp_path: Path) -> None:
        overrides = pretraining | {"datalist": listed, "max_damaged": 0.3, "epochs": 1}
        done = run_apart(tmp_path, "train", bundle=PRETRAIN, **overrides)
        assert done.returncode == 0, done.stderr
        said = done.stdout + done.stderr
        assert "skipped scan 1 of 4: " in said
        assert "1 scans skipped" in said
        assert len(curve(overrides)) == 3

    def test_stops_when_there_is_too_much(
        self, listed: str, pretraining: dict[str, Any], tmp_path: Path
    ) -> None:
        done = run_apart(tmp_path, "train", bundle=PRETRAIN, **pretraining | {"datalist": listed})
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        final = done.stderr.strip().splitlines()[-1]
        assert final.startswith("error: 1 of 4 scans cannot be read, more than max_damaged=0.01")
        assert "broken.nii.gz" in final


def test_from_pretraining_to_segmentation(
    pretraining: dict[str, Any], training: dict[str, Any], tmp_path: Path
) -> None:
    """Pretrain, extract, inject, fine-tune: each by the command that the documents name."""
    pretraining["network_def__blocks_down"] = [1, 1, 1, 1, 1]
    run_here("train", "store", bundle=PRETRAIN, **pretraining)
    encoder = tmp_path / "encoder.safetensors"
    extract = ["weights", "extract", f"{pretraining['ckpt_dir']}/last.pt", "--out", str(encoder)]
    subprocess.run([sys.executable, "-m", "ctfm", *extract], check=True, timeout=120)
    tuned = in_folder(training, tmp_path / "tuned")
    tuned |= {"encoder": str(encoder), "epochs": 1, "freeze_encoder_epochs": 1}
    run_here("train", "finetune_frozen", **tuned)
    pretrained = last(pretraining)["model"]
    finetuned = torch.load(Path(tuned["ckpt_dir"]) / "last.pt", weights_only=True)["model"]
    shared = [name for name in pretrained if name.startswith("encoder.")]
    assert len(shared) > 50
    for name in shared:
        assert torch.equal(pretrained[name], finetuned[name]), name

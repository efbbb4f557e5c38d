"""The whole-body bundle trains from a store, by torch's loader and by DALI's."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ctfm.loading.store.building import build_store
from support import command, config_files, run_here
from training_support import curve, in_folder, kill_once, last, run_in_two_processes

STORE = ("train", "from_scratch", "store")
DALI = (*STORE, "dali")
#: With DALI the noise is made by another generator: it is left out where losses are compared.
#: So is bfloat16, whose rounding a training multiplies.
NO_NOISE: dict[str, Any] = {"train__random_transforms__4__prob": 0.0, "amp": False}
#: DALI's loader takes samples, which are shuffled, in their own order.
IN_ORDER = {"train__dataloader__shuffle": False}


@pytest.fixture(scope="module")
def store(data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("whole_body") / "store"
    listed = str(data_set / "datalist.json")
    build_store(listed, str(folder), "whole_body", spacing=(3.0, 3.0, 3.0), workers=1)
    return str(folder)


@pytest.fixture
def stored_training(training: dict[str, Any], store: str) -> dict[str, Any]:
    """Overrides with which a tiny training from the store runs; the data set itself is gone."""
    return training | {"store": store, "dataset_dir": "nowhere"}


@pytest.fixture
def dali() -> None:
    pytest.importorskip("nvidia.dali", reason="needs DALI: pip install 'ct-fm-bundles[dali]'")


def test_trains_from_a_store(stored_training: dict[str, Any]) -> None:
    workflow = run_here(*STORE, **stored_training)
    found = curve(stored_training)
    assert len(found) == 6
    assert all(math.isfinite(loss) for loss in found)
    assert last(stored_training)["epoch"] == 2
    assert (Path(stored_training["ckpt_dir"]) / "model.pt").is_file()
    assert 0 < workflow.evaluator.state.metrics["val_mean_dice"] < 1


@pytest.mark.usefixtures("dali")
def test_dali_trains_the_same_network(stored_training: dict[str, Any], tmp_path: Path) -> None:
    """The same crops, augmented alike to float32's rounding, which training carries on."""
    with_dali, without = (in_folder(stored_training, tmp_path / name) for name in ("one", "two"))
    evaluators = [
        run_here(*stack, **overrides, **NO_NOISE).evaluator
        for stack, overrides in ((DALI, with_dali), (STORE, without | IN_ORDER))
    ]
    assert last(with_dali)["epoch"] == 2
    found, expected = curve(with_dali), curve(without)
    assert len(found) == 6
    assert len(set(found)) == 6
    # 2e-7 apart at first, which grows to 1e-4 in six steps; losses differ by tenths
    assert found[0] == pytest.approx(expected[0], abs=1e-5)
    assert found == pytest.approx(expected, abs=2e-3)
    dices = [evaluator.state.metrics["val_mean_dice"] for evaluator in evaluators]
    assert dices[0] == pytest.approx(dices[1], rel=0.1)


@pytest.mark.usefixtures("dali")
def test_killed_training_continues_with_the_same_curve(
    stored_training: dict[str, Any], tmp_path: Path
) -> None:
    killed, whole = (in_folder(stored_training, tmp_path / name) for name in ("killed", "whole"))
    killed["epochs"] = whole["epochs"] = 4
    typed = command(tmp_path, *DALI, **killed)
    kill_once(typed, tmp_path, Path(killed["ckpt_dir"], "last.pt").exists)
    assert 1 <= last(killed)["epoch"] < 4
    run_here(*DALI, **killed)
    run_here(*DALI, **whole)
    assert last(killed)["epoch"] == last(whole)["epoch"] == 4
    assert last(killed)["best_metric"] == last(whole)["best_metric"]
    for name, tensor in last(whole)["model"].items():
        assert torch.equal(last(killed)["model"][name], tensor), name
    assert len(curve(whole)) == 12
    assert curve(killed)[-3:] == curve(whole)[-3:]


@pytest.mark.usefixtures("dali")
def test_two_processes_train_one_network(stored_training: dict[str, Any], tmp_path: Path) -> None:
    """Three crops an epoch for two processes: each gets two."""
    stored_training |= {"epochs": 1, "precise_statistics_batches": 1}
    stack = ("train", "from_scratch", "multi_gpu", "store", "dali")
    run_in_two_processes(command(tmp_path, *stack, **stored_training), tmp_path)
    assert last(stored_training)["epoch"] == 1
    assert len(curve(stored_training)) == 2


@pytest.mark.parametrize("stem", ["train", "store", "dali"])
def test_no_transform_exchanges_left_and_right(stem: str) -> None:
    """A mirrored left kidney would be labelled as the left one still."""
    (path,) = config_files(stem)
    text = Path(path).read_text()
    content = json.loads(text) if path.endswith(".json") else yaml.safe_load(text)

    def targets(node: Any) -> list[str]:
        children = node.values() if isinstance(node, dict) else node
        found = [node["_target_"]] if isinstance(node, dict) and "_target_" in node else []
        nested = (c for c in children if isinstance(c, dict | list))
        return found + [name for child in nested for name in targets(child)]

    names = targets(content)
    assert names
    mirrors = ("Flip", "Rotate90", "Axis", "Mirror", "Transpose")
    assert [name for name in names if any(word in name for word in mirrors)] == []

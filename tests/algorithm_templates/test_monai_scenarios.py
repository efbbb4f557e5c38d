"""What MONAI's own tests ask of a template: BundleGen, ensembles, HPO, names of stock templates.

Its tests run on a GPU and on MRI-like images without a word on weights; here the same calls run on
tiny scans on the CPU.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from monai.apps.auto3dseg import (
    AlgoEnsembleBestByFold,
    AlgoEnsembleBestN,
    AlgoEnsembleBuilder,
    BundleGen,
    NNIGen,
    OptunaGen,
    hpo_gen,
    import_bundle_algo_history,
)
from monai.auto3dseg import algo_from_json
from monai.utils.enums import AlgoKeys

from auto3dseg_support import NARROW, TEMPLATES, make_fold, make_task, runner
from ctfm.auto3dseg import training
from ctfm.auto3dseg.algo import CTFMAlgo
from ctfm.auto3dseg.options import Options
from ctfm.auto3dseg.predicting import trained_folds
from ctfm.base.errors import UserError

#: Training parameters as MONAI's tests pass them to every template.
STOCK = {
    "num_images_per_batch": 2,
    "num_epochs": 1,
    "num_epochs_per_validation": 1,
    "num_warmup_epochs": 1,
    "use_pretrain": False,
    "pretrained_path": "",
    "pretrained_ckpt_name": "",
    "auto_scale_allowed": False,
    "num_steps_per_image": 1,
    "determ": True,
    "network#init_filters": 4,
}


@pytest.fixture(autouse=True)
def one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def train_here(patch: pytest.MonkeyPatch) -> None:
    """Train without a process of its own, which takes seconds to start."""

    def train(algo: CTFMAlgo, params: dict[str, Any]) -> None:
        algo._check(params)
        training.train_fold(algo.config_files, **params)

    patch.setattr(CTFMAlgo, "train", train)
    patch.setattr(training, "_log_to", lambda *_: None)  # it takes pytest's handlers away


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Two folds by BundleGen, of an MRI task that says nothing about weights; both trained."""
    root = tmp_path_factory.mktemp("generated")
    source = make_task(root)
    del source["pretrained"]
    work = root / "work"
    make_fold(work, {**source, "pretrained": None})  # for the analysis
    (work / "input.yaml").write_text(
        yaml.safe_dump({**source, "modality": "MRI", "multigpu": False, "task": "segmentation"})
    )
    generator = BundleGen(
        algo_path=str(work),
        data_stats_filename=str(work / "datastats.yaml"),
        data_src_cfg_name=str(work / "input.yaml"),
        templates_path_or_url=str(TEMPLATES),
    )
    specs = {"universal": {"num_trials": 1, "range_num_images_per_batch": [1, 2]}}
    generator.generate(str(work), num_fold=2, gpu_customization=True, gpu_customization_specs=specs)
    history = generator.get_history()
    with pytest.MonkeyPatch.context() as patch:
        train_here(patch)
        for entry in history:
            entry[AlgoKeys.ALGO].train(dict(STOCK))
    return work, history


def test_parameters_of_stock_templates_are_understood(
    generated: tuple[Path, list[dict[str, Any]]],
) -> None:
    work, _ = generated
    (progress,) = yaml.safe_load((work / "segresnetctfm_0/model/progress.yaml").read_text())
    assert progress["batch_size"] == 2
    assert progress["encoder"] == {"pretrained": None}


def test_ensembles_of_the_best_and_of_the_best_by_fold(
    generated: tuple[Path, list[dict[str, Any]]],
) -> None:
    work, history = generated
    builder = AlgoEnsembleBuilder(history, str(work / "input.yaml"))
    builder.set_ensemble_method(AlgoEnsembleBestN(n_best=1))
    parameters = {
        "files_slices": slice(0, 1),
        "mode": "mean",
        "sigmoid": True,
        "algo_spec_params": {"segresnetctfm": {"network#init_filters": 8, "overlap": 0.1}},
    }
    (found,) = builder.get_ensemble()(parameters)
    assert tuple(found.shape) == (6, 40, 40, 36), "a channel for each value up to the highest"
    builder.set_ensemble_method(AlgoEnsembleBestByFold(2))
    chosen = builder.get_ensemble().get_algo_ensemble()
    assert [entry[AlgoKeys.ID] for entry in chosen] == ["segresnetctfm_0", "segresnetctfm_1"]
    (voted,) = builder.get_ensemble()({"mode": "vote"})
    assert set(np.unique(voted)) <= {0, 1, 3, 5}


def test_auto_runner_with_every_setting(tmp_path: Path) -> None:
    made = runner(tmp_path / "work", make_task(tmp_path), allow_skip=False)
    made.set_num_fold(1)
    made.set_training_params(dict(STOCK))
    made.set_gpu_customization(gpu_customization=True)
    made.set_ensemble_method("AlgoEnsembleBestByFold")
    made.set_prediction_params({"mode": "vote", "overlap": 0.1, "sw_batch_size": 2})
    made.set_image_save_transform(
        output_dir=str(tmp_path / "out"), output_postfix="test", output_dtype="$np.uint8"
    )
    made.run()
    (result,) = (tmp_path / "out").rglob("*.nii.gz")
    assert result.name == "t_test.nii.gz"


class LearningRate(OptunaGen):
    """As the template's page shows it."""

    def get_hyperparameters(self) -> dict[str, Any]:
        return {
            "learning_rate::encoder": self.trial.suggest_float("encoder", 1e-5, 1e-3, log=True),
            "num_epochs": 1,
        }


@pytest.mark.usefixtures("one_thread")
def test_optuna_searches_for_a_learning_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_here(monkeypatch)
    algo = make_fold(tmp_path / "work", {**make_task(tmp_path), "learning_rate": "1e-3"}, fold=1)
    search = LearningRate(algo=algo)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        sampler=optuna.samplers.GridSampler({"encoder": [1e-4, 1e-3]}), direction="maximize"
    )
    out = tmp_path / "other" / "hpo"
    trial = partial(search, obj_filename=search.get_obj_filename(), output_folder=str(out))
    study.optimize(trial, n_trials=2)
    folders = sorted(out.iterdir())
    assert len(folders) == 2
    for folder in folders:
        options = Options.read(str(folder / "configs" / "hyper_parameters.yaml"), {})
        assert options["fold"] == 1
        assert options.rows() == Options.read(algo.config_files, {}).rows()
    assert not (algo.folder / "model").exists(), "the fold itself is left alone"
    assert study.best_value == max(trial.value for trial in study.trials)
    (best,) = trained_folds(out)
    assert CTFMAlgo.get_score(SimpleNamespace(folder=best)) == study.best_value  # type: ignore[arg-type]


@pytest.fixture
def nni(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The two calls of NNI that a trial makes."""
    seen = SimpleNamespace(results=[])
    module = ModuleType("nni")
    module.get_next_parameter = lambda: {"learning_rate": 0.01}  # type: ignore[attr-defined]
    module.report_final_result = seen.results.append  # type: ignore[attr-defined]
    monkeypatch.setattr(hpo_gen, "nni", module)
    monkeypatch.setattr(hpo_gen, "has_nni", True)
    return seen


def test_nni_runs_a_trial(
    tmp_path: Path, nni: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    work = tmp_path / "work"
    algo = make_fold(work, make_task(tmp_path), fold=1)
    params = {**STOCK, "maxTrialNumber": 1, "training#num_epochs": 1}
    generator = NNIGen(algo=algo, params=params)
    with caplog.at_level(logging.INFO):
        generator.print_bundle_algo_instruction()
    assert f"NNIGen run_algo  {generator.get_obj_filename()}" in caplog.text
    NNIGen().run_algo(generator.get_obj_filename(), str(work))
    (trained,) = import_bundle_algo_history(str(work), only_trained=True)
    assert trained[AlgoKeys.ID] == "segresnetctfm_1_override_learning_rate_0.01"
    assert nni.results == [trained[AlgoKeys.SCORE]]
    options = Options.read(trained[AlgoKeys.ALGO].config_files, {})
    assert (options["fold"], options["batch_size"], options["num_epochs"]) == (1, 2, 1)
    assert options.recipe.network["init_filters"] == NARROW["init_filters"]


def test_auto_runner_writes_nnis_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = runner(tmp_path / "work", make_task(tmp_path), ensemble=False)
    monkeypatch.setattr(made, "hpo", True)  # which it is with `hpo=True` where NNI is installed
    made.set_num_fold(1)
    made.set_nni_search_space(
        {"learning_rate::decoder": {"_type": "choice", "_value": [1e-4, 1e-3]}}
    )
    made.set_hpo_params({"num_epochs": 1, "nni_dry_run": True, "maxTrialNumber": 2})
    with caplog.at_level(logging.INFO):
        made.run()
    config = yaml.safe_load((tmp_path / "work" / "segresnetctfm_0_nni_config.yaml").read_text())
    assert config["maxTrialNumber"] == 2
    file = config["trialCommand"].split()[-2]
    algo, _ = algo_from_json(file)
    assert Options.read(algo.config_files, {})["num_epochs"] == 1


@pytest.mark.parametrize("name", ["learning_rate::encodr", "learning_rate::encoder::x"])
def test_a_misspelled_learning_rate_is_told(tmp_path: Path, name: str) -> None:
    algo = make_fold(tmp_path / "work", make_task(tmp_path))
    with pytest.raises(UserError, match="learning_rate"):
        algo.train({name: 1e-3})

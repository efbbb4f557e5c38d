"""AutoRunner with the template: analysis, folds, training, ensemble; then what users do next."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from auto3dseg_support import NARROW, make_task, narrow_encoder, runner
from ctfm.auto3dseg import training
from ctfm.auto3dseg.inference import InferClass
from ctfm.auto3dseg.predicting import infer
from ctfm.auto3dseg.recipe import load_model
from ctfm.auto3dseg.scoring import evaluate
from ctfm.base.errors import UserError
from ctfm.evaluation.comparison.folders import compare_folders
from ctfm.evaluation.comparison.runs import read_run
from support import save


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work dir after a whole run with a pretrained encoder.

    From another folder, without any Python on PATH, and with a space in the paths.
    """
    root = tmp_path_factory.mktemp("auto 3d seg")
    source = make_task(root)
    narrow_encoder(root / "encoder.pt")
    source["pretrained"] = str(root / "encoder.pt")
    source["learning_rate"] = {"encoder": "1e-3", "decoder": 2e-3}
    made = runner(root / "work", source)
    made.set_training_params({"network::dsdepth": 3, "roi_size": [48, 48, 64]})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PATH", "/nowhere")
        made.run()
    return root


def progress(root: Path, fold: int = 0) -> dict[str, Any]:
    path = root / "work" / f"segresnetctfm_{fold}" / "model" / "progress.yaml"
    return yaml.safe_load(path.read_text())[-1]


def test_encoder_is_injected_audited_and_reported(done: Path) -> None:
    report = progress(done)["encoder"]
    count = len(narrow_encoder(done / "again.pt").state_dict())
    assert report["tensors"] == f"{count} of {count}"
    assert report["file"].endswith("encoder.pt")
    assert len(report["sha256"]) == 64


def test_options_of_the_training_arrive_intact_and_travel_with_the_checkpoint(done: Path) -> None:
    model = done / "work" / "segresnetctfm_1" / "model" / "model.safetensors"
    network, recipe = load_model(model)
    assert recipe.roi_size == (48, 48, 64)
    assert recipe.network["dsdepth"] == 3
    assert recipe.network["init_filters"] == NARROW["init_filters"]
    assert recipe.values == (1, 3, 5)
    assert not any(torch.isnan(t).any() for t in network.state_dict().values())


def test_ensemble_lies_on_the_test_files_own_grid(done: Path) -> None:
    (result,) = (done / "work" / "ensemble_output").rglob("*.nii.gz")
    found, image = nib.load(result), nib.load(done / "data" / "t.nii.gz")
    assert found.shape[:3] == image.shape
    assert np.allclose(found.affine, image.affine, atol=1e-4)
    assert set(np.unique(found.dataobj)) <= {0, 1, 3, 5}


def test_a_turned_scan_has_the_same_labels(done: Path) -> None:
    ct = nib.load(done / "data" / "c0.nii.gz")
    axes = [nib.orientations.axcodes2ornt(codes) for codes in ("RAS", "ASL")]
    turning = nib.orientations.ornt_transform(*axes)
    turned = ct.as_reoriented(turning)
    save(np.asarray(turned.dataobj), done / "turned.nii.gz", turned.affine)
    configs = [str(done / "work" / "segresnetctfm_0" / "configs" / "hyper_parameters.yaml")]
    inferer = InferClass(configs)
    found = [inferer.infer(str(p)).argmax(0) for p in (done / "turned.nii.gz", ct.get_filename())]
    expected = nib.orientations.apply_orientation(np.asarray(found[1]), turning)
    assert len(np.unique(expected)) > 1, "else any orientation would do"
    assert (np.asarray(found[0]) == expected).mean() > 0.99


def test_command_predicts_what_the_ensemble_does(done: Path, tmp_path: Path) -> None:
    infer(str(done / "work"), [str(done / "data" / "t.nii.gz")], str(tmp_path), preview=False)
    (result,) = (done / "work" / "ensemble_output").rglob("*.nii.gz")
    ensemble = np.squeeze(np.asarray(nib.load(result).dataobj))
    command = np.asarray(nib.load(tmp_path / "t_seg.nii.gz").dataobj)
    assert (ensemble == command).mean() > 0.999
    names = json.loads((tmp_path / "t_seg.json").read_text())["labels"]
    assert names == {"1": "spleen", "3": "kidney_left", "5": "liver"}


def test_each_case_is_scored_by_the_fold_that_has_not_trained_on_it(
    done: Path, tmp_path: Path
) -> None:
    text = evaluate(str(done / "work"), str(tmp_path / "a"))
    assert "4 cases of 2 folds" in text
    run = read_run(tmp_path / "a", "dice")
    assert sorted(run.cases) == ["c0", "c1", "c2", "c3"]
    assert run.names == {1: "spleen", 3: "kidney_left", 5: "liver"}
    for fold in (0, 1):
        own = [run.values[f"c{n}", i] for n in (fold, fold + 2) for i in run.names]
        assert np.nanmean(own) == pytest.approx(
            progress(done, fold)["best_avg_dice_score"], abs=1e-3
        )
    evaluate(str(done / "work" / "segresnetctfm_1"), str(tmp_path / "b"))
    with pytest.raises(UserError, match="2 only in A"):
        compare_folders(tmp_path / "a", tmp_path / "b")
    assert "no difference" in compare_folders(tmp_path / "a", tmp_path / "a")


def test_running_again_trains_nothing_and_keeps_everything(done: Path) -> None:
    source = yaml.safe_load((done / "work" / "input.yaml").read_text())
    models = sorted((done / "work").glob("segresnetctfm_*/model/model.safetensors"))
    before = [model.stat().st_mtime_ns for model in models]
    runner(done / "work", source, ensemble=False).run()
    assert [model.stat().st_mtime_ns for model in models] == before


def test_making_folds_anew_keeps_earlier_results(done: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(done / "work", work)
    source = yaml.safe_load((work / "input.yaml").read_text())
    source["datalist"] = str(done / "list.json")
    runner(work, source, algo_gen=True, train=False, ensemble=False).run()
    assert not (work / "segresnetctfm_0" / "model").exists()
    assert (work / "earlier" / "segresnetctfm_0.1" / "model" / "model.safetensors").is_file()


@pytest.mark.usefixtures("one_thread")
def test_a_moved_work_dir_predicts_and_trains_on(
    done: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(done, moved)
    fold = moved / "work" / "segresnetctfm_0"
    (moved / "work" / "segresnetctfm_0" / "model" / "progress.yaml").unlink()
    config = (fold / "configs" / "hyper_parameters.yaml").read_text()
    assert str(done / "work") not in config
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "_log_to", lambda *_: None)  # it takes pytest's handlers away
    with caplog.at_level(logging.INFO, logger="ctfm"):
        training.train_fold(
            str(fold / "configs" / "hyper_parameters.yaml"),
            num_epochs=3,
            roi_size=[48, 48, 64],
            **{"network::dsdepth": 3},
        )
    assert "resuming after epoch 2" in caplog.text
    assert progress(moved)["epoch"] == 3
    assert progress(moved)["encoder"] == progress(done)["encoder"]
    assert list((fold / "model" / "tensorboard").iterdir())
    infer(str(moved / "work"), [str(moved / "data" / "t.nii.gz")], str(tmp_path / "out"))
    assert (tmp_path / "out" / "t_seg.nii.gz").is_file()

"""`loader: dali`: a store for all folds, crops read from it, and what it needs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.transforms import Compose

from auto3dseg_support import make_fold, make_task
from ctfm.auto3dseg import training
from ctfm.auto3dseg.algo import CTFMAlgo
from ctfm.auto3dseg.engines import TrainingData, image_transforms, label_channels, random_transforms
from ctfm.auto3dseg.inference import InferClass
from ctfm.auto3dseg.options import Options
from ctfm.auto3dseg.stored import convert_scans
from ctfm.auto3dseg.training import train_fold
from ctfm.base.errors import UserError
from ctfm.loading.augmentation.steps import AsMonai
from ctfm.loading.dali.loader import DaliLoader
from ctfm.loading.loader import StoreLoader
from ctfm.loading.store.boxes import Box

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep pytest's handlers of the log."""
    monkeypatch.setattr(training, "_log_to", lambda *_: None)


@pytest.fixture
def source(tmp_path: Path) -> dict[str, Any]:
    return {**make_task(tmp_path), "loader": "dali"}


def data_of(options: Options) -> TrainingData:
    training_rows, _ = options.rows()
    return TrainingData(options, training_rows, CPU, world_size=1)


def weights(algo: CTFMAlgo) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(
        algo.folder / "model" / "last.pt", weights_only=True
    )["model"]
    return state


def test_folds_share_a_store_and_train_on_their_own_cases(
    source: dict[str, Any], tmp_path: Path
) -> None:
    for fold in (0, 1):
        algo = make_fold(tmp_path / "work", source, fold)
        train_fold(algo.config_files, num_epochs=1)
        assert algo.get_score() >= 0
        options = Options.read(algo.config_files, {})
        names = {scan.entry.name for scan in data_of(options).dataset.scans}
        assert names == {f"c{n}.nii.gz" for n in range(4) if n % 2 != fold}
    (store,) = (tmp_path / "work" / "store").iterdir()
    assert store.name == "3x3x3mm"
    assert len(list(store.rglob("*.b2nd"))) == 8, "four images, four labels"


@pytest.mark.parametrize("window", [[-1024, 2048], None])
def test_crops_are_those_of_monais_transforms(
    source: dict[str, Any], tmp_path: Path, window: list[float] | None
) -> None:
    """Values, resampling and groups of label values, before chance comes in."""
    groups = [{"name": "paired", "index": [1, 3]}, {"name": "liver", "index": 5}]
    algo = make_fold(
        tmp_path / "work",
        {**source, "class_names": groups, "spacing": [3, 2, 3], "hu_window": window},
    )
    options = Options.read(algo.config_files, {})
    convert_scans(options)
    samples = data_of(options).dataset
    rows, _ = options.rows()
    low, high = options.recipe.hu_window
    rounding = 0.5 / (high - low) + 1e-6
    prepared = Compose(image_transforms(options.recipe, with_label=True))
    for row in rows:
        (scan,) = (s for s in samples.scans if row["image"].endswith(s.entry.name))
        box = Box(scan, (0, 0, 0), scan.entry.shape, 0)
        expected = prepared(row)
        image = samples.scaled(torch.from_numpy(box.image()))
        assert torch.allclose(image, expected["image"][0].as_tensor(), atol=rounding)
        label = expected["label"][0].as_tensor()
        assert torch.equal(torch.from_numpy(samples.classes(box.label())), label.to(torch.uint8))
        assert label.unique().tolist() == [0, 1, 2]


def test_dali_resamples_what_the_template_draws(source: dict[str, Any], tmp_path: Path) -> None:
    """As on a GPU, by DALI's CPU operators; flips come after, on the device."""
    algo = make_fold(tmp_path / "work", {**source, "flips": True})
    options = Options.read(algo.config_files, {})
    convert_scans(options)
    samples = data_of(options).dataset
    steps = random_transforms(options.recipe, flips=True)[:4]
    steps[0].prob = steps[0].rand_affine.prob = 1.0
    by_dali = DaliLoader(samples, steps, batch_size=2, num_workers=1, resampling="dali")
    assert by_dali.warp
    assert all(not isinstance(step, AsMonai) for step in by_dali.augmentation.steps)
    (found,), (expected,) = list(by_dali), list(StoreLoader(samples, steps, 2, 1))
    assert (found["image"] - expected["image"]).abs().mean() < 1e-3
    assert (found["label"] == expected["label"]).float().mean() > 0.999


def test_every_class_is_in_the_middle_of_crops(source: dict[str, Any], tmp_path: Path) -> None:
    groups = [{"name": "paired", "index": [1, 3]}, {"name": "liver", "index": 5}]
    algo = make_fold(tmp_path / "work", {**source, "class_names": groups})
    options = Options.read(algo.config_files, {"roi_size": [32, 32, 32]})
    convert_scans(options)
    samples = data_of(options).dataset
    middles = set()
    for index in range(60):
        (box,) = samples.boxes(1 + index // 2, index % 2)
        middles.add(int(box.label()[16, 16, 16]))
    assert middles >= {1, 3, 5}, "others where the edge of the scan is near"


def test_overlapping_classes_flips_and_the_same_again(
    source: dict[str, Any], tmp_path: Path
) -> None:
    names = [{"name": "all organs", "index": [1, 3, 5]}, {"name": "liver", "index": 5}]
    source |= {"sigmoid": True, "class_names": names, "flips": True}
    found = []
    for work in ("a", "b"):
        algo = make_fold(tmp_path / work, source)
        train_fold(algo.config_files)
        found.append(weights(algo))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    predicted = InferClass(algo.config_files).infer(str(tmp_path / "data" / "t.nii.gz"))
    assert len(predicted) == 2
    options = Options.read(algo.config_files, {})
    batch = next(iter(data_of(options).loader))
    image, label = label_channels(options.recipe)(batch, CPU, False)
    assert image.shape == (1, 1, 48, 48, 48)
    assert label.shape == (1, 2, 48, 48, 48)
    assert bool((label[:, 0] >= label[:, 1]).all())
    assert label[:, 1].sum() == (batch["label"] == 3).sum() > 0


def test_killed_training_goes_on_as_if_it_had_not_been(
    source: dict[str, Any], tmp_path: Path
) -> None:
    found = []
    for work in ("whole", "killed"):
        algo = make_fold(tmp_path / work, source)
        if work == "killed":
            process = subprocess.Popen(
                algo.command({"num_epochs": 3}), env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
            wait_for(algo.folder / "model" / "last.pt", process)
            process.kill()
            process.wait()
        train_fold(algo.config_files, num_epochs=3)
        found.append(weights(algo))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


def test_two_processes_share_store_and_crops(
    source: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    algo = make_fold(tmp_path / "work", source)
    algo.train({"num_epochs": 1}, {"CUDA_VISIBLE_DEVICES": "0,1"})
    last = torch.load(algo.folder / "model" / "last.pt", weights_only=True)
    assert last["epoch_length"] == 1, "two cases, one in each process"
    assert algo.get_score() >= 0


@pytest.mark.parametrize(
    ("module", "gpu", "message"),
    [
        ("blosc2", False, r'blosc2 is needed to train with .*"ct-fm-bundles\[store\]"'),
        ("numba", False, r'numba is needed .*pip install "ct-fm-bundles\[store\]"'),
        ("nvidia.dali", True, r'nvidia.dali is needed .*pip install "ct-fm-bundles\[dali\]"'),
        ("blosc2", True, r'blosc2 is needed .*pip install "ct-fm-bundles\[dali\]"'),
    ],
)
def test_missing_packages_are_told_before_any_training(
    source: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    gpu: bool,
    message: str,
) -> None:
    algo = make_fold(tmp_path / "work", {**source, "loader": "monai"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=message) as caught:
        algo.train({"loader": "dali"})
    assert "\n" not in str(caught.value)
    assert not (algo.folder / "model").exists()


def test_a_scan_that_cannot_be_converted_is_named(source: dict[str, Any], tmp_path: Path) -> None:
    algo = make_fold(tmp_path / "work", source)
    (tmp_path / "data" / "c2.nii.gz").write_bytes(b"cut off")
    with pytest.raises(UserError, match=r"1 of 4 scans cannot be converted \(first: c2.nii.gz: "):
        train_fold(algo.config_files)


def test_intensities_that_are_no_hu_need_the_other_loader(
    source: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="intensity is 'scan': set loader to monai"):
        make_fold(tmp_path / "work", {**source, "modality": "mri"})


def test_other_voxels_get_a_store_of_their_own(source: dict[str, Any], tmp_path: Path) -> None:
    algo = make_fold(tmp_path / "work", source)
    first = convert_scans(Options.read(algo.config_files, {}))
    times = {path: path.stat().st_mtime_ns for path in first.rglob("*.b2nd")}
    second = convert_scans(Options.read(algo.config_files, {"spacing": [3, 3, 2]}))
    assert (first.name, second.name) == ("3x3x3mm", "3x3x2mm")
    convert_scans(Options.read(algo.config_files, {}))
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*.b2nd")} == times

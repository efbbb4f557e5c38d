"""What cannot work is refused in one line before any training starts."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml

from auto3dseg_support import TEMPLATES, make_fold, make_task, narrow_encoder
from ctfm.auto3dseg.algo import CTFMAlgo
from ctfm.auto3dseg.checks import check_input
from ctfm.auto3dseg.options import DEFAULTS, Options
from ctfm.base.errors import UserError
from support import save

Change = Callable[[Path, dict[str, Any]], None]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny task, with the input that AutoRunner would write."""
    root = tmp_path_factory.mktemp("task")
    source = make_task(root)
    (root / "input.json").write_text(json.dumps(source).replace(str(root), "@root"))
    return root


@pytest.fixture
def generate(task: Path, tmp_path: Path) -> Callable[..., CTFMAlgo]:
    """Analyse a changed copy of the task, and make the folder of a fold, as BundleGen does."""

    def call(change: Change | None = None, fold: int = 0) -> CTFMAlgo:
        root = tmp_path / "task"
        shutil.copytree(task, root)
        source = json.loads((root / "input.json").read_text().replace("@root", str(root)))
        if change is not None:
            change(root, source)
        return make_fold(tmp_path / "work", source, fold)

    return call


def rewritten(root: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    image = nib.load(root / "data" / name)
    save(change(np.asarray(image.dataobj)), root / "data" / name, image.affine)


def two_channels(root: Path, _source: dict[str, Any]) -> None:
    for number in range(4):
        rewritten(root, f"c{number}.nii.gz", lambda a: np.stack([a, a], -1))


def unknown_value(root: Path, _source: dict[str, Any]) -> None:
    rewritten(root, "l2.nii.gz", lambda a: np.where(a == 3, 9, a).astype(np.uint8))


def class_in_one_case(root: Path, _source: dict[str, Any]) -> None:
    for name in ("l1.nii.gz", "l3.nii.gz"):
        rewritten(root, name, lambda a: np.where(a == 3, 0, a).astype(np.uint8))


def other_grid(root: Path, _source: dict[str, Any]) -> None:
    label = nib.load(root / "data" / "l2.nii.gz")
    moved = label.affine.copy()
    moved[0, 3] += 7
    save(np.asarray(label.dataobj), root / "data" / "l2.nii.gz", moved)


def other_shape(root: Path, _source: dict[str, Any]) -> None:
    rewritten(root, "l0.nii.gz", lambda a: a[:-1])


def three_cases(root: Path, source: dict[str, Any]) -> None:
    lists = json.loads((root / "list.json").read_text())
    lists["training"] = lists["training"][:3]
    Path(source["datalist"]).write_text(json.dumps(lists))


def no_test_file(_root: Path, source: dict[str, Any]) -> None:
    lists = json.loads(Path(source["datalist"]).read_text())
    lists["testing"] = [{"image": "nowhere.nii.gz"}]
    Path(source["datalist"]).write_text(json.dumps(lists))


def damaged_encoder(root: Path, source: dict[str, Any]) -> None:
    source["pretrained"] = str(root / "encoder.pt")
    (root / "encoder.pt").write_bytes(b"no checkpoint")


def without_intercept(root: Path, _source: dict[str, Any]) -> None:
    rewritten(root, "c3.nii.gz", lambda a: (a + 1100).astype(np.int16))


def mri(_root: Path, source: dict[str, Any]) -> None:
    source |= {"modality": "MRI", "pretrained": "encoder.pt"}


def of(**options: Any) -> Change:
    return lambda _root, source: source.update(options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (two_channels, "2 channels in .*c0.nii.gz: CT-FM's encoder takes one channel"),
        (of(extra_modalities={"pet": "pet"}), "extra_modalities .*takes one channel"),
        (unknown_value, "label of .*c2.nii.gz holds the value 9, which no class has"),
        (class_in_one_case, "fold 0 has no case of kidney_left to train on"),
        (other_grid, "l2.nii.gz: its voxels lie up to 7 mm from its image's"),
        (other_shape, "l0.nii.gz: has .* its image"),
        (three_cases, "fold 0 has 1 cases to train on and 2 to validate on"),
        (no_test_file, "nowhere.nii.gz: no such test file"),
        (damaged_encoder, "encoder.pt"),
        (without_intercept, r"c3.nii.gz: its lowest value is .* not CT in Hounsfield units"),
        (mri, "modality is MRI: .* set pretrained: null .* to train .* from scratch"),
        (of(roi_size=[40, 48, 48]), "roi_size is .* divisible by 16"),
        (of(network={"norm": "INSTANCE"}), "norm INSTANCE: CT-FM's has 5 and BATCH"),
        (of(network={"blocks_down": [1, 1, 1, 1]}), "4 levels"),
        (of(loader="torch"), "loader is 'torch'"),
        (of(**{"network::dsdepth": 3}), "network::dsdepth in the input file"),
        (of(learning_rate={"encoder": 0}), "learning_rate"),
        (of(hu_window=[200, -100]), "hu_window is .* the lower HU, then the higher"),
        (of(hu_window=[-1024, 4000]), "hu_window is .* inside"),
        (of(pretrained="x", hu_window=[-100, 200]), "expects hu_window .*, and it is"),
        (of(class_names=["a", 3]), "class_names: entry 2 is 3"),
        (of(class_names=[{"name": n, "index": [1, 3, 5]} for n in "ab"]), "sigmoid: true"),
    ],
)
def test_refused_with_one_line(
    generate: Callable[..., CTFMAlgo], change: Change, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        generate(change)
    assert "\n" not in str(caught.value)


def test_files_are_looked_at_without_an_analysis(task: Path, tmp_path: Path) -> None:
    """Where channels differ from case to case, the analysis ends with a message of its own."""
    root = tmp_path / "task"
    shutil.copytree(task, root)
    text = (root / "input.json").read_text().replace("@root", str(root))
    (root / "input.json").write_text(text)
    assert "4 cases to train on, 1 to test on" in check_input(str(root / "input.json"))
    rewritten(root, "c1.nii.gz", lambda a: np.stack([a, a], -1))
    with pytest.raises(UserError, match=r"c1\.nii\.gz: has 2 channels"):
        check_input(str(root / "input.json"))


def test_an_empty_test_list_is_told(
    generate: Callable[..., CTFMAlgo], caplog: pytest.LogCaptureFixture
) -> None:
    def empty(_root: Path, source: dict[str, Any]) -> None:
        lists = json.loads(Path(source["datalist"]).read_text())
        Path(source["datalist"]).write_text(json.dumps({**lists, "testing": []}))

    with caplog.at_level(logging.WARNING, logger="ctfm"):
        generate(empty)
    assert "no test files" in caplog.text


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"num_epoch": 2}, "there is no option 'num_epoch': choose from pretrained"),
        ({"roi_size": "48,48"}, "cannot be understood"),
        ({"sigmoid": True}, "sigmoid: set it in the input file"),
        ({"class_names": ["spleen"]}, "holds the value 3, which no class has"),
        ({"pretrained": "{encoder}"}, "expects hu_window"),
        (
            {
                "pretrained": "{encoder}",
                "hu_window": [-1024, 2048],
                "network::init_filters": 8,
            },
            "init_filters",
        ),
    ],
)
def test_parameters_of_the_training_are_looked_at_before_it_starts(
    generate: Callable[..., CTFMAlgo], tmp_path: Path, params: dict[str, Any], message: str
) -> None:
    narrow_encoder(tmp_path / "encoder.pt")
    algo = generate()
    if "pretrained" in params:
        params = {**params, "pretrained": str(tmp_path / "encoder.pt")}
    with pytest.raises(UserError, match=message):
        algo.train(params)
    assert not (algo.folder / "model").exists()


def test_mri_goes_from_scratch_with_intensities_of_its_own(
    generate: Callable[..., CTFMAlgo],
) -> None:
    algo = generate(of(modality="mri", pretrained=None))
    options = Options.read(algo.config_files, {})
    assert options.recipe.intensity == "scan"
    assert options.recipe.input_check == "off"
    with pytest.raises(UserError, match="set pretrained to null"):
        Options.read(algo.config_files, {"pretrained": "x"})


def test_the_template_lists_every_option() -> None:
    file = TEMPLATES / "segresnetctfm" / "configs" / "hyper_parameters.yaml"
    assert yaml.safe_load(file.read_text()) == DEFAULTS

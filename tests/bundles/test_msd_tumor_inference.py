"""The tumour bundle infers by task; a zip of one task runs where nothing else is installed."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.networks.nets import SegResNetDS

from bare_python import bare_python
from contract_differences import contract_differences
from ctfm.base.errors import UserError
from ctfm.contract.tumors import TUMORS as TASKS
from ctfm.release import packing as release
from ctfm.release.overlays import applied, packed_name, task_overlays
from support import TUMORS
from tumor_support import TASK_NAMES, make_task, refusal, run_tumor

OTHERS = [name for name in TASK_NAMES if name != "lung"]
NARROW = {"init_filters": 4, "in_channels": 1, "blocks_down": (1, 1, 1, 1, 1), "dsdepth": 2}

pytestmark = pytest.mark.usefixtures("one_thread")


def write_weights(path: Path, name: str) -> None:
    """Random weights of a narrow network with the outputs of a task."""
    torch.manual_seed(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    classes = len(TASKS[name].classes)
    torch.save(SegResNetDS(**NARROW, out_channels=1 + classes).state_dict(), path)


def overrides(data: Path, out: Path, **changes: Any) -> dict[str, Any]:
    return {
        "input": str(data / "imagesTs"),
        "output_dir": str(out / "out"),
        "spacing": [6.0, 6.0, 6.0],
        "progress": False,
        "overlap": 0.25,
        **changes,
    }


@pytest.fixture(scope="module")
def pancreas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_task(tmp_path_factory.mktemp("pancreas"), "pancreas", subjects=2)


@pytest.mark.parametrize("name", TASK_NAMES)
def test_labels_of_the_task_on_the_grid_of_the_scan(
    name: str, pancreas: Path, tmp_path: Path
) -> None:
    write_weights(tmp_path / "models" / "model.pt", name)
    stack = () if name == "lung" else (name,)
    options = overrides(pancreas, tmp_path, ckpt_dir=str(tmp_path / "models"))
    run_tumor("inference", *stack, **options)
    (scan,) = (pancreas / "imagesTs").iterdir()
    stem = scan.name.removesuffix(".nii.gz")
    found, image = nib.load(tmp_path / "out" / f"{stem}_seg.nii.gz"), nib.load(scan)
    assert found.shape == image.shape
    np.testing.assert_allclose(found.affine, image.affine, atol=1e-5)
    assert set(np.unique(found.dataobj)) <= {0, *TASKS[name].classes}
    named = json.loads((tmp_path / "out" / f"{stem}_seg.json").read_text())["labels"]
    assert named == {str(i): label for i, label in TASKS[name].classes.items()}
    assert (tmp_path / "out" / f"{stem}_preview.png").is_file()


def test_model_of_the_task_lies_apart(pancreas: Path, tmp_path: Path) -> None:
    """The overlay looks below models/pancreas; without weights it says what to do."""
    options = overrides(pancreas, tmp_path, run_dir="/nowhere")
    assert "no tumour weights are published" in refusal("inference", "pancreas", **options)
    write_weights(tmp_path / "lung.pt", "lung")
    options |= {"checkpoint": str(tmp_path / "lung.pt")}
    assert "out_channels" in refusal("inference", "pancreas", **options)


@pytest.mark.parametrize("name", OTHERS)
def test_overlay_sets_nothing_that_a_pack_would_lose(name: str) -> None:
    """What it says of itself is metadata's; its classes give the channels; the name is MONAI's."""
    assert sorted(task_overlays(TUMORS)) == sorted(OTHERS)
    files = applied(TUMORS, name)
    own = json.loads((TUMORS / "configs" / "metadata.json").read_text())
    metadata = json.loads(files["configs/metadata.json"] or b"")
    assert metadata.keys() == own.keys()
    said = yaml.safe_load((TUMORS / "configs" / f"{name}.yaml").read_text())["metadata"]
    assert said.keys() <= own.keys()
    assert {key: metadata[key] for key in said} == said
    assert TASKS[name].decathlon in metadata["task"]
    output = metadata["network_data_format"]["outputs"]["pred"]
    channels = {"0": "background", **{str(i): n for i, n in TASKS[name].classes.items()}}
    assert (output["channel_def"], output["num_channels"]) == (channels, len(channels))
    for entry in ("train", "inference"):
        config = json.loads(files[f"configs/{entry}.json"] or b"")
        assert config["class_names"] == list(TASKS[name].classes.values())
        assert tuple(config["spacing"]) == TASKS[name].spacing
        assert config["variant"] == ""
    assert "_v" not in packed_name(TUMORS.name, name)


def test_metadata_of_the_default_is_that_of_lung() -> None:
    own = json.loads((TUMORS / "configs" / "metadata.json").read_text())
    output = own["network_data_format"]["outputs"]["pred"]
    assert output["channel_def"] == {"0": "background", "1": "cancer"}
    assert output["num_channels"] == 1 + len(TASKS["lung"].classes)
    assert TASKS["lung"].decathlon in own["task"]


def test_zip_of_a_task_is_sound_and_the_same_again(tmp_path: Path) -> None:
    first, second = (
        release.pack(TUMORS, tmp_path / name, overlay="hepatic_vessel") for name in "ab"
    )
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.path.stem.startswith(f"{TUMORS.name}_hepaticvessel_v")
    assert all(outcome.ok for outcome in release.verify_bundle(first.path))
    with zipfile.ZipFile(first.path) as archive:
        archive.extractall(tmp_path)
        assert contract_differences(tmp_path / f"{TUMORS.name}_hepaticvessel") == []
        configs = {Path(name).stem for name in archive.namelist() if "/configs/" in name}
        page = archive.read(f"{TUMORS.name}_hepaticvessel/docs/README.md").decode()
    assert not configs & set(OTHERS)
    assert {"train", "inference", "evaluate", "store"} <= configs
    assert page.startswith("> **This zip is for one task: ")


def test_overlays_that_are_no_task_are_refused(tmp_path: Path) -> None:
    for name in ("spleen", "evaluate"):
        with pytest.raises(UserError, match=r"choose one of colon, hepatic_vessel, liver, pan"):
            release.pack(TUMORS, tmp_path, overlay=name)
    with pytest.raises(UserError, match=r"this bundle has none$"):
        release.pack(TUMORS.with_name("ct_fm_pretrain"), tmp_path, overlay="pancreas")
    assert list(tmp_path.iterdir()) == []


def test_weights_of_the_task_are_packed_as_the_model(tmp_path: Path) -> None:
    bundle = shutil.copytree(TUMORS, tmp_path / TUMORS.name)
    for name in ("model.pt", "pancreas/model.pt"):
        (bundle / "models" / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / "models" / name).write_text(name)
    packed = release.pack(bundle, tmp_path, overlay="pancreas", with_weights=True)
    with zipfile.ZipFile(packed.path) as archive:
        held = archive.read(f"{TUMORS.name}_pancreas/models/model.pt").decode()
    assert held == "pancreas/model.pt"
    with pytest.raises(UserError, match=r"models/colon/model\.pt"):
        release.pack(bundle, tmp_path, overlay="colon", with_weights=True)


def test_zip_of_a_task_runs_where_the_package_is_not_installed(
    pancreas: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(release.pack(TUMORS, tmp_path, overlay="pancreas").path) as archive:
        archive.extractall(tmp_path)
    bundle = tmp_path / f"{TUMORS.name}_pancreas"
    write_weights(bundle / "models" / "model.pt", "pancreas")
    narrow = {f"network_def::{key}": value for key, value in NARROW.items()}
    arguments = {
        "config_file": str(bundle / "configs" / "inference.json"),
        "bundle_root": str(bundle),
        "patch": [48, 48, 48],
        **narrow,
        **overrides(pancreas, tmp_path, preview=False),
    }
    (tmp_path / "arguments.json").write_text(json.dumps(arguments))
    typed = ("-m", "monai.bundle", "run", "--args_file", str(tmp_path / "arguments.json"))
    done = bare_python(tmp_path).run(*typed)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*_seg.nii.gz"))) == 1

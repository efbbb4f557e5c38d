"""The feature extractor: uses by name, a report, going on past bad files, MONAI's own doors."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from monai.bundle import ConfigParser, load

from bare_python import bare_python
from ctfm.embedding.embedder import Embedder
from ctfm.embedding.recipes import make_recipe
from ctfm.networks.encoders import PooledEncoder
from ctfm.release import packing as release
from dicom_support import write_ct
from support import EXTRACTOR, make_ct, run_apart, run_here, save

pytestmark = pytest.mark.usefixtures("one_thread")

#: A window of the small scan in tests; the overlays set their own, so it comes after them.
SMALL: dict[str, Any] = {"patch": [16, 32, 32], "spacing": [3.0, 3.0, 3.0]}


@pytest.fixture
def encoder(tmp_path: Path) -> PooledEncoder:
    torch.manual_seed(0)
    network = PooledEncoder(init_filters=4, in_channels=1, blocks_down=(1, 1, 1, 1, 1)).eval()
    torch.save(network.state_dict(), tmp_path / "encoder.pt")
    return network


@pytest.fixture
def inference(tmp_path: Path, encoder: PooledEncoder) -> dict[str, Any]:
    return {
        "bundle": EXTRACTOR,
        "checkpoint": str(tmp_path / "encoder.pt"),
        "output_dir": str(tmp_path / "out"),
        "progress": False,
        "amp": False,
    }


def table(tmp_path: Path) -> pd.DataFrame:
    rows = pd.read_parquet(tmp_path / "out" / "embeddings.parquet")
    return rows.sort_values("scan", kind="stable", ignore_index=True)


def report(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "out" / "report.json").read_text())


@pytest.mark.parametrize(
    ("overlays", "use"),
    [
        ([], "scan"),
        (["mir"], "mir"),
        (["semantic_search"], "semantic_search"),
        (["stability"], "stability"),
    ],
)
def test_each_use_is_a_recipe_of_the_library(overlays: list[str], use: str) -> None:
    """What the table records is what `make_recipe` gives: an index can hold both."""
    parser = ConfigParser()
    files = ["inference.json", *(f"{name}.yaml" for name in overlays)]
    parser.read_config([str(EXTRACTOR / "configs" / name) for name in files])
    assert json.loads(json.dumps(parser.get_parsed_content("recipe"))) == make_recipe(use)


@pytest.mark.parametrize("overlay", [None, "mir"])
def test_a_file_becomes_rows_and_a_report(
    overlay: str | None, inference: dict[str, Any], ct: Path, tmp_path: Path
) -> None:
    stack = ["inference", *([overlay] if overlay else [])]
    workflow = run_here(*stack, **inference, input=str(ct))
    assert not workflow.check_properties()
    rows = table(tmp_path)
    recipe = make_recipe(overlay or "scan", **SMALL, amp=False)
    embedder = Embedder.load(inference["checkpoint"], recipe, device="cpu")
    embeddings, centres = embedder.windows(embedder.read(str(ct)))
    found = np.stack(list(rows.embedding))
    np.testing.assert_array_equal(found[0], embedder.pooled(embeddings))
    np.testing.assert_array_equal(found[1:], embeddings)
    np.testing.assert_allclose(rows[["x_mm", "y_mm", "z_mm"]].to_numpy()[1:], centres)
    (scan,) = report(tmp_path)["scans"].values()
    assert scan["found"] == {"patches": len(embeddings)}
    assert scan["input"]["shape"] == [40, 40, 40]
    assert {"reading", "network", "writing"} <= scan["seconds"].keys()
    assert report(tmp_path)["settings"]["pooling"] == ("min" if overlay else "mean")


def test_a_tree_of_files_and_series_goes_on_past_what_is_bad(
    inference: dict[str, Any], ct: Path, tmp_path: Path
) -> None:
    """A file, a broken one, a DICOM series; the second run does what is missing alone."""
    root = tmp_path / "in"
    shutil.copytree(ct.parent, root / "nifti")
    (root / "nifti" / "broken.nii.gz").write_bytes(ct.read_bytes()[:2000])
    write_ct(root / "dicom" / "patient" / "1.2.840.7")
    inference |= {"input": str(root), "overwrite": False}
    done = run_apart(tmp_path, "inference", **inference)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last == "error: 1 of 3 scans failed, as listed above; 2 are done"
    assert set(table(tmp_path).scan) == {"nifti/ct", "dicom/patient/1.2.840.7"}
    assert report(tmp_path)["scans_failed"] == 1
    file = tmp_path / "out" / "embeddings.parquet" / "nifti" / "ct.parquet"
    written = file.stat().st_mtime_ns

    save(make_ct(seed=1)[0], root / "nifti" / "broken.nii.gz")
    run_here("inference", **inference)
    assert len(set(table(tmp_path).scan)) == 3
    assert file.stat().st_mtime_ns == written, "what was there is not done again"
    assert (report(tmp_path)["scans_done"], report(tmp_path)["scans_failed"]) == (3, 0)


def test_what_cannot_be_written_is_a_failure_of_that_scan(
    inference: dict[str, Any], ct: Path, tmp_path: Path
) -> None:
    (tmp_path / "out" / "embeddings.parquet").mkdir(parents=True)
    blocked = tmp_path / "out" / "embeddings.parquet" / "ct.parquet"
    (blocked / "in_the_way").mkdir(parents=True)
    overrides = {**inference, "input": str(ct), "overwrite": True}
    done = run_apart(tmp_path, "inference", **overrides)
    assert done.returncode == 1
    assert "failed: " in done.stdout
    assert "cannot write" in done.stdout
    assert done.stderr.strip().splitlines()[-1].startswith("error: 1 of 1 scans failed")
    assert not any(path.name.startswith(".") for path in blocked.parent.iterdir())


def test_monai_loads_the_network(encoder: PooledEncoder, tmp_path: Path) -> None:
    """By its own door, from another folder; it copies what fits, so every tensor is compared."""
    root = tmp_path / "bundles" / EXTRACTOR.name
    shutil.copytree(EXTRACTOR, root, ignore=shutil.ignore_patterns("models", "eval"))
    config = json.loads((root / "configs" / "inference.json").read_text())
    config["network_def"] |= {"init_filters": 4, "blocks_down": [1, 1, 1, 1, 1]}
    (root / "configs" / "inference.json").write_text(json.dumps(config))
    (root / "models").mkdir()
    torch.save(encoder.state_dict(), root / "models" / "model.pt")
    loaded = load(
        EXTRACTOR.name, bundle_dir=str(root.parent), workflow_type="inference", device="cpu"
    )
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_its_zip_embeds_without_the_package(
    inference: dict[str, Any], ct: Path, tmp_path: Path
) -> None:
    """From another folder, by a Python that has no `ctfm`."""
    packed = release.pack(EXTRACTOR, tmp_path / "dist")
    with zipfile.ZipFile(packed.path) as archive:
        archive.extractall(tmp_path / "unpacked")
    root = tmp_path / "unpacked" / EXTRACTOR.name
    arguments = {
        **{key: value for key, value in inference.items() if key != "bundle"},
        **SMALL,
        "config_file": [str(root / "configs" / name) for name in ("inference.json", "mir.yaml")],
        "bundle_root": str(root),
        "input": str(ct),
        "network_def::init_filters": 4,
        "network_def::blocks_down": [1, 1, 1, 1, 1],
    }
    (tmp_path / "arguments.json").write_text(json.dumps(arguments))
    done = bare_python(tmp_path).run(
        "-m", "monai.bundle", "run", "--args_file", str(tmp_path / "arguments.json")
    )
    assert done.returncode == 0, done.stderr
    assert set(table(tmp_path).kind) == {"scan", "patch"}
    assert report(tmp_path)["settings"]["pooling"] == "min"

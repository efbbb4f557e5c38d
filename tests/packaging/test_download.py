"""The released zip arrives by `monai.bundle download` and runs where `ctfm` is not installed."""

from __future__ import annotations

import http.server
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.networks.nets import SegResNetDS

import ctfm
from bare_python import Bare, bare_python
from ctfm.phantoms.drawing import draw_torso, save_phantom
from ctfm.release import packing as release
from support import ROOT, WHOLE_BODY

NAME = WHOLE_BODY.name
NARROW = {"init_filters": 4, "blocks_down": [1, 1, 1, 1, 1], "dsdepth": 2}


@pytest.fixture
def bare(tmp_path: Path) -> Bare:
    return bare_python(tmp_path)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """Address of a release on a server of this machine."""
    packed = release.pack(WHOLE_BODY, tmp_path / "dist")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "dist"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{packed.path.name}"
        server.shutdown()


def network_definition(config: Path) -> dict[str, object]:
    definition = ConfigParser.load_config_file(str(config))["network_def"]
    return {k: v for k, v in definition.items() if k != "_target_"} | NARROW


def test_downloaded_bundle_segments_a_scan_without_the_package(
    bare: Bare, url: str, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    fetched = bare.run(
        "-m",
        "monai.bundle",
        "download",
        "--name",
        NAME,
        "--url",
        url,
        "--bundle_dir",
        str(models),
        "--progress",
        "False",
    )
    assert fetched.returncode == 0, fetched.stderr
    bundle = models / NAME
    with zipfile.ZipFile(tmp_path / "dist" / url.rpartition("/")[2]) as archive:
        packed = {models / name for name in archive.namelist()}
    assert {path for path in bundle.rglob("*") if path.is_file()} == packed

    config = bundle / "configs" / "inference.json"
    torch.manual_seed(0)
    weights = SegResNetDS(**network_definition(config)).state_dict()
    (bundle / "models").mkdir()
    torch.save(weights, bundle / "models" / "model.pt")
    scan = tmp_path / "scans" / "patient.nii.gz"
    save_phantom(draw_torso(spacing=(8, 8, 8), axcodes="LPS"), scan)
    narrow = [text for k, v in NARROW.items() for text in (f"--network_def#{k}", str(v))]
    segmented = bare.run(
        "-m",
        "monai.bundle",
        "run",
        "--config_file",
        str(config),
        "--bundle_root",
        str(bundle),
        "--input",
        str(scan),
        "--output_dir",
        str(tmp_path / "out"),
        "--patch",
        "[32,32,32]",
        "--spacing",
        "[8,8,8]",
        *narrow,
    )
    assert segmented.returncode == 0, segmented.stdout + segmented.stderr
    assert (bundle / "ctfm" / "__pycache__").is_dir()
    results = sorted((tmp_path / "out").rglob("*.nii.gz"))
    assert len(results) == 1
    assert results[0].name.startswith("patient")
    labels, image = nib.load(results[0]), nib.load(scan)
    assert labels.shape == image.shape
    np.testing.assert_allclose(labels.affine, image.affine, atol=1e-4)
    values = np.asarray(labels.dataobj)
    assert values.min() >= 0
    assert values.max() <= 117
    assert len(np.unique(values)) > 1


@pytest.mark.doors
def test_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    for module in ("pip", "setuptools"):
        if find_spec(module) is None:
            pytest.skip(f"building a wheel without a network needs {module} in this environment")
    project = tmp_path / "project"  # setuptools leaves build/ where it builds
    litter = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "scripts", project / "scripts", ignore=litter)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, project / name)
    built = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            ".",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "--wheel-dir",
            str(tmp_path),
        ],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    package = Path(ctfm.__file__).parent
    files = [
        *package.rglob("*.py"),
        *package.rglob("*.pyi"),
        *package.rglob("assets/*"),
        package / "py.typed",
    ]
    sources = {f"ctfm/{path.relative_to(package).as_posix()}" for path in files}
    assert {n for n in names if ".dist-info/" not in n} == sources
    assert any(n.endswith("LICENSE") for n in names)

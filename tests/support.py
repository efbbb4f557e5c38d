"""What tests share: tiny CTs with labels, a tiny network's overrides, ways to run a bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.bundle import ConfigWorkflow

ROOT = Path(__file__).parents[1]
WHOLE_BODY = ROOT / "bundles" / "ct_fm_whole_body_segmentation"
PRETRAIN = ROOT / "bundles" / "ct_fm_pretrain"
TUMORS = ROOT / "bundles" / "ct_fm_msd_tumor_segmentation"
TRIAGE = ROOT / "bundles" / "ct_fm_head_ct_triage"
EXTRACTOR = ROOT / "bundles" / "ct_fm_feature_extractor"

#: Overrides with which the bundle's full configs run in a second.
#: A patch of 32 would not do: on CPUs the bfloat16 gradient of 2x2x2 maps is not reproducible.
TINY: dict[str, Any] = {
    "network_def::init_filters": 4,
    "network_def::blocks_down": [1, 1, 1, 1, 1],
    "network_def::dsdepth": 2,
    "patch": [48, 48, 48],
    "spacing": [3.0, 3.0, 3.0],
    "num_workers": 0,
}
#: The same for pretraining.
TINY_PRETRAIN: dict[str, Any] = {
    "network_def::init_filters": 4,
    "network_def::blocks_down": [1, 1, 1, 1, 1],
    "embedding_dim": 64,
    "patch": [16, 32, 32],
    "spacing": [3.0, 3.0, 3.0],
    "num_workers": 0,
}
#: The same for triage: voxels so large that a whole head fits.
TINY_TRIAGE: dict[str, Any] = {
    "network_def::init_filters": 4,
    "network_def::blocks_down": [1, 1, 1, 1, 1],
    "network_def::hidden_channels": [8],
    "patch": [16, 32, 32],
    "spacing": [12.0, 7.0, 7.0],
    "num_workers": 0,
}


def make_ct(seed: int = 0, side: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """A round body in air with a liver (5), a spleen (1) and a left kidney (3), axes RAS."""
    rng = np.random.default_rng(seed)
    points = np.stack(np.meshgrid(*[np.linspace(-1, 1, side)] * 3, indexing="ij"))
    jitter = rng.uniform(-0.05, 0.05, 3)[:, None, None, None]

    def ball(center: tuple[float, float, float], radius: float) -> np.ndarray:
        where = np.array(center)[:, None, None, None] + jitter
        return ((points - where) ** 2).sum(0) < radius**2

    hu = np.full((side,) * 3, -1000.0)
    label = np.zeros((side,) * 3, np.uint8)
    hu[ball((0, 0, 0), 0.85)] = -80
    for class_id, value, center, radius in (
        (5, 110, (0.35, 0.2, 0.2), 0.35),
        (1, 300, (-0.4, -0.1, 0.3), 0.25),
        (3, 600, (-0.3, -0.3, -0.35), 0.22),
    ):
        inside = ball(center, radius)
        hu[inside], label[inside] = value, class_id
    hu += rng.normal(0, 10, hu.shape)
    return hu.round().astype(np.int16), label


def save(array: np.ndarray, path: Path, affine: np.ndarray | None = None) -> Path:
    """Write NIfTI with its orientation stated."""
    affine = np.diag([3.0, 3.0, 3.0, 1.0]) if affine is None else affine
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def config_files(*stems: str, bundle: Path = WHOLE_BODY) -> list[str]:
    """Paths of a bundle's configs, in order."""
    found = [next((bundle / "configs").glob(f"{stem}.*")) for stem in stems]
    return [str(path) for path in found]


def overridden(bundle: Path, overrides: dict[str, Any]) -> dict[str, Any]:
    """Overrides of a tiny run; ids are spelled with ``__``."""
    narrow = {PRETRAIN: TINY_PRETRAIN, TRIAGE: TINY_TRIAGE, EXTRACTOR: TINY_PRETRAIN}
    tiny = narrow.get(bundle, TINY)
    return {**tiny, **{key.replace("__", "::"): value for key, value in overrides.items()}}


def run_here(*stems: str, bundle: Path = WHOLE_BODY, **overrides: Any) -> ConfigWorkflow:
    """Initialize and run stacked configs in this process; ids are spelled with ``__``."""
    workflow = ConfigWorkflow(
        config_file=config_files(*stems, bundle=bundle),
        workflow_type="infer" if stems[0] == "inference" else "train",
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        bundle_root=str(bundle),
        **overridden(bundle, overrides),
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return workflow


def command(tmp_path: Path, *stems: str, bundle: Path = WHOLE_BODY, **overrides: Any) -> list[str]:
    """What a user types; the arguments go through a file, as ids and lists need no quoting then."""
    arguments = {
        "config_file": config_files(*stems, bundle=bundle),
        "bundle_root": str(bundle),
        **overridden(bundle, overrides),
    }
    file = tmp_path / f"arguments_{len(list(tmp_path.glob('arguments_*')))}.json"
    file.write_text(json.dumps(arguments))
    return ["-m", "monai.bundle", "run", "--args_file", str(file)]


def run_apart(
    tmp_path: Path, *stems: str, bundle: Path = WHOLE_BODY, **overrides: Any
) -> subprocess.CompletedProcess[str]:
    """Run stacked configs in a process of its own, from another folder."""
    return subprocess.run(
        [sys.executable, *command(tmp_path, *stems, bundle=bundle, **overrides)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

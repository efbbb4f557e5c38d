"""What benchmarks that train share: a bundle run as a user runs it, and a narrow pretraining."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
#: Real CT beside the checkout.
DATA = ROOT.parent / "shared" / "data"
#: A pretraining of some minutes on two CPU cores; the caller adds patch, spacing and epochs.
NARROW_PRETRAINING: dict[str, Any] = {
    "iterations": 40,
    "batch_size": 2,
    "learning_rate": 0.001,
    "warmup_epochs": 1,
    "patches_at_once": 10,
    "monitor_iterations": 5,
    "num_workers": 1,
    "network_def::init_filters": 8,
    "network_def::blocks_down": [1, 1, 1, 1, 1],
    "embedding_dim": 128,
}


def bundle_arguments(name: str, stems: Sequence[str], **overrides: Any) -> dict[str, Any]:
    """Arguments of `monai.bundle run` for stacked configs of a bundle."""
    root = ROOT / "bundles" / name
    configs = [str(next((root / "configs").glob(f"{stem}.*"))) for stem in stems]
    return {"config_file": configs, "bundle_root": str(root), **overrides}


def run_bundle(name: str, stems: Sequence[str], folder: Path, **overrides: Any) -> float:
    """Run stacked configs of a bundle in a process of its own.

    Returns:
        Wall seconds.
    """
    file = folder / "arguments.json"
    file.write_text(json.dumps(bundle_arguments(name, stems, **overrides)))
    start = time.perf_counter()
    command = [sys.executable, "-m", "monai.bundle", "run", "--args_file", str(file)]
    subprocess.run(command, cwd=folder, check=True)
    return time.perf_counter() - start

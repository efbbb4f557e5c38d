"""What tests of the triage bundle share: small heads with and without a bleed, ways to run it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ctfm.base.errors import one_line
from ctfm.phantoms.drawing import draw_head, save_phantom
from support import TRIAGE, command, run_apart, run_here


def make_heads(root: Path, counts: tuple[int, int, int] = (8, 6, 12)) -> Path:
    """Heads of 6 mm voxels; in each list every second one bleeds. Two scans a subject."""
    rows: dict[str, list[dict[str, Any]]] = {}
    number = 0
    for split, count in zip(("training", "validation", "test"), counts, strict=True):
        rows[split] = []
        for i in range(count):
            label = i % 2
            name = f"h{number:03d}.nii.gz"
            save_phantom(draw_head(number, (6.0, 6.0, 6.0), bleed=bool(label)), root / name)
            rows[split].append({"image": name, "label": label, "patient": f"p{number // 2}"})
            number += 1
    (root / "datalist.json").write_text(json.dumps(rows))
    return root


def overrides(data: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Overrides with which a tiny training runs."""
    return {
        "dataset_dir": str(data),
        "output_dir": str(out / "out"),
        "ckpt_dir": str(out / "models"),
        "epochs": 1,
        "batch_size": 4,
        "learning_rate": 0.002,
        "precise_statistics_batches": 2,
        **changes,
    }


def inference(scans: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Overrides with which a tiny inference runs."""
    return {
        "input": str(scans),
        "output_dir": str(out / "results"),
        "ckpt_dir": str(out / "models"),
        "progress": False,
        **changes,
    }


run_triage = partial(run_here, bundle=TRIAGE)
run_triage_apart = partial(run_apart, bundle=TRIAGE)
triage_command = partial(command, bundle=TRIAGE)


def refusal(*stems: str, **options: Any) -> str:
    """The one line that a run in this process ends in."""
    try:
        run_triage(*stems, **options)
    except Exception as error:  # MONAI wraps what a component raises in errors of its own
        line = one_line(error)
        assert line is not None, "not an error of the user"
        return line
    return pytest.fail("it ran")

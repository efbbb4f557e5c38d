"""What tests of the tumour bundle share: phantoms with tumours in folds, ways to run the bundle."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from ctfm.base.errors import one_line
from ctfm.contract.tumors import TUMORS as TASKS
from ctfm.datalists.datasets.decathlon import msd
from ctfm.phantoms.decathlon import write_dataset
from support import TUMORS, command, run_apart, run_here

SPACING = (6.0, 6.0, 6.0)
TASK_NAMES = sorted(TASKS)

run_tumor = partial(run_here, bundle=TUMORS)
run_tumor_apart = partial(run_apart, bundle=TUMORS)
tumor_command = partial(command, bundle=TUMORS)


def make_task(root: Path, name: str = "lung", subjects: int = 4, folds: int = 2) -> Path:
    """A task of the Decathlon in miniature, in folds; one scan without a label to infer on."""
    folder = write_dataset(root, TASKS[name].decathlon, subjects, tests=1, spacing=SPACING)
    msd(folder, folder / "datalist.json", folds=folds, workers=1)
    return folder


def overrides(data: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Overrides with which a tiny training runs, without pretrained weights."""
    return {
        "dataset_dir": str(data),
        "output_dir": str(out / "out"),
        "ckpt_dir": str(out / "models"),
        "spacing": list(SPACING),
        "epochs": 1,
        "val_interval": 1,
        "batch_size": 1,
        "learning_rate": 0.005,
        "precise_statistics_batches": 1,
        "val_overlap": 0.25,
        **changes,
    }


def relabel(data: Path, rows: int, change: dict[int, int]) -> None:
    """Exchange values in the first label files of a data set."""
    for path in sorted((data / "labelsTr").glob("*.nii.gz"))[:rows]:
        image = nib.load(path)
        label = np.array(image.dataobj)
        for old, new in change.items():
            label[label == old] = new
        nib.save(nib.Nifti1Image(label, image.affine, image.header), path)


def folds_of(data: Path) -> dict[str, int]:
    """Case -> fold, by the datalist."""
    rows = json.loads((data / "datalist.json").read_text())["training"]
    return {Path(row["image"]).name.removesuffix(".nii.gz"): row["fold"] for row in rows}


def refusal(*stems: str, **options: Any) -> str:
    """The one line that a run in this process ends in."""
    try:
        run_tumor(*stems, **options)
    except Exception as error:  # MONAI wraps what a component raises in errors of its own
        line = one_line(error)
        assert line is not None, "not an error of the user"
        return line
    return pytest.fail("it ran")

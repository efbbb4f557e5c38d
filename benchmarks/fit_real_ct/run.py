"""Does the whole-body bundle learn a real CT, stay there, and give the same labels on any grid?

A narrow network is trained through the bundle on one real CT (3 mm, class group muscles), from
random weights, on the CPU. Then `monai.bundle run` infers the scan as it is stored and a copy with
its axes permuted and flipped. The peer is the same training with plain BatchNorm running
statistics, as stock bundles have them.

    make bench NAME=fit_real_ct ARGS="--data FOLDER [--no-peer]"

FOLDER holds ct_torso_3mm.nii.gz and ct_torso_3mm_labels_fast.nii.gz, which are test files of
TotalSegmentator.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.bundles import DATA, run_bundle
from benchmarks.reporting import Row, report
from ctfm.contract import class_group

BUNDLE = "ct_fm_whole_body_segmentation"
IMAGE, LABEL = "ct_torso_3mm.nii.gz", "ct_torso_3mm_labels_fast.nii.gz"
GROUP = "muscles"
CROPS_PER_EPOCH = 40
NARROW = {"network_def::init_filters": 8, "patch": [48, 80, 80], "group": GROUP}
TRAINING = {
    "epochs": 26,
    "val_interval": 2,
    "batch_size": 1,
    "learning_rate": 0.002,
    "num_workers": 0,
    "precise_statistics_batches": 40,
}
PLAIN = {"precise_statistics_batches": 0}


def train(folder: Path, data: Path, **overrides: Any) -> tuple[float, list[float]]:
    """Train on the one scan; wall seconds and the mean Dice of each evaluation."""
    folder.mkdir()
    row = {"image": str(data / IMAGE), "label": str(data / LABEL)}
    datalist = folder / "datalist.json"
    datalist.write_text(json.dumps({"training": [row] * CROPS_PER_EPOCH, "validation": [row]}))
    paths = {
        "datalist": str(datalist),
        "dataset_dir": str(data),
        "ckpt_dir": str(folder / "models"),
        "output_dir": str(folder / "out"),
        "cache_dir": str(folder / "cache"),
    }
    stems = ["train", "from_scratch", "group", "low_res"]
    seconds = run_bundle(BUNDLE, stems, folder, **paths, **NARROW, **{**TRAINING, **overrides})
    dice: dict[int, float] = {}
    for file in (folder / "out" / "tensorboard").iterdir():
        events = EventAccumulator(str(file)).Reload()
        if "val_mean_dice" in events.Tags()["scalars"]:
            dice.update({e.step: e.value for e in events.Scalars("val_mean_dice")})
    return seconds, [dice[step] for step in sorted(dice)]


def turned(path: Path, target: Path) -> Path:
    """A copy of the scan with its axes permuted and two of them flipped."""
    image = nib.load(path)
    change = ornt_transform(io_orientation(image.affine), axcodes2ornt("IPR"))
    array = apply_orientation(np.asanyarray(image.dataobj), change)
    nib.save(nib.Nifti1Image(array, image.affine @ inv_ornt_aff(change, image.shape)), target)
    return target


def mean_dice(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over the group's classes that are in `b`."""
    present = [i for i in class_group(GROUP).v2_ids if (b == i).any()]
    pairs = [(a == i, b == i) for i in present]
    return float(np.mean([2 * (x & y).sum() / (x.sum() + y.sum()) for x, y in pairs]))


def canonical(path: Path) -> np.ndarray:
    return np.asanyarray(nib.as_closest_canonical(nib.load(path)).dataobj)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--no-peer", action="store_true", help="train ours alone")
    options = parser.parse_args()
    if not (options.data / IMAGE).exists():
        sys.exit(f"error: {options.data} has no {IMAGE}: pass --data FOLDER")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds, ours = train(folder / "ours", options.data)
        plain = None if options.no_peer else train(folder / "plain", options.data, **PLAIN)[1]
        scans = folder / "scans"
        scans.mkdir()
        stored = scans / "stored.nii.gz"
        stored.symlink_to(options.data / IMAGE)
        copies = [stored, turned(stored, scans / "turned.nii.gz")]
        checkpoint = str(folder / "ours" / "models" / "model.pt")
        stems, results = ["inference", "group", "low_res"], folder / "results"
        run_bundle(
            BUNDLE,
            stems,
            folder,
            **NARROW,
            input=str(scans),
            output_dir=str(results),
            checkpoint=checkpoint,
        )
        labels = [results / f"{path.name[:-7]}_seg.nii.gz" for path in copies]
        for copy, label in zip(copies, labels, strict=True):
            assert nib.load(copy).shape == nib.load(label).shape, "on the grid of its scan"
            np.testing.assert_allclose(nib.load(copy).affine, nib.load(label).affine, atol=1e-4)
        on_stored, on_turned = (canonical(path) for path in labels)
        truth = canonical(options.data / LABEL)
        fitted, agreed = mean_dice(on_stored, truth), mean_dice(on_turned, on_stored)
        lowest, last = (min(plain[-3:]), plain[-1]) if plain else (None, None)
        peer = "plain BatchNorm statistics"
        rows = [
            Row(
                "Dice, lowest of the last 3 evaluations", peer, min(ours[-3:]), lowest, "", ">= 0.9"
            ),
            Row("Dice, last evaluation", peer, ours[-1], last, "", ">= 0.9"),
            Row("training, wall time", None, seconds, None, "s", "<= 900"),
            Row("Dice, inference against the labels", None, fitted, None, "", None),
            Row("Dice, turned grid against stored grid", None, agreed, None, "", ">= 0.98"),
        ]
        report("fit_real_ct", rows, evaluations=ours, evaluations_plain=plain, **TRAINING)


if __name__ == "__main__":
    main()

"""Does the triage bundle find bleeds in phantoms, are its probabilities sound, is reading fast?

200 heads, half of them with a subdural or intracerebral bleed, are drawn; a narrow network is
trained through the bundle from random weights, calibrated on the validation list, and evaluated on
heads that neither saw. Windows are channels: stacked along depth, as published, an epoch takes four
times as long, and from random weights nothing was learnt in ten epochs. Then one head of clinical
size is brought from file to network input, by the bundle's transforms and by MONAI's one after the
other, each in a process of its own, in turn.

    make bench NAME=triage ARGS="[--only preprocessing]"
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    Compose,
    ConcatItemsd,
    CopyItemsd,
    CropForegroundd,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    ResizeWithPadOrCropd,
    ScaleIntensityRanged,
    Spacingd,
)

from benchmarks.bundles import run_bundle
from benchmarks.reporting import Row, report
from ctfm.contract import HEAD_CT_TRIAGE as TASK
from ctfm.evaluation import evaluate, predictions_of, read_calibration
from ctfm.phantoms import draw_head, save_phantom
from ctfm.triage import HuWindowsd, LoadHeadd, StackWindowsd

BUNDLE = "ct_fm_head_ct_triage"
COUNTS = {"training": 120, "validation": 40, "test": 40}
DRAWN = (3.0, 3.0, 4.0)
NARROW = {
    "network_def::init_filters": 8,
    "network_def::blocks_down": [1, 1, 1, 1],
    "network_def::hidden_channels": [32],
    "spacing": [6.0, 3.5, 3.5],
    "patch": [32, 56, 56],
}
TRAINING = {
    "epochs": 110,
    "batch_size": 4,
    "learning_rate": 0.001,
    "num_workers": 0,
    "precise_statistics_batches": 15,
    "seed": 0,
}
#: A head of clinical size: about 430 x 560 pixels, 200 slices.
CLINICAL = (0.45, 0.45, 1.25)
ROUNDS = 5
#: In each process, after one to warm up.
READS = 5


def draw(folder: Path) -> None:
    """Heads with a datalist; every second one bleeds."""
    rows: dict[str, list[dict[str, Any]]] = {}
    number = 0
    for split, count in COUNTS.items():
        rows[split] = []
        for i in range(count):
            name = f"h{number:03d}.nii.gz"
            save_phantom(draw_head(number, DRAWN, bleed=i % 2 == 1), folder / name)
            rows[split].append({"image": name, "label": i % 2})
            number += 1
    (folder / "datalist.json").write_text(json.dumps(rows))


def learn(folder: Path) -> list[Row]:
    """Train, calibrate, evaluate."""
    draw(folder)
    options = {
        "dataset_dir": str(folder),
        "ckpt_dir": str(folder / "models"),
        "output_dir": str(folder / "out"),
        "cache_dir": str(folder / "cache"),
        **NARROW,
        **TRAINING,
    }
    seconds = run_bundle(BUNDLE, ["train", "channels", "from_scratch"], folder, **options)
    run_bundle(BUNDLE, ["train", "channels", "evaluate"], folder, **options)
    with (folder / "out" / "predictions.csv").open() as file:
        table = list(csv.DictReader(file))
    labels = [int(row["label"]) for row in table]
    logits = [float(row["logit"]) for row in table]
    chosen = read_calibration(folder / "models" / "calibration.json")
    after = figures(labels, logits, chosen.temperature, chosen.points)
    before = figures(labels, logits, 1.0, chosen.points)
    fixed = "at the threshold 0.5"
    return [
        Row("AUROC, held-out heads", None, after["auroc", ""], None, "", ">= 0.95"),
        Row("training, wall time", None, seconds, None, "s", "<= 600"),
        Row(
            "calibration error, by temperature",
            "as trained",
            after["ece", ""],
            before["ece", ""],
            "",
            None,
            False,
        ),
        Row(
            "F1, Youden's point",
            fixed,
            after["f1", "youden"],
            after["f1", "fixed"],
            "",
            "ratio >= 1",
            True,
        ),
        Row(
            "F1, sensitive point",
            fixed,
            after["f1", "sensitive"],
            after["f1", "fixed"],
            "",
            "ratio >= 1",
            True,
        ),
        Row("temperature", None, chosen.temperature, None, "", None),
    ]


def figures(labels: Any, logits: Any, temperature: float, points: Any) -> dict[Any, float]:
    """(figure, operating point) -> value."""
    cases = predictions_of(labels, {"score": logits}, logits=True, temperature=temperature)
    found = evaluate(cases, {"score": list(points)}, resamples=100)
    return {(one.figure, one.point): one.value for one in found.figures}


def ours() -> Compose:
    """The bundle's transforms, checks of the input included."""
    return Compose(
        [
            LoadHeadd("image", TASK.spacing or (), TASK.patch or (), head_check=True),
            HuWindowsd("image", TASK.windows),
            StackWindowsd("image"),
        ]
    )


def published() -> Compose:
    """The same by MONAI's own transforms, without checks."""
    names = [f"window_{i}" for i in range(len(TASK.windows))]
    scaled = [
        ScaleIntensityRanged(name, low, high, 0, 1, clip=True)
        for name, (low, high) in zip(names, TASK.windows, strict=True)
    ]
    return Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes=TASK.axcodes, labels=None),
            Spacingd("image", pixdim=TASK.spacing, mode="bilinear"),
            CropForegroundd("image", source_key="image", allow_smaller=True),
            ResizeWithPadOrCropd("image", TASK.patch, mode="minimum"),
            CopyItemsd("image", times=len(names), names=names),
            *scaled,
            ConcatItemsd(names, "image", dim=1),
        ]
    )


SIDES: dict[str, Callable[[], Compose]] = {"ours": ours, "MONAI": published}


def work(side: str, path: str, out: str) -> None:
    """In a process of its own: seconds from file to tensor after a warm-up, and the tensor."""
    transform = SIDES[side]()
    seconds = []
    for _ in range(READS + 1):
        start = time.perf_counter()
        tensor = transform({"image": path})["image"]
        seconds.append(time.perf_counter() - start)
    np.save(out, tensor.numpy())
    print(statistics.median(seconds[1:]))


def preprocess(folder: Path) -> list[Row]:
    """Seconds from file to tensor, and the largest difference between the two tensors."""
    phantom = draw_head(0, CLINICAL, bleed=True)
    rows = []
    for suffix in (".nii.gz", ".nii"):
        path = folder / f"clinical{suffix}"
        save_phantom(phantom, path)
        seconds: dict[str, list[float]] = {side: [] for side in SIDES}
        for _ in range(ROUNDS):
            for side in SIDES:
                command = [
                    sys.executable,
                    __file__,
                    "--worker",
                    side,
                    str(path),
                    str(folder / f"{side}.npy"),
                ]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                seconds[side].append(float(done.stdout.split()[-1]))
        medians = {side: statistics.median(some) for side, some in seconds.items()}
        difference = np.abs(np.load(folder / "ours.npy") - np.load(folder / "MONAI.npy")).max()
        rows += [
            Row(
                f"file to tensor, {suffix}",
                "MONAI's transforms",
                medians["ours"],
                medians["MONAI"],
                "s",
                "ratio >= 4",
                False,
            ),
            Row(f"largest difference, {suffix}", None, float(difference), None, "", "<= 0.001"),
        ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("learning", "preprocessing"))
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(*options.worker)
        return
    rows = []
    with tempfile.TemporaryDirectory() as name:
        if options.only != "learning":
            rows += preprocess(Path(name))
        if options.only != "preprocessing":
            rows += learn(Path(name))
    settings = {"heads": COUNTS, "drawn_mm": DRAWN, "clinical_mm": CLINICAL, **NARROW, **TRAINING}
    report("triage", rows, threads=torch.get_num_threads(), rounds=ROUNDS, **settings)


if __name__ == "__main__":
    main()

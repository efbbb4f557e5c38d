"""Does pretraining learn, on a CPU in minutes, and does its loader keep up?

A narrow encoder is pretrained through the bundle, from several seeds, on two real CTs (the lower
part of a torso, a head) and phantoms. Then `ctfm rank` looks for organs in scans that it
did not train on, against encoders with random weights: among phantoms, and between a phantom and
the upper part of the real torso. Last, an iteration is taken apart.

    make bench NAME=pretraining ARGS="--data FOLDER [--seeds 3]"

FOLDER holds ct_torso_3mm.nii.gz with its labels, which are test files of TotalSegmentator, and
ct_head_angio.nii.gz.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from monai.engines.utils import IterationEvents
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.bundles import DATA, NARROW_PRETRAINING, bundle_arguments, run_bundle
from benchmarks.reporting import Row, report
from ctfm.embedding import WindowOptions
from ctfm.loading import build_store
from ctfm.phantoms import draw_torso, save_phantom
from ctfm.protocols import LabelledOptions, ReadingOptions, rank_checkpoints

BUNDLE, STEMS = "ct_fm_pretrain", ("train", "store")
TORSO, HEAD = "ct_torso_3mm.nii.gz", "ct_head_angio.nii.gz"
TORSO_LABELS = "ct_torso_3mm_labels_fast.nii.gz"
#: Of the torso's 112 slices, those that are trained on; the others are held out.
TRAINED_SLICES = 50
TRAIN_SEEDS, HELD_OUT_SEEDS = range(8), range(100, 104)
SPACING, PATCH = (3.0, 3.0, 3.0), (32, 32, 32)
CROPS = 15
CHANCE = 1 / (2 * CROPS - 1)
TRAINING: dict[str, Any] = {
    **NARROW_PRETRAINING,
    "epochs": 12,
    "patch": list(PATCH),
    "spacing": list(SPACING),
}
#: An iteration is taken apart at the published size of patches, where the loader has most to do.
STAGES: dict[str, Any] = {
    **TRAINING,
    "epochs": 1,
    "iterations": 8,
    "patch": [32, 128, 128],
    "patches_at_once": 2,
}


def prepare(folder: Path, data: Path) -> str:
    """Write the scans, their datalist and the store."""
    scan, labels = nib.load(data / TORSO), nib.load(data / TORSO_LABELS)
    nib.save(scan.slicer[:, :, :TRAINED_SLICES], folder / "torso.nii.gz")
    real = {"image": "upper_torso.nii.gz", "label": "upper_torso_labels.nii.gz"}
    for part, name in ((scan, real["image"]), (labels, real["label"])):
        nib.save(part.slicer[:, :, TRAINED_SLICES:], folder / name)
    (folder / "head.nii.gz").symlink_to(data / HEAD)
    training = ["torso.nii.gz", "head.nii.gz"]
    for seed in TRAIN_SEEDS:
        training.append(f"phantom_{seed}.nii.gz")
        save_phantom(draw_torso(seed), folder / training[-1])
    held_out = []
    for seed in HELD_OUT_SEEDS:
        names = {"image": f"held_out_{seed}.nii.gz", "label": f"held_out_{seed}_labels.nii.gz"}
        save_phantom(draw_torso(seed), folder / names["image"], folder / names["label"])
        held_out.append(names)
    content = {
        "training": [{"image": name} for name in training],
        "validation": held_out,
        "test": [real, held_out[0]],
    }
    datalist = folder / "datalist.json"
    datalist.write_text(json.dumps(content))
    only = folder / "training.json"
    only.write_text(json.dumps({"training": content["training"]}))
    # the head has its background masked, which a training can live with
    build_store(
        str(only),
        str(folder / "store"),
        "pretraining",
        spacing=SPACING,
        workers=1,
        input_check="warn",
    )
    return str(datalist)


def places(folder: Path, name: str) -> dict[str, str]:
    """Where a training reads and writes."""
    out = str(folder / name)
    return {"store": str(folder / "store"), "output_dir": out, "ckpt_dir": out}


def train(folder: Path, seed: int) -> tuple[Path, float, list[float]]:
    """Pretrain as a user does; checkpoint, seconds, and top-1 accuracy of each epoch."""
    name = f"seed_{seed}"
    settings = {**places(folder, name), **TRAINING, "seed": seed}
    seconds = run_bundle(BUNDLE, STEMS, folder, **settings)
    points: dict[int, float] = {}
    for path in (folder / name / "tensorboard").iterdir():
        events = EventAccumulator(str(path)).Reload()
        if "top1" in events.Tags()["scalars"]:
            points.update({e.step: e.value for e in events.Scalars("top1")})
    length = TRAINING["iterations"]
    of_epoch = defaultdict(list)
    for step in sorted(points):
        of_epoch[(step - 1) // length].append(points[step])
    checkpoint = folder / f"{name}.pt"
    checkpoint.write_bytes((folder / name / "last.pt").read_bytes())
    return checkpoint, seconds, [statistics.mean(of_epoch[epoch]) for epoch in sorted(of_epoch)]


def distances(folder: Path, datalist: str, split: str) -> tuple[list[float], list[float]]:
    """Median distance in mm of each trained and of each random encoder."""
    checkpoints = [str(path) for path in sorted(folder.glob("seed_*.pt"))]
    out = folder / f"rank_{split}"
    print(
        rank_checkpoints(
            checkpoints,
            datalist,
            str(out),
            LabelledOptions(split=split),
            windows=WindowOptions(spacing=SPACING, patch=PATCH),
            reading=ReadingOptions(progress=False),
        )
    )
    found = json.loads((out / "rank.json").read_text())
    ours, random = ([e["median_mm"] for e in found[k]] for k in ("checkpoints", "random"))
    return ours, random


def stages(folder: Path) -> None:
    """Print the share of an iteration that each stage takes, as JSON on the last line."""
    options = bundle_arguments(BUNDLE, STEMS, **places(folder, "stages"), **STAGES)
    configs, root = options.pop("config_file"), options.pop("bundle_root")
    workflow = ConfigWorkflow(
        config_file=configs,
        workflow_type="train",
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        logging_file=False,
        bundle_root=root,
        **options,
    )
    workflow.initialize()
    trainer = workflow.trainer
    spent: dict[str, list[float]] = defaultdict(list)
    clock = [time.perf_counter()]

    def ends(stage: str) -> Any:
        def note(_engine: Any) -> None:
            now = time.perf_counter()
            spent[stage].append(now - clock[0])
            clock[0] = now

        return note

    trainer.add_event_handler(Events.GET_BATCH_COMPLETED, ends("loading"))
    trainer.add_event_handler(IterationEvents.FORWARD_COMPLETED, ends("forward"))
    trainer.add_event_handler(IterationEvents.LOSS_COMPLETED, ends("loss"))
    trainer.add_event_handler(IterationEvents.BACKWARD_COMPLETED, ends("backward"))
    trainer.add_event_handler(IterationEvents.MODEL_COMPLETED, ends("optimizer"))
    trainer.add_event_handler(Events.ITERATION_COMPLETED, ends("monitoring"))
    workflow.run()
    # the first iteration waits for the first batch, and warms up
    print(json.dumps({stage: statistics.median(times[1:]) for stage, times in spent.items()}))


def stage_rows(folder: Path) -> list[Row]:
    command = [sys.executable, __file__, "--stages", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds: Mapping[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    whole = sum(seconds.values())
    rows = [Row("iteration", None, whole, None, "s", None)]
    for stage, value in seconds.items():
        target = "<= 5" if stage == "loading" else None
        rows.append(Row(f"iteration: {stage}", None, 100 * value / whole, None, "%", target))
    return rows


def learning_rows(folder: Path, data: Path, seeds: int) -> tuple[list[Row], dict[str, Any]]:
    datalist = prepare(folder, data)
    runs = [train(folder, seed) for seed in range(seeds)]
    seconds = [run[1] for run in runs]
    last = [run[2][-1] for run in runs]
    rows = [
        Row("training, wall time of all seeds", None, sum(seconds), None, "s", "<= 1200"),
        Row(
            "top-1 accuracy in the last epoch",
            "chance, 1 of 29",
            statistics.median(last),
            CHANCE,
            "",
            "ratio >= 10",
        ),
    ]
    found: dict[str, Any] = {"top1_by_epoch": [run[2] for run in runs]}
    for split, title, target in (
        ("validation", "between held-out phantoms", "ratio >= 1.5"),
        ("test", "between the held-out part of the real torso and a phantom", None),
    ):
        ours, random = distances(folder, datalist, split)
        found[split] = {"trained_mm": ours, "random_mm": random}
        figure = f"median distance {title}"
        peer = "random encoder"
        medians = statistics.median(ours), statistics.median(random)
        rows.append(Row(figure, peer, *medians, "mm", target, larger_is_better=False))
    return rows, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--stages", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stages:
        stages(options.stages)
        return
    if not (options.data / TORSO).exists():
        sys.exit(f"error: {options.data} has no {TORSO}: pass --data FOLDER")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows, found = learning_rows(folder, options.data.resolve(), options.seeds)
        rows += stage_rows(folder)
    report("pretraining", rows, **found, **TRAINING)


if __name__ == "__main__":
    main()

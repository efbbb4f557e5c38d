"""Auto3DSeg end to end: this project's template against the stock segresnet template.

Both get the same phantoms with liver tumours, the same folds, width, crops, epochs and learning
rate, on the CPU, from random weights: AutoRunner analyses, trains the folds, and predicts the test
files by their ensemble. Each runs in a process of its own, the two in turn, for several rounds;
medians are reported. Validation Dice is what each side reports, both at the files' resolution, over
cases and classes; predictions of the test files are scored by the same code, on their own grids.

    make bench NAME=auto3dseg ARGS="--peer FOLDER"

FOLDER holds the stock templates: `auto3dseg/algorithm_templates` of the public repository
Project-MONAI/research-contributions. They need `pip install psutil`; with mlflow installed they
need its tracking in a database, which is what they get here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import nibabel as nib
import numpy as np
import yaml

from benchmarks.reporting import Row, report
from ctfm.evaluation import segmentation_scores
from ctfm.phantoms import write_dataset

ROOT = Path(__file__).parents[2]
TASK = "Task03_Liver"
CLASSES = {1: "liver", 2: "cancer"}
FOLDS = 2
TRAINING, TESTING = 8, 2
SETTINGS = {"epochs": 30, "interval": 30, "roi_size": 48, "width": 8, "learning_rate": 0.002}
MIB = 2**20
#: Seconds between two looks at the memory.
PAUSE = 0.5


def ours_input(settings: dict[str, Any]) -> dict[str, Any]:
    """Options of our template."""
    return {
        "pretrained": None,
        "num_epochs": settings["epochs"],
        "num_epochs_per_validation": settings["interval"],
        "roi_size": [settings["roi_size"]] * 3,
        "batch_size": 1,
        "learning_rate": settings["learning_rate"],
        "network": {"init_filters": settings["width"]},
    }


def stock_input(settings: dict[str, Any]) -> dict[str, Any]:
    """The same for the stock template; it may change none of them by itself."""
    return {
        "num_epochs": settings["epochs"],
        "num_epochs_per_validation": settings["interval"],
        "roi_size": [settings["roi_size"]] * 3,
        "batch_size": 1,
        "num_images_per_batch": 1,
        "learning_rate": settings["learning_rate"],
        "network": {
            "_target_": "SegResNetDS",
            "init_filters": settings["width"],
            "blocks_down": [1, 2, 2, 4, 4],
            "norm": "INSTANCE",
            "in_channels": "@input_channels",
            "out_channels": "@output_classes",
            "dsdepth": 4,
        },
        "auto_scale_allowed": False,
        "auto_scale_batch": False,
        "early_stopping_fraction": 0,
        "num_workers": settings["stock_workers"],
    }


def engine(name: str, folder: Path, templates: str) -> None:
    """Run AutoRunner; what this process is started for."""
    from monai.apps.auto3dseg import AutoRunner

    settings = json.loads((folder / "settings.json").read_text())
    options = ours_input(settings) if name == "segresnetctfm" else stock_input(settings)
    runner = AutoRunner(
        work_dir=str(folder / name),
        input={
            "modality": "CT",
            "datalist": str(folder / "list.json"),
            "dataroot": str(folder / TASK),
            "class_names": list(CLASSES.values()),
            **options,
        },
        algos=[name],
        templates_path_or_url=templates,
        # with mlflow installed the stock template writes to it, and fails at a folder
        mlflow_tracking_uri=f"sqlite:///{folder}/mlflow.db" if name == "segresnet" else None,
    )
    runner.set_num_fold(FOLDS)
    runner.run()


class Memory(threading.Thread):
    """Watches a process and its descendants: the peak of their memory, shared parts once.

    Attributes:
        peak: bytes.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.peak = 0

    def run(self) -> None:
        """Look until the process has ended."""
        while Path(f"/proc/{self.pid}/task").exists():
            self.peak = max(self.peak, sum(self._bytes(pid) for pid in self._tree(self.pid)))
            time.sleep(PAUSE)

    def _tree(self, pid: int) -> list[int]:
        try:
            tasks = Path(f"/proc/{pid}/task").iterdir()
            children = " ".join((task / "children").read_text() for task in tasks).split()
        except OSError:
            return []
        return [pid, *(below for child in children for below in self._tree(int(child)))]

    def _bytes(self, pid: int) -> int:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            return 0
        return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def measured(name: str, folder: Path, templates: str) -> dict[str, float] | None:
    """Seconds, MiB and Dice of one run; None: it failed."""
    command = [
        sys.executable,
        str(Path(__file__).resolve()),
        "--engine",
        name,
        str(folder),
        templates,
    ]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    started = time.perf_counter()
    with (folder / f"{name}.log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
        memory = Memory(process.pid)
        memory.start()
        process.wait()
    seconds = time.perf_counter() - started
    memory.join()
    if process.returncode:
        print((folder / f"{name}.log").read_text()[-2000:])
        return None
    return {
        "seconds": seconds,
        "mib": memory.peak / MIB,
        "validation": validation_dice(folder / name),
        **test_dice(folder, name),
    }


def validation_dice(work: Path) -> float:
    """Mean over folds of what each reports as its best."""
    files = sorted(work.glob("*/model/progress.yaml"))
    assert len(files) == FOLDS, f"{work}: {len(files)} folds"
    entries = [yaml.safe_load(path.read_text())[-1] for path in files]
    return sum(float(entry["best_avg_dice_score"]) for entry in entries) / FOLDS


def test_dice(folder: Path, name: str) -> dict[str, float]:
    """Dice of the ensemble on the test files, by class, against labels that no engine has seen."""
    scores: dict[str, list[float]] = {label: [] for label in CLASSES.values()}
    truth = sorted((folder / "truth").glob("*.nii.gz"))
    for reference in truth:
        stem = reference.name.removesuffix(".nii.gz")
        (found,) = (folder / name / "ensemble_output").rglob(f"{stem}*.nii.gz")
        prediction, label = nib.load(found), nib.load(reference)
        assert np.allclose(prediction.affine, label.affine, atol=1e-3)
        maps = [np.squeeze(np.asanyarray(image.dataobj)) for image in (prediction, label)]
        for score in segmentation_scores(*maps, label.header.get_zooms()[:3], CLASSES):
            scores[score.name].append(score.dice)
    return {label: float(np.nanmean(values)) for label, values in scores.items()}


def make_task(folder: Path) -> None:
    """Phantoms with tumours, two folds, and scans to test on, whose labels lie apart."""
    write_dataset(folder / TASK, task=TASK, subjects=TRAINING + TESTING, tests=0)
    rows = json.loads((folder / TASK / "dataset.json").read_text())["training"]
    training = [{**row, "fold": n % FOLDS} for n, row in enumerate(rows[:TRAINING])]
    testing = [{"image": row["image"]} for row in rows[TRAINING:]]
    (folder / "list.json").write_text(json.dumps({"training": training, "testing": testing}))
    (folder / "truth").mkdir()
    for row in rows[TRAINING:]:
        path = folder / TASK / row["label"]
        path.rename(folder / "truth" / path.name)


def peer_templates(peer: Path | None) -> Path | None:
    """Folder of the stock templates, or None, with the reason said."""
    if peer is None:
        print("stock template: skipped: no --peer FOLDER is given")
    elif not (peer / "segresnet" / "scripts" / "algo.py").is_file():
        print(f"stock template: skipped: {peer} holds no segresnet/scripts/algo.py")
    elif find_spec("psutil") is None:
        print("stock template: skipped: it needs pip install psutil")
    else:
        return peer.absolute()
    return None


def rounds(options: argparse.Namespace, engines: dict[str, Path]) -> dict[str, list[Any]]:
    """Every engine once a round, in a fresh folder, on the same files."""
    results: dict[str, list[Any]] = {name: [] for name in engines}
    for number in range(options.rounds):
        for name, templates in engines.items():
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                make_task(folder)
                settings = {**SETTINGS, "stock_workers": options.stock_workers}
                (folder / "settings.json").write_text(json.dumps(settings))
                found = measured(name, folder, str(templates))
            print(f"round {number + 1}  {name:<14}{found}", flush=True)
            if found is not None:
                results[name].append(found)
    return results


def rows(results: dict[str, list[Any]]) -> list[Row]:
    """The figures with their targets."""

    def middle(name: str, key: str) -> float | None:
        found = [result[key] for result in results.get(name, ())]
        return median(found) if found else None

    figures = (
        ("AutoRunner, end to end", "seconds", "s", 1 / 0.7),
        ("peak memory of all its processes", "mib", "MiB", 1 / 0.7),
        ("mean Dice of the folds' validation cases", "validation", "", 1.0),
        ("Dice of the ensemble on two test files, liver", "liver", "", None),
        ("Dice of the ensemble on two test files, tumour", "cancer", "", None),
    )
    table = []
    for figure, key, unit, least in figures:
        ours, theirs = middle("segresnetctfm", key), middle("segresnet", key)
        assert ours is not None, "our template failed: its output stands above"
        target = None if theirs is None or least is None else f"ratio >= {least:.3f}"
        larger = key not in ("seconds", "mib")
        table.append(Row(figure, "stock segresnet", ours, theirs, unit, target, larger))
    return table


def main() -> None:
    """Parse, run both, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", type=Path, help="folder of the stock templates")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stock_workers", type=int, default=4, help="its own default: 4")
    parser.add_argument("--engine", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        name, folder, templates = options.engine
        engine(name, Path(folder), templates)
        return
    engines = {"segresnetctfm": ROOT / "algorithm_templates"}
    if peer := peer_templates(options.peer):
        engines["segresnet"] = peer
    results = rounds(options, engines)
    report("auto3dseg", rows(results), **SETTINGS, cases=TRAINING, folds=FOLDS, runs=results)


if __name__ == "__main__":
    main()

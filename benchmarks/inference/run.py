"""Labels of 118 classes from a sliding window: memory, seconds, and are they MONAI's?

Windows of 96x160x160, overlap 0.625, Gaussian, as CT-FM's recipe has it. Each engine runs in a
process of its own on the same volume with the same weights; medians over rounds. Memory is the peak
above what the process held when it began, with libraries warm and the input there, less the labels
that it returns.

With the stand-in network (a 3x3x3 convolution from 1 to 32 channels and the 1x1x1 head) stitching
is most of the work. Both sides run its first layer on each window; the head runs once a voxel here
and once a window there, so that it counts as stitching: what is left of the total without the first
layer. What each spends outside of its network's calls stands beside it.

    make bench NAME=inference ARGS="[--only stitching|recipe|large|nnunet] [--nnunet-python PYTHON]"

PYTHON belongs to an environment with nnunetv2, torch, torchvision and monai, in which both sides of
that comparison run; without it nnU-Net is skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.inference.recipe import write_scan, write_weights
from benchmarks.reporting import Row, report

HERE = Path(__file__).parent
ROI = [96, 160, 160]
SECTION = [256, 256]
#: The real network's volume: six windows.
SMALL = [148, 160, 220]
ROUNDS = 3
BASE = {"roi": ROI, "overlap": 0.625, "amp": False, "layout": True}
STAND_IN = {**BASE, "network": "stand-in", "layout": False}

Outcome = dict[str, float]


def run(task: dict[str, Any], rounds: int = 1, python: str = sys.executable) -> Outcome:
    """Medians over rounds, each in a process of its own."""
    found = []
    root = HERE.parents[1]
    path = os.pathsep.join([str(root), str(root / "scripts"), os.environ.get("PYTHONPATH", "")])
    # idle threads of OpenMP give their core back, for every engine alike
    environment = {**os.environ, "PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE"}
    for _ in range(rounds):
        done = subprocess.run(
            [python, str(HERE / "engines.py"), json.dumps(task)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
    medians = {key: statistics.median(one[key] for one in found) for key in found[0]}
    print(task, {key: round(value, 3) for key, value in medians.items()}, flush=True)
    return medians


def stitching(folder: Path) -> list[Row]:
    """The stand-in network at three lengths."""
    labels = str(folder / "ours.pt")
    task = {**STAND_IN, "shape": [200, *SECTION]}
    ours = run({**task, "engine": "ours", "save": labels}, ROUNDS)
    # Activations(softmax=True) and AsDiscrete(argmax=True), as CT-FM's recipe has them
    monai = run({**task, "engine": "monai", "softmax": True}, ROUNDS)
    plain = run({**task, "engine": "monai"})
    same = run({**task, "engine": "monai", "compare": labels})
    buffered = run({**task, "engine": "monai", "buffered": True})
    longer = {n: run({**STAND_IN, "shape": [n, *SECTION], "engine": "ours"}) for n in (400, 800)}
    monai400 = run({**STAND_IN, "shape": [400, *SECTION], "engine": "monai"})
    name = "MONAI, CT-FM's recipe"
    body = ours["network"]
    return [
        memory("200 slices", name, ours, monai, "ratio >= 8"),
        memory("200 slices", "MONAI without softmax", ours, plain),
        memory("200 slices", "MONAI, buffer_steps", ours, buffered),
        memory("400 slices", "MONAI without softmax", longer[400], monai400),
        Row(
            "memory, 800 slices over 200 slices",
            None,
            longer[800]["bytes"] / ours["bytes"],
            None,
            "",
            "<= 1.1",
        ),
        Row(
            "stitching and head, 200 slices",
            name,
            ours["seconds"] - body,
            monai["seconds"] - body,
            "s",
            "ratio >= 8",
            False,
        ),
        Row(
            "outside of the network's calls, 200 slices",
            name,
            ours["seconds"] - ours["network"],
            monai["seconds"] - monai["network"],
            "s",
            None,
        ),
        total("200 slices", name, ours, monai),
        total("200 slices", "MONAI without softmax", ours, plain),
        total("200 slices", "MONAI, buffer_steps", ours, buffered),
        total("400 slices", "MONAI without softmax", longer[400], monai400),
        Row("labels equal to MONAI's, float32", None, 1 - same["share"], None, "", ">= 0.99999"),
        Row("largest logit that is lost there", None, same["lost"], None, "", "<= 0.0001"),
    ]


def memory(what: str, peer: str, ours: Outcome, theirs: Outcome, target: str | None = None) -> Row:
    return Row(
        f"memory, {what}", peer, ours["bytes"] / 1e9, theirs["bytes"] / 1e9, "GB", target, False
    )


def total(what: str, peer: str, ours: Outcome, theirs: Outcome, target: str | None = None) -> Row:
    return Row(f"wall time, {what}", peer, ours["seconds"], theirs["seconds"], "s", target, False)


def recipe(folder: Path) -> list[Row]:
    """From file to label map on the file's grid, the real network; how far bfloat16 agrees."""
    scan = write_scan(folder / "scan.nii.gz", SMALL)
    task = {**BASE, "network": "real", "scan": str(scan)}
    ours = run({**task, "engine": "ours", "amp": True}, ROUNDS)
    ours32 = run({**task, "engine": "ours"})
    monai = run({**task, "engine": "monai", "layout": False})
    fitted = {**task, "network": "narrow", "weights": str(write_weights(folder / "fitted.pt"))}
    run({**fitted, "engine": "ours", "save": str(folder / "float32.pt")})
    half = run({**fitted, "engine": "ours", "amp": True, "versus": str(folder / "float32.pt")})
    name = "CT-FM's recipe by MONAI, float32"
    what = f"file to labels, {'x'.join(map(str, SMALL))}"
    return [
        total(what, name, ours, monai, "ratio >= 3"),
        total(f"{what}, both in float32", name, ours32, monai),
        memory(what, name, ours, monai),
        Row(
            "labels equal, bfloat16 against float32, fitted network",
            None,
            half["equal"],
            None,
            "",
            ">= 0.998",
        ),
        Row("mean Dice between the two", None, half["dice"], None, "", None, True),
    ]


def large() -> list[Row]:
    """118 classes in 512x512x800 voxels."""
    task = {**BASE, "network": "narrow", "shape": [800, 512, 512], "overlap": 0.25, "amp": True}
    ours = run({**task, "engine": "ours"})
    labels = 800 * 512 * 512
    whole = (ours["bytes"] + 5 * labels) / 1e9  # float32 input and uint8 labels
    return [
        Row(
            "input, labels and the rest, 800x512x512, overlap 0.25",
            None,
            whole,
            None,
            "GB",
            "<= 10",
        ),
        Row("wall time of it, narrow network", None, ours["seconds"], None, "s", None),
    ]


def nnunet(python: str) -> list[Row]:
    """nnU-Net's predictor and ours, both with that Python's torch."""
    task = {**STAND_IN, "shape": [200, *SECTION]}
    ours = run({**task, "engine": "ours"}, python=python)
    theirs = run({**task, "engine": "nnunet"}, python=python)
    real = {**BASE, "network": "real", "shape": SMALL}
    fast = run({**real, "engine": "ours", "amp": True}, python=python)
    slow = run({**real, "engine": "nnunet", "layout": False}, python=python)
    name = "nnU-Net's predictor"
    return [
        total("200 slices", name, ours, theirs, "ratio >= 1"),
        memory("200 slices", name, ours, theirs, "ratio >= 1"),
        total(f"real network, {'x'.join(map(str, SMALL))}", name, fast, slow, "ratio >= 1"),
        memory(f"real network, {'x'.join(map(str, SMALL))}", name, fast, slow, "ratio >= 1"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("stitching", "recipe", "large", "nnunet"))
    parser.add_argument("--nnunet-python")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.only in (None, "stitching"):
            rows += stitching(folder)
        if options.only in (None, "recipe"):
            rows += recipe(folder)
        if options.only in (None, "large"):
            rows += large()
        if options.nnunet_python and options.only in (None, "nnunet"):
            rows += nnunet(options.nnunet_python)
        elif options.only in (None, "nnunet"):
            print("skipped: nnU-Net's predictor (no --nnunet-python)")
    report("inference", rows, threads=torch.get_num_threads(), rounds=ROUNDS, roi=ROI)


if __name__ == "__main__":
    main()

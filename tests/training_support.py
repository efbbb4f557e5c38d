"""What tests of trainings share: folders of their own, curves, checkpoints, kills, processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

State = dict[str, Any]


def in_folder(overrides: State, folder: Path) -> State:
    """The same training, writing to a folder of its own."""
    folder.mkdir()
    return overrides | {"output_dir": str(folder / "out"), "ckpt_dir": str(folder / "models")}


def curve(overrides: State, tag: str = "loss") -> list[float]:
    """Of each iteration, in all runs that wrote to the folder; a later run replaces an earlier."""
    values: dict[int, float] = {}
    for file in sorted(Path(overrides["output_dir"], "tensorboard").iterdir()):
        events = EventAccumulator(str(file)).Reload()
        if tag in events.Tags()["scalars"]:
            values.update({e.step: e.value for e in events.Scalars(tag)})
    return [values[step] for step in sorted(values)]


def last(overrides: State) -> State:
    """The checkpoint that a training goes on from."""
    path = Path(overrides["ckpt_dir"], "last.pt")
    found: State = torch.load(path, weights_only=True)
    return found


def kill_once(typed: list[str], folder: Path, reached: Callable[[], bool]) -> None:
    """Start a training, and kill -9 it as soon as it has got so far."""
    process = subprocess.Popen([sys.executable, *typed], cwd=folder)
    deadline = time.monotonic() + 120
    while not reached() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def run_in_two_processes(typed: list[str], folder: Path) -> None:
    """By torchrun, on the CPU; it must end well."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, *typed],
        cwd=folder,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr

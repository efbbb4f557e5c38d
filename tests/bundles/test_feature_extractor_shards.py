"""The feature extractor in several processes: a killed one is started again, nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ctfm.base.sharding import Shard
from ctfm.networks.encoders import PooledEncoder
from support import EXTRACTOR, command, make_ct, run_here, save

pytestmark = pytest.mark.usefixtures("one_thread")

SCANS = 10
#: Writing is slowed down, so that there is a moment at which a part is half done.
SLOWLY = """
import sys, time
from monai.bundle import run
from ctfm.embedding import EmbeddingTable
write = EmbeddingTable.write
EmbeddingTable.write = lambda self, data: (time.sleep(0.3), write(self, data))[1]
run(args_file=sys.argv[1])
"""


@pytest.fixture
def inference(tmp_path: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    network = PooledEncoder(init_filters=4, in_channels=1, blocks_down=(1, 1, 1, 1, 1)).eval()
    torch.save(network.state_dict(), tmp_path / "encoder.pt")
    for seed in range(SCANS):
        save(make_ct(seed)[0], tmp_path / "scans" / f"p{seed}.nii.gz")
    return {
        "bundle": EXTRACTOR,
        "checkpoint": str(tmp_path / "encoder.pt"),
        "input": str(tmp_path / "scans"),
        "overwrite": "false",  # as it is typed
        "progress": False,
        "amp": False,
    }


def table(folder: Path) -> pd.DataFrame:
    rows = pd.read_parquet(folder / "embeddings.parquet")
    return rows.sort_values("scan", kind="stable", ignore_index=True)


def start(rank: int, arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    """As torchrun starts one of two."""
    environment = {**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", SLOWLY, arguments[-1]],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_worker_loses_nothing(inference: dict[str, Any], tmp_path: Path) -> None:
    arguments = command(tmp_path, "inference", output_dir=str(tmp_path / "two"), **inference)
    mine = {f"p{i}.parquet" for i in range(SCANS) if Shard(0, 2).holds(f"p{i}")}
    folder = tmp_path / "two" / "embeddings.parquet"
    first, second = (start(rank, arguments, tmp_path) for rank in range(2))
    while first.poll() is None and not any((folder / name).exists() for name in mine):
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    _, told = first.communicate()
    assert first.returncode == -signal.SIGKILL, told
    done = {path: path.stat().st_mtime_ns for path in folder.glob("p*") if path.name in mine}
    assert 0 < len(done) < len(mine), "it was to be killed halfway"

    again = start(0, arguments, tmp_path)
    for process in (again, second):
        _, told = process.communicate(timeout=120)
        assert process.returncode == 0, told
    assert {path: path.stat().st_mtime_ns for path in done} == done, "what was done stays"
    run_here("inference", output_dir=str(tmp_path / "one"), **inference)
    one, two = table(tmp_path / "one"), table(tmp_path / "two")
    np.testing.assert_array_equal(np.stack(list(one.embedding)), np.stack(list(two.embedding)))
    pd.testing.assert_frame_equal(one.drop(columns="embedding"), two.drop(columns="embedding"))

    reports = [json.loads((tmp_path / "two" / f"report-{i}-of-2.json").read_text()) for i in (0, 1)]
    # a scan's rows come first, so that a kill in between costs its line in the report at most
    assert sum(report["scans_done"] for report in reports) >= SCANS - 1
    assert not {*reports[0]["scans"]} & {*reports[1]["scans"]}


def test_two_workers_that_do_the_same_by_mistake(inference: dict[str, Any], tmp_path: Path) -> None:
    """Files are replaced as a whole: whoever is last, every row is there once."""
    inference |= {"overwrite": True, "shard": 1, "shards": 4}
    arguments = command(tmp_path, "inference", output_dir=str(tmp_path / "out"), **inference)
    for process in [start(0, arguments, tmp_path) for _ in range(2)]:
        _, told = process.communicate(timeout=120)
        assert process.returncode == 0, told
    rows = table(tmp_path / "out")
    assert set(rows.scan) == {f"p{i}" for i in range(SCANS) if Shard(1, 4).holds(f"p{i}")}
    assert (rows[rows.kind == "scan"].groupby("scan").size() == 1).all()
    assert not rows.duplicated(["scan", "kind", "x_mm", "y_mm", "z_mm"]).any()
    assert not list((tmp_path / "out").rglob(".*"))


def test_failures_that_do_not_end_in_an_error(
    inference: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Launchers would start the process again, and again, and stop the others."""
    for path in (tmp_path / "scans").glob("p[2-9]*"):
        path.unlink()
    (tmp_path / "scans" / "p1.nii.gz").write_bytes(b"no scan")
    run_here("inference", output_dir=str(tmp_path / "out"), on_failure="warn", **inference)
    assert "failed: " in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["scans_done"], report["scans_failed"]) == (1, 1)

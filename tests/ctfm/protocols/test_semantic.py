"""Semantic search as a protocol: the answers of the ranking's search, summed up by scan."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctfm.commands.calling import call
from ctfm.networks.encoders import PooledEncoder
from ctfm.protocols import run_semantic
from ctfm.protocols.options import BootstrapOptions
from ctfm.protocols.probing.search import SearchAnswers
from ctfm.protocols.semantic import _by_class
from support import make_ct, save

pytestmark = pytest.mark.usefixtures("one_thread")

COARSE: dict[str, Any] = {
    "spacing": (3, 3, 3),
    "patch": (16, 16, 16),
    "overlap": 0.25,
    "amp": False,
    "device": "cpu",
    "input_check": "off",
    "progress": False,
    "resamples": 100,
}


def test_estimates_by_hand() -> None:
    """Three scans, two classes; intervals span the means that single scans have."""
    answers = SearchAnswers(
        class_ids=np.array([51, 5, 51, 51]),
        queries=np.array([0, 0, 1, 2]),
        distances_mm=np.array([3.0, 10, 6, 9]),
        inside=np.array([1.0, 0, 1, 0]),
    )
    found = _by_class(answers, BootstrapOptions(resamples=500))
    assert list(found) == ["all classes", "liver", "heart"]
    heart = found["heart"]["distance_mm"]
    assert (heart.mean, heart.cases) == (6, 3)
    assert heart.interval is not None
    assert 3 <= heart.interval[0] < 6 < heart.interval[1] <= 9
    assert found["all classes"]["distance_mm"].mean == 7
    assert found["all classes"]["inside"].mean == 0.5
    assert (found["liver"]["distance_mm"].mean, found["liver"]["distance_mm"].interval) == (
        10,
        None,
    )


def test_table_is_written_for_each_class(tmp_path: Path) -> None:
    rows = []
    for number in range(3):
        hu, label = make_ct(number)
        save(hu.astype(np.int16), tmp_path / f"{number}.nii.gz")
        save(label.astype(np.uint8), tmp_path / f"{number}_label.nii.gz")
        rows.append({"image": f"{number}.nii.gz", "label": f"{number}_label.nii.gz"})
    (tmp_path / "datalist.json").write_text(json.dumps({"validation": rows}))
    torch.manual_seed(0)
    network = PooledEncoder(spatial_dims=3, in_channels=1, init_filters=4, blocks_down=(1, 1, 1))
    torch.save(network.state_dict(), tmp_path / "encoder.pt")
    out = tmp_path / "out"
    arguments: Any = ([str(tmp_path / "encoder.pt")], str(tmp_path / "datalist.json"))
    told = call(run_semantic, *arguments, out=str(out), **COARSE)
    assert "published for CT-FM: heart 5.6 mm" in told
    with (out / "metrics.csv").open() as file:
        found = {(r["encoder"], r["class"], r["metric"]): r for r in csv.DictReader(file)}
    encoders = {"encoder.pt", "random, seed 0", "nearest window", "random window"}
    assert {encoder for encoder, _, _ in found} == encoders
    assert len({organ for _, organ, _ in found}) == 4, "three organs, and all of them"
    best, mine = (
        float(found[encoder, "all classes", "distance_mm"]["mean"])
        for encoder in ("nearest window", "encoder.pt")
    )
    assert best <= mine
    assert (out / "distances.png").stat().st_size > 10_000
    first = (out / "metrics.csv").read_bytes()
    assert call(run_semantic, *arguments, out=str(out), **COARSE) == told
    assert (out / "metrics.csv").read_bytes() == first

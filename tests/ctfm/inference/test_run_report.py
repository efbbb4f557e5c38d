"""report.json: what was done, what failed and why, and that it outlives a run."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.transforms import Compose, Lambdad

from ctfm.base.errors import UserError
from ctfm.imaging.listing import find_scans
from ctfm.imaging.provenance import Provenance
from ctfm.imaging.scans import ScanDataset, collate_scans
from ctfm.imaging.transforms import LoadScand
from ctfm.inference.evaluators import ScanEvaluator
from ctfm.inference.run_report import RunReport
from ctfm.phantoms.drawing import draw_torso, write_volume


def found(_image: object) -> torch.Tensor:
    return torch.zeros(1)


def run(paths: list[str], out: Path, weights: Path) -> dict:
    rows = find_scans(paths)
    loader = DataLoader(
        ScanDataset(rows, Compose([LoadScand("image", inspect=True)])),
        batch_size=1,
        collate_fn=collate_scans,
    )
    report = RunReport(str(out), Provenance(str(weights), {"overlap": 0.5}))
    evaluator = ScanEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader,
        network=torch.nn.Identity(),
        postprocessing=Compose([Lambdad("pred", found)]),
        val_handlers=[report],
    )
    with contextlib.suppress(UserError):
        evaluator.run()
    return json.loads((out / "report.json").read_text())


@pytest.fixture
def scans(tmp_path: Path) -> list[str]:
    phantom = draw_torso(0, (8.0, 8.0, 8.0))
    write_volume(phantom.image, phantom.affine, tmp_path / "good.nii.gz")
    write_volume(phantom.image.clip(0, 255), phantom.affine, tmp_path / "windowed.nii.gz")
    (tmp_path / "weights.pt").write_bytes(b"weights")
    return [str(tmp_path / "good.nii.gz"), str(tmp_path / "windowed.nii.gz")]


def test_done_and_failed(scans: list[str], tmp_path: Path) -> None:
    report = run(scans, tmp_path / "out", tmp_path / "weights.pt")
    assert (report["scans_done"], report["scans_failed"]) == (1, 1)
    good = report["scans"]["good"]
    assert good["source"] == scans[0]
    assert good["input"]["axcodes"] == "RAS"
    (warning,) = good["input"]["warnings"]
    assert warning.startswith("slices lie 8 mm apart")
    assert set(good["seconds"]) == {"reading", "network", "writing"}
    assert all(value >= 0 for value in good["seconds"].values())
    assert good["seconds"]["reading"] > 0
    assert "8-bit picture" in report["scans"][scans[1]]["failed"]
    assert report["checkpoint"]["file"] == "weights.pt"
    assert len(report["checkpoint"]["sha256"]) == 64
    assert report["settings"] == {"overlap": 0.5}
    assert report["versions"]["torch"] == torch.__version__
    assert report["peak_memory_mib"]["process"] > 10


def test_earlier_results_stay_and_failures_do_not(scans: list[str], tmp_path: Path) -> None:
    run(scans, tmp_path / "out", tmp_path / "weights.pt")
    phantom = draw_torso(0, (8.0, 8.0, 8.0))
    write_volume(phantom.image.astype(np.int16), phantom.affine, tmp_path / "windowed.nii.gz")
    report = run(scans[1:], tmp_path / "out", tmp_path / "weights.pt")
    assert set(report["scans"]) == {"good", "windowed"}
    assert report["scans_failed"] == 0


def test_file_that_is_no_report_is_replaced(scans: list[str], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").write_text("[1, 2")
    assert run(scans[:1], tmp_path / "out", tmp_path / "weights.pt")["scans_done"] == 1

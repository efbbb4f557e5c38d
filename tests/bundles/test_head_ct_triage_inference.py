"""The triage bundle infers: probabilities, decisions, warnings, maps; a bad scan stops nothing."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from ctfm.evaluation.classification.calibration import calibrate, write_calibration
from ctfm.networks.encoders import PooledClassifier
from ctfm.phantoms.drawing import draw_head, draw_torso, save_phantom
from triage_support import inference, refusal, run_triage

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Random weights of a narrow network."""
    torch.manual_seed(0)
    folder = tmp_path / "models"
    folder.mkdir()
    network = PooledClassifier(init_filters=4, blocks_down=(1, 1, 1, 1, 1), hidden_channels=(8,))
    torch.save(network.state_dict(), folder / "model.pt")
    return folder


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    save_phantom(draw_head(0, (4.0, 4.0, 5.0), "LPI", bleed=True), folder / "bleed.nii.gz")
    save_phantom(draw_torso(0, (6.0, 6.0, 6.0)), folder / "torso.nii.gz")
    return folder


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_each_scan_and_a_table(models: Path, scans: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    write_calibration(
        calibrate(rng.normal(labels * 2.0 - 1, 1.5), labels, data="test"),
        models / "calibration.json",
    )
    (scans / "broken.nii.gz").write_bytes(b"no scan")
    said = refusal("inference", **inference(scans, tmp_path, saliency=True))
    assert "1 of 3 scans failed" in said

    results = tmp_path / "results"
    one = read(results / "bleed_triage.json")
    assert one["calibrated"] is True
    assert set(one["decisions"]) == {"fixed", "youden", "sensitive"}
    for decision in one["decisions"].values():
        assert decision["abnormal"] == (one["probability"] >= decision["threshold"])
    assert any(
        "body rather than a head" in text
        for text in read(results / "torso_triage.json")["warnings"]
    )
    with (results / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["bleed", "torso"]
    assert "body rather than a head" in rows[1]["warnings"]
    document = read(results / "predictions.json")
    assert len(document["scans"]) == 2
    assert [Path(f["source"]).name for f in document["failed"]] == ["broken.nii.gz"]
    image, heat = nib.load(scans / "bleed.nii.gz"), nib.load(results / "bleed_saliency.nii.gz")
    assert heat.shape == image.shape
    np.testing.assert_allclose(heat.affine, image.affine, atol=1e-4)
    assert 0.5 < np.asarray(heat.dataobj).max() <= 1
    assert (results / "bleed_saliency.png").stat().st_size > 10_000


def test_goes_on_where_it_stopped(models: Path, scans: Path, tmp_path: Path) -> None:
    options = inference(scans, tmp_path, overwrite=False)
    run_triage("inference", **options)
    first = tmp_path / "results" / "bleed_triage.json"
    assert read(first)["calibrated"] is False
    assert set(read(first)["decisions"]) == {"fixed"}
    stamp = first.stat().st_mtime_ns
    (tmp_path / "results" / "torso_triage.json").unlink()
    run_triage("inference", **options)
    assert first.stat().st_mtime_ns == stamp
    assert len(read(tmp_path / "results" / "predictions.json")["scans"]) == 2


def test_any_orientation_gives_the_same(models: Path, tmp_path: Path) -> None:
    """A flipped and permuted copy has the same probability."""
    phantom = draw_head(1, (6.0, 6.0, 6.0), "SPL")
    save_phantom(phantom, tmp_path / "scans" / "a.nii.gz")
    image = nib.load(tmp_path / "scans" / "a.nii.gz")
    turned = image.as_reoriented(np.array([[2, 1], [1, -1], [0, 1]]))
    turned.set_sform(turned.affine, 1)
    turned.set_qform(turned.affine, 1)
    nib.save(turned, tmp_path / "scans" / "b.nii.gz")
    options = inference(
        tmp_path / "scans", tmp_path, amp=False, spacing=[6.0, 6.0, 6.0], patch=[48, 48, 48]
    )
    run_triage("inference", **options)
    a, b = (read(tmp_path / "results" / f"{name}_triage.json")["logit"] for name in "ab")
    assert a == pytest.approx(b, abs=1e-4)


def test_occlusion(models: Path, scans: Path, tmp_path: Path) -> None:
    options = inference(scans / "bleed.nii.gz", tmp_path, saliency="occlusion", patch=[16, 16, 16])
    run_triage("inference", **options)
    assert (tmp_path / "results" / "bleed_saliency.nii.gz").is_file()


def test_says_what_to_do_without_weights(scans: Path, tmp_path: Path) -> None:
    said = refusal("inference", **inference(scans, tmp_path))
    assert "no triage weights are published" in said


def test_saliency_knows_its_methods(models: Path, scans: Path, tmp_path: Path) -> None:
    said = refusal("inference", **inference(scans, tmp_path, saliency="magic"))
    assert "give true, false, gradient, occlusion" in said

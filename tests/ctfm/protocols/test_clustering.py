"""Clustering: figures against scikit-learn's, and a run on miniature scans."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from ctfm.base.errors import UserError
from ctfm.commands.calling import call
from ctfm.evaluation.intervals import estimate_weighted
from ctfm.networks.encoders import PooledEncoder
from ctfm.protocols import run_clustering
from ctfm.protocols.agreement import adjusted_rand_index, mutual_information, tables_by_scan
from support import make_ct, save

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK: dict[str, Any] = {
    "spacing": (3, 3, 3),
    "patch": (16, 16, 16),
    "amp": False,
    "device": "cpu",
    "input_check": "off",
    "progress": False,
    "resamples": 100,
}


@pytest.mark.parametrize("kinds", [2, 5])
def test_figures_are_scikit_learns(kinds: int) -> None:
    generator = np.random.default_rng(kinds)
    scans = generator.integers(0, 4, 60)
    organs = generator.integers(0, kinds, 60)
    clusters = np.where(generator.random(60) < 0.6, organs, generator.integers(-1, kinds, 60))
    tables = tables_by_scan(scans, organs, clusters)
    assert tables.sum() == 60
    mine = mutual_information(tables.sum(0)), adjusted_rand_index(tables.sum(0))
    theirs = (
        normalized_mutual_info_score(organs, clusters),
        adjusted_rand_score(organs, clusters),
    )
    np.testing.assert_allclose(mine, theirs, atol=1e-12)
    # a scan that is drawn twice counts twice
    weighted = np.einsum("s,slc->lc", [2.0, 0, 1, 1], tables)
    chosen = np.concatenate([np.flatnonzero(scans == s) for s in (0, 0, 2, 3)])
    theirs = (
        normalized_mutual_info_score(organs[chosen], clusters[chosen]),
        adjusted_rand_score(organs[chosen], clusters[chosen]),
    )
    np.testing.assert_allclose(
        (mutual_information(weighted), adjusted_rand_index(weighted)), theirs, atol=1e-12
    )


def test_one_cluster_of_one_organ_agrees() -> None:
    assert mutual_information(np.array([[7.0]])) == 1
    assert adjusted_rand_index(np.array([[7.0]])) == 1


def test_weighted_estimate_is_a_bootstrap() -> None:
    values = np.random.default_rng(0).normal(size=40)
    found = estimate_weighted(lambda w: w @ values / w.sum(1), 40, seed=1, resamples=4000)
    assert found.mean == pytest.approx(values.mean())
    assert found.interval is not None
    spread = values.std() / np.sqrt(40)
    np.testing.assert_allclose(
        found.interval, values.mean() + 1.96 * spread * np.array([-1, 1]), atol=0.15 * spread
    )
    assert found == estimate_weighted(lambda w: w @ values / w.sum(1), 40, seed=1, resamples=4000)
    assert estimate_weighted(lambda w: w.sum(1), 2, 0, 10).interval is None


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("clustering")
    rows = []
    for number in range(4):
        hu, label = make_ct(number)
        save(hu.astype(np.int16), folder / f"{number}.nii.gz")
        save(label.astype(np.uint8), folder / f"{number}_label.nii.gz")
        rows.append({"image": f"{number}.nii.gz", "label": f"{number}_label.nii.gz"})
    (folder / "datalist.json").write_text(json.dumps({"validation": rows}))
    torch.manual_seed(0)
    network = PooledEncoder(spatial_dims=3, in_channels=1, init_filters=4, blocks_down=(1, 1, 1))
    torch.save(network.state_dict(), folder / "encoder.pt")
    return str(folder / "datalist.json")


@pytest.mark.parametrize("places", ["organs", "windows"])
def test_tables_and_pictures_are_written(data: str, places: str, tmp_path: Path) -> None:
    encoder, out = str(Path(data).parent / "encoder.pt"), tmp_path / "out"
    told = call(run_clustering, [encoder], data, out=str(out), places=places, **QUICK)
    assert "organs in 4 scans" in told
    with (out / "metrics.csv").open() as file:
        found = {(row["encoder"], row["metric"]): row for row in csv.DictReader(file)}
    assert len(found) == 2 * 5
    for row in found.values():
        low, mean, high = (float(row[column]) for column in ("low", "mean", "high"))
        assert -1 <= low <= high <= 1
        assert -1 <= mean <= 1
        assert row["count"] == "4"
    with (out / "points.csv").open() as file:
        points = [row for row in csv.DictReader(file) if row["encoder"] == "encoder.pt"]
    if places == "organs":
        assert len(points) == 4 * 3
    assert len(points) > 8
    # figures can be had again from the points
    organs, clusters = [p["organ"] for p in points], [p["k_means"] for p in points]
    expected = normalized_mutual_info_score(organs, clusters)
    assert float(found["encoder.pt", "k-means NMI"]["mean"]) == pytest.approx(expected, abs=1e-5)
    assert (out / "clusters.png").stat().st_size > 10_000
    first = (out / "points.csv").read_bytes()
    call(run_clustering, [encoder], data, out=str(out), places=places, **QUICK)
    assert (out / "points.csv").read_bytes() == first


def test_what_makes_no_sense_is_one_line(data: str, tmp_path: Path) -> None:
    encoder = str(Path(data).parent / "encoder.pt")
    with pytest.raises(UserError, match="places is 'all': choose organs or windows"):
        call(run_clustering, [encoder], data, out=str(tmp_path), places="all", **QUICK)
    with pytest.raises(UserError, match="two such classes are needed"):
        call(run_clustering, [encoder], data, out=str(tmp_path), classes=5, **QUICK)
    with pytest.raises(UserError, match="1 scan of list 'validation'"):
        call(run_clustering, [encoder], data, out=str(tmp_path), scans=1, **QUICK)
    with pytest.raises(UserError, match="most is 3"):
        call(run_clustering, [encoder], data, out=str(tmp_path), most=3, **QUICK)

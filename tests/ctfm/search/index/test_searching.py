"""Searching: the nearest are found, exactly or nearly, with filters, in shards, from a scan."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lancedb", reason="needs the extra index: pip install 'ct-fm-bundles[index]'")

from ctfm.base.errors import UserError
from ctfm.commands.calling import call
from ctfm.embedding.embedder import Embedder
from ctfm.embedding.recipes import make_recipe
from ctfm.embedding.table import EmbeddingTable
from ctfm.networks.encoders import PooledEncoder
from ctfm.phantoms.drawing import draw_torso, write_volume
from ctfm.search.index import searching
from ctfm.search.index.adding import add_embeddings
from ctfm.search.index.index import Index
from ctfm.search.index.querying import search_scan
from ctfm.search.index.searching import Searcher, merge_hits
from index_support import DIMENSION, embed

SMALL = {"spacing": [8.0, 8.0, 8.0], "patch": [16, 16, 16]}


@pytest.fixture
def index(tmp_path: Path) -> Index:
    (tmp_path / "m.csv").write_text("scan,organ\ns0,lung\ns1,liver\n")
    embed(tmp_path / "e", scans=6, patches=50)
    add_embeddings([str(tmp_path / "e")], str(tmp_path / "i"), metadata=str(tmp_path / "m.csv"))
    return Index(tmp_path / "i")


def nearest(index: Index, vector: np.ndarray, where: str) -> list[tuple[str, float]]:
    rows = index.rows(["scan", "x_mm", "embedding"], where).to_pylist()
    vectors = np.array([row["embedding"] for row in rows])
    cosines = vectors @ vector / np.linalg.norm(vectors, axis=1) / np.linalg.norm(vector)
    return [(rows[i]["scan"], float(cosines[i])) for i in np.argsort(-cosines)]


@pytest.mark.parametrize("limit", [10**6, 10])
@pytest.mark.parametrize("where", [None, "organ = 'liver'", "x_mm < 100"])
def test_nearest(
    index: Index, where: str | None, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In memory, and row by row by LanceDB."""
    monkeypatch.setattr(searching, "EXACT_ROWS", limit)
    vector = np.random.default_rng(9).normal(size=DIMENSION)
    expected = nearest(index, vector, "kind = 'patch'" + (f" AND {where}" if where else ""))[:7]
    hits = Searcher(index, "patch", where).search(vector, 7)
    assert [hit.scan for hit in hits] == [scan for scan, _ in expected]
    assert [hit.similarity for hit in hits] == pytest.approx([c for _, c in expected], abs=1e-5)
    assert all(hit.point_mm is not None for hit in hits)


def test_approximate_index_finds_most(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "EXACT_ROWS", 10)
    index.build_ann()
    searcher = Searcher(index, "patch")
    assert not searcher.exact
    vectors = np.random.default_rng(3).normal(size=(20, DIMENSION))
    same = 0
    for vector in vectors:
        expected = {c for _, c in nearest(index, vector, "kind = 'patch'")[:5]}
        found = [hit.similarity for hit in searcher.search(vector, 5)]
        same += sum(any(abs(c - f) < 1e-5 for c in expected) for f in found)
    assert same >= 90


def test_more_hits_than_rows(index: Index) -> None:
    assert len(Searcher(index, "scan").search(np.ones(DIMENSION), 99)) == 6


def test_what_makes_no_sense(index: Index) -> None:
    with pytest.raises(UserError, match="no patch with organ = 'x' in the index"):
        Searcher(index, "patch", "organ = 'x'")
    with pytest.raises(UserError, match="an embedding of 3 numbers in an index of 16"):
        Searcher(index, "patch").search(np.ones(3))
    with pytest.raises(UserError, match="k is 0"):
        Searcher(index, "patch").search(np.ones(DIMENSION), 0)


def test_shards_are_searched_as_one(index: Index, tmp_path: Path) -> None:
    parts = []
    for part in range(2):
        folder = tmp_path / f"part{part}"
        embed(folder, scans=6, patches=50)
        for scan in range(6):
            if scan % 2 != part:
                (folder / f"embeddings.parquet/s{scan}.parquet").unlink()
        add_embeddings([str(folder)], str(tmp_path / f"shard{part}"))
        parts.append(Index(tmp_path / f"shard{part}"))
    vector = np.random.default_rng(5).normal(size=DIMENSION)
    whole = Searcher(index, "patch").search(vector, 9)
    merged = merge_hits([Searcher(part, "patch").search(vector, 9) for part in parts], 9)
    assert [(h.scan, h.point_mm) for h in merged] == [(h.scan, h.point_mm) for h in whole]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drawn scans, embedded and indexed."""
    root = tmp_path_factory.mktemp("searched")
    torch.manual_seed(0)
    network = PooledEncoder(spatial_dims=3, in_channels=1, init_filters=4, blocks_down=(1, 1, 1))
    torch.save(network.state_dict(), root / "encoder.pt")
    embedder = Embedder.load(str(root / "encoder.pt"), make_recipe(**SMALL), device="cpu")
    table = EmbeddingTable(str(root / "e"), embedder.network, embedder.recipe)
    table.start()
    for seed in range(2):
        phantom = draw_torso(seed, (8.0, 8.0, 8.0))
        path = root / "scans" / f"p{seed}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        write_volume(phantom.image, phantom.affine, path)
        image = embedder.read(str(path))
        grid = embedder.grid(image)
        embeddings, _ = embedder.windows(image)
        pred = torch.from_numpy(embeddings.T.copy()).reshape(-1, *grid.counts)
        table.write({"image": image, "pred": pred, "name": f"p{seed}"})
    add_embeddings([str(root / "e")], str(root / "i"))
    return root


def run(root: Path, query: str, out: Path, **options: Any) -> tuple[str, dict[str, Any]]:
    told = call(search_scan, query, [str(root / "i")], out=str(out), device="cpu", **options)
    return told, json.loads((out / "hits.json").read_text())


def test_a_scan_finds_itself_first(searched: Path, tmp_path: Path) -> None:
    path = str(searched / "scans" / "p1.nii.gz")
    told, found = run(
        searched,
        path,
        tmp_path,
        checkpoint=str(searched / "encoder.pt"),
        scans=str(searched / "scans"),
    )
    assert [hit["scan"] for hit in found["hits"]] == ["p1", "p0"]
    assert found["hits"][0]["similarity"] == pytest.approx(1, abs=1e-3)
    assert (tmp_path / "hits.png").read_bytes()[:4] == b"\x89PNG"
    assert told.splitlines()[-1] == f"written to {tmp_path}"
    with (tmp_path / "hits.csv").open() as file:
        assert [row["scan"] for row in csv.DictReader(file)] == ["p1", "p0"]


def test_a_scan_of_the_index_does_not_find_itself(searched: Path, tmp_path: Path) -> None:
    _, found = run(searched, "p1", tmp_path)
    assert [hit["scan"] for hit in found["hits"]] == ["p0"]
    _, found = run(searched, "p1", tmp_path, same_scan=True)
    assert [hit["scan"] for hit in found["hits"]] == ["p1", "p0"]


def test_a_place_finds_its_window(searched: Path, tmp_path: Path) -> None:
    index = Index(searched / "i")
    row = index.rows(
        ["x_mm", "y_mm", "z_mm", "scan"], "kind = 'patch' AND scan = 'p0'"
    ).to_pylist()[5]
    point = [row["x_mm"], row["y_mm"], row["z_mm"]]
    path = str(searched / "scans" / "p0.nii.gz")
    _, found = run(
        searched, path, tmp_path, point=point, k=3, checkpoint=str(searched / "encoder.pt")
    )
    best = found["hits"][0]
    assert best["scan"] == "p0"
    assert np.linalg.norm(np.array([best[a] for a in ("x_mm", "y_mm", "z_mm")]) - point) < 8
    assert best["similarity"] > 0.99


def test_queries_that_make_no_sense(searched: Path, tmp_path: Path) -> None:
    path = str(searched / "scans" / "p0.nii.gz")
    with pytest.raises(UserError, match="add --checkpoint FILE"):
        run(searched, path, tmp_path)
    with pytest.raises(UserError, match="neither a file nor a scan of the index"):
        run(searched, "p7", tmp_path)
    with pytest.raises(UserError, match="a place needs the scan itself"):
        run(searched, "p0", tmp_path, point=[1, 2, 3])
    with pytest.raises(UserError, match="give three numbers with commas"):
        run(searched, path, tmp_path, point=5, checkpoint=str(searched / "encoder.pt"))
    torch.manual_seed(1)
    other = PooledEncoder(spatial_dims=3, in_channels=1, init_filters=4, blocks_down=(1, 1, 1))
    torch.save(other.state_dict(), tmp_path / "other.pt")
    with pytest.raises(UserError, match="two kinds cannot be compared"):
        run(searched, path, tmp_path, checkpoint=str(tmp_path / "other.pt"))

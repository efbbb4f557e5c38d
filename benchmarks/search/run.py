"""How fast are embeddings found again, how many of the true ones, in how much memory?

Clustered vectors of 512 numbers, as embeddings are (uniform random ones defeat any approximate
index), in an index of `ctfm index` and in FAISS, each engine in a process of its own. Ours holds
100,000 rows in memory and searches them exactly; a million are searched by the approximate index on
disk, with and without a filter that leaves 0.7 % of the rows.

    make bench NAME=search

FAISS is `pip install faiss-cpu`; without it its rows are skipped.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.reporting import Row, report
from ctfm.search import Index, Searcher

DIMENSION, K, QUERIES = 512, 10, 60
CLUSTERS, SPREAD = 2000, 0.7
BATCH = 50_000
#: One of so many rows is left by the filter: 0.7 %.
RARE = 143


def vectors(rows: int) -> Iterator[np.ndarray]:
    """Batches of unit vectors around some centres; the same for the same number of rows."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(CLUSTERS, DIMENSION)).astype(np.float32)
    for first in range(0, rows, BATCH):
        count = min(BATCH, rows - first)
        near = centres[generator.integers(0, CLUSTERS, count)]
        found = near + SPREAD * generator.normal(size=near.shape).astype(np.float32)
        yield found / np.linalg.norm(found, axis=1, keepdims=True)


def queries() -> np.ndarray:
    """Other members of the clusters."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(CLUSTERS, DIMENSION)).astype(np.float32)
    others = np.random.default_rng(1)
    near = centres[others.integers(0, CLUSTERS, QUERIES)]
    return near + SPREAD * others.normal(size=near.shape).astype(np.float32)


def truth(rows: int, every: int = 1) -> list[list[int]]:
    """The K nearest of every so many rows, by going through all."""
    asked = queries()
    best: list[list[tuple[float, int]]] = [[] for _ in asked]
    first = 0
    for batch in vectors(rows):
        numbers = np.arange(first, first + len(batch))
        kept = numbers % every == 0
        cosines = asked @ batch[kept].T
        for one, row in zip(best, cosines, strict=True):
            top = np.argpartition(-row, K)[:K]
            one += [(float(row[i]), int(numbers[kept][i])) for i in top]
            one.sort(reverse=True)
            del one[K:]
        first += len(batch)
    return [[number for _, number in one] for one in best]


def build(folder: Path, rows: int) -> float:
    """Our index; seconds that its approximate part took."""
    recipe = {"patch": [64] * 3, "spacing": [1.0] * 3, "overlap": 0.625, "pooling": "mean"}
    index = Index.create(folder, {"encoder_sha256": "0" * 64, "recipe": recipe}, DIMENSION)
    index.table.add_columns({"rare": "cast(null as double)"})
    first = 0
    for batch in vectors(rows):
        numbers = np.arange(first, first + len(batch))
        names = [str(n) for n in numbers]
        index.table.add(
            pa.table(
                {
                    "key": names,
                    "scan": names,
                    "kind": ["patch"] * len(batch),
                    **{axis: np.zeros(len(batch)) for axis in ("x_mm", "y_mm", "z_mm")},
                    "embedding": pa.FixedSizeListArray.from_arrays(batch.ravel(), DIMENSION),
                    "rare": (numbers % RARE == 0).astype(float),
                }
            )
        )
        first += len(batch)
    start = time.perf_counter()
    if rows > 200_000:
        index.build_ann()
    return time.perf_counter() - start


def ours(folder: str, where: str | None) -> Callable[[np.ndarray], list[int]]:
    searcher = Searcher(Index(folder), "patch", where)
    return lambda vector: [int(hit.scan) for hit in searcher.search(vector, K)]


def faiss(kind: str, rows: int) -> Callable[[np.ndarray], list[int]]:
    library = importlib.import_module("faiss")
    index = library.IndexFlatIP(DIMENSION)
    if kind == "ivf":
        lists = round(rows**0.5)
        index = library.IndexIVFFlat(index, DIMENSION, lists, library.METRIC_INNER_PRODUCT)
        index.train(np.concatenate([b for b, _ in zip(vectors(rows), range(2), strict=False)]))
        index.nprobe = 32
    for batch in vectors(rows):
        index.add(np.ascontiguousarray(batch))
    return lambda vector: [int(i) for i in index.search(vector[None], K)[1][0]]


def work(task: dict[str, Any]) -> None:
    """Search in this process; print medians as JSON."""
    before = _resident()
    if task["engine"] == "ours":
        search = ours(task["folder"], task.get("where"))
    else:
        search = faiss(task["engine"], task["rows"])
    asked = queries()
    search(asked[0])
    seconds, found = [], []
    for vector in asked:
        start = time.perf_counter()
        found.append(search(vector))
        seconds.append(time.perf_counter() - start)
    right = json.loads(Path(task["truth"]).read_text())
    shared = [len({*a} & {*b}) / K for a, b in zip(found, right, strict=True)]
    outcome = {
        "ms": 1000 * statistics.median(seconds),
        "recall": statistics.mean(shared),
        "mb": (_resident() - before) / 1e6,
    }
    print(json.dumps(outcome))


def _resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024


def run(**task: Any) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(task)], check=True, stdout=subprocess.PIPE, text=True
    )
    outcome: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(task["engine"], task["rows"], task.get("where"), outcome, flush=True)
    return outcome


def measure(folder: Path, rows: int) -> list[Row]:
    """Rows of the table for so many vectors."""
    index, right, rare = str(folder / str(rows)), folder / "all.json", folder / "rare.json"
    right.write_text(json.dumps(truth(rows)))
    rare.write_text(json.dumps(truth(rows, RARE)))
    built = build(Path(index), rows)
    mine = run(engine="ours", rows=rows, folder=index, truth=str(right))
    filtered = run(engine="ours", rows=rows, folder=index, truth=str(rare), where="rare = 1")
    there = importlib.util.find_spec("faiss") is not None
    peers = {
        f"FAISS {kind}": run(engine=kind, rows=rows, truth=str(right)) if there else None
        for kind in ("flat", "ivf")
    }
    name = f"{rows:,} rows"
    found = []
    for peer, theirs in peers.items():
        if theirs is None:
            print(f"skipped: {peer} (pip install faiss-cpu)")
            continue
        found += [
            Row(f"p50, {name}", peer, mine["ms"], theirs["ms"], "ms", None),
            Row(f"recall@10, {name}", peer, mine["recall"], theirs["recall"], "", None, True),
            Row(f"memory, {name}", peer, mine["mb"], theirs["mb"], "MB", None),
        ]
    return [
        *found,
        Row(f"p50, {name}, 0.7 % left by a filter", None, filtered["ms"], None, "ms", None),
        Row(f"recall@10 of it, {name}", None, filtered["recall"], None, "", ">= 0.99"),
        Row(f"recall@10, {name}", None, mine["recall"], None, "", ">= 0.9"),
        Row(f"approximate index, {name}", None, built, None, "s", None),
    ]


def main() -> None:
    if len(sys.argv) > 1:
        work(json.loads(sys.argv[1]))
        return
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for count in (100_000, 1_000_000):
            rows += measure(Path(name), count)
    report("search", rows, threads=torch.get_num_threads(), queries=QUERIES, dimension=DIMENSION)


if __name__ == "__main__":
    main()

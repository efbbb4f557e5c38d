"""`ctfm locate` looks at few windows closely: does it answer as the search of all windows does?

Every class that two labelled scans show is looked for, from one in the other, and from each scan in
an altered copy of it (turned, scaled, resampled, noisier). Beside the encoder stands one of the
same size with random weights.

    make bench NAME=locating ARGS="--checkpoint ENCODER --data DATALIST"

`--spacing 3,3,3 --patch 32,32,32` for an encoder that was trained on such patches.

With CT-FM's own encoder, spacing and patch stay as they are, the published ones. Figures in
results/locating.json are of an encoder that benchmarks/pretraining.py trains in four minutes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from torch.nn import functional

from benchmarks.reporting import Row, report
from ctfm.datalists import read_datalist
from ctfm.embedding import Embedder, cut_window, make_recipe
from ctfm.imaging import on_grid
from ctfm.networks import PooledEncoder
from ctfm.protocols import OrganCase, load_cases
from ctfm.search import FEW, WORK, WindowSimilarity, look_closer, look_everywhere
from ctfm.weights import encoder_from

#: Turn about the long axis, size and noise of an altered copy.
DEGREES, SIZE, NOISE_HU, STEP = 6.0, 1.06, 20.0, 1.15
#: Shares of work that are compared; the command takes the second.
WORKS = (0.2, WORK, 0.4)
#: Searches that are timed, and not only counted.
TIMED = 6


def altered(row: dict[str, Any], folder: Path, number: int) -> dict[str, Any]:
    """A copy of a scan and its labels on another grid, as another day's scan may be."""
    turn = np.deg2rad(DEGREES)
    change = np.eye(4)
    change[:2, :2] = SIZE * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    change[2, 2] = SIZE
    written = {}
    for key, order in (("image", 1), ("label", 0)):
        stored: Any = nib.load(row[key])
        values = np.asarray(stored.dataobj, np.float32)
        affine = stored.affine @ np.diag([STEP, STEP, STEP, 1])
        centre = (stored.affine @ [*(np.array(values.shape) / 2), 1])[:3]
        about = change.copy()
        about[:3, 3] = centre - change[:3, :3] @ centre
        shape = tuple(int(n / STEP) for n in values.shape)
        fill = -1000.0 if key == "image" else 0.0
        there = np.linalg.inv(about) @ affine
        moved = on_grid(values, stored.affine, there, shape, order, fill=fill)
        if key == "image":
            moved += np.random.default_rng(number).normal(0, NOISE_HU, shape)
        path = folder / f"copy{number}_{key}.nii.gz"
        nib.save(nib.Nifti1Image(moved.round().astype(np.int16), affine), path)
        written[key] = str(path)
    return written


def tables(embedder: Embedder, case: OrganCase) -> dict[str, np.ndarray]:
    """Embeddings of all windows and queries, at full and at half resolution, of length one."""
    starts = np.stack([*case.grid.starts(), *case.query_starts.values()])
    found = {}
    for name, halves in (("full", False), ("half", True)):
        rows = []
        for first in range(0, len(starts), 16):
            patches = torch.stack(
                [cut_window(case.image, s, embedder.patch) for s in starts[first : first + 16]]
            )
            with torch.inference_mode():
                seen = functional.avg_pool3d(patches, 2) if halves else patches
                rows.append(embedder.apply(seen).cpu().numpy().astype(np.float64))
        table = np.concatenate(rows)
        found[name] = table / np.linalg.norm(table, axis=1, keepdims=True)
    return found


def looked_up(
    case: OrganCase, table: dict[str, np.ndarray], query: dict[str, np.ndarray]
) -> WindowSimilarity:
    """Similarity out of embeddings that were computed before."""
    counts, step = np.array(case.grid.counts), np.array(case.grid.step)

    def cosines(name: str) -> Callable[[np.ndarray], np.ndarray]:
        def look(starts: np.ndarray) -> np.ndarray:
            rows = np.ravel_multi_index(tuple((starts // step).T), tuple(counts))
            return np.asarray(table[name][rows] @ query[name])

        return look

    return WindowSimilarity(full=cosines("full"), half=cosines("half"))


def compare(
    embedder: Embedder, cases: Sequence[OrganCase], pairs: Sequence[tuple[int, int]]
) -> Any:
    """One row a search and share of work: how far apart the answers are, and from the organ."""
    embedded = [tables(embedder, case) for case in cases]
    rows = []
    for query, target in pairs:
        case, ids = cases[target], list(cases[query].centroids)
        if len(case.grid.starts()) <= FEW:  # all are looked at
            continue
        for class_id in (i for i in ids if i in case.centroids):
            place = len(cases[query].grid.starts()) + ids.index(class_id)
            wanted = {name: table[place] for name, table in embedded[query].items()}
            similarity = looked_up(case, embedded[target], wanted)
            rows += _searches(case, similarity, case.centroids[class_id])
    return rows


def _searches(
    case: OrganCase, similarity: WindowSimilarity, organ: np.ndarray
) -> list[dict[str, float]]:
    everywhere = look_everywhere(similarity, case.grid)
    first, best = everywhere.best(1, 1)[0]
    rows = []
    for work in WORKS:
        closer = look_closer(similarity, case.grid, work)
        second, cosine = closer.best(1, 1)[0]
        rows.append(
            {
                "work": work,
                "apart": np.abs((first - second) / np.array(case.grid.step)).max(),
                "done": closer.work,
                "in_full": closer.looked_at.mean(),
                "lost": best - cosine,
                "all_mm": np.linalg.norm(_point(case, first) - organ),
                "few_mm": np.linalg.norm(_point(case, second) - organ),
            }
        )
    return rows


def _point(case: OrganCase, start: np.ndarray) -> np.ndarray:
    row = np.flatnonzero((case.grid.starts() == start).all(axis=1))[0]
    return np.asarray(case.points[row])


def seconds(embedder: Embedder, cases: Sequence[OrganCase]) -> tuple[float, float]:
    """Medians of searches as the command makes them: of all windows, and of few."""
    times: list[list[float]] = [[], []]
    for number in range(TIMED):
        large = [case for case in cases if len(case.grid.starts()) > FEW]
        query, target = large[number % len(large)], large[(number + 1) % len(large)]
        start = list(query.query_starts.values())[number]
        patch = cut_window(query.image, start, embedder.patch)
        similarity = WindowSimilarity.of(embedder, patch, MetaTensor(target.image))
        for side, look in enumerate((look_everywhere, look_closer)):
            began = time.perf_counter()
            look(similarity, target.grid)
            times[side].append(time.perf_counter() - began)
    return float(np.median(times[0])), float(np.median(times[1]))


def random_like(embedder: Embedder) -> Embedder:
    """The same with random weights."""
    torch.manual_seed(0)
    network = embedder.network
    untrained = PooledEncoder(
        in_channels=1, init_filters=network.init_filters, blocks_down=tuple(network.blocks_down)
    )
    return Embedder(untrained, embedder.recipe, embedder.device)


def figures(name: str, searches: list[dict[str, float]], judged: bool) -> list[Row]:
    """Rows of one set of searches; the share of work that the command takes has targets."""
    table = []
    for work in WORKS:
        rows = [row for row in searches if row["work"] == work]
        found = {key: np.array([row[key] for row in rows]) for key in rows[0]}
        targets = judged and work == WORK
        what = f"{name}, work {work}"
        agree, lost = float((found["apart"] <= 1).mean()), float(np.quantile(found["lost"], 0.95))
        table += [
            Row(
                f"{what}: answers within one stride",
                None,
                agree,
                None,
                "share",
                ">= 0.95" if targets else None,
                True,
            ),
            Row(
                f"{what}: work, largest",
                "all windows",
                float(found["done"].max()),
                1.0,
                "share",
                None,
            ),
            Row(
                f"{what}: looked at in full, mean",
                "all windows",
                float(found["in_full"].mean()),
                1.0,
                "share",
                "<= 0.2" if targets else None,
            ),
            Row(f"{what}: cosine lost, 95th percentile", None, lost, None, "", None),
            Row(
                f"{what}: distance to the organ, median",
                "all windows",
                float(np.median(found["few_mm"])),
                float(np.median(found["all_mm"])),
                "mm",
                None,
            ),
        ]
    return table


def main() -> None:
    """Measure and write results/locating.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--spacing")
    parser.add_argument("--patch")
    given = parser.parse_args()
    torch.set_num_threads(1)
    listed = {"spacing": given.spacing, "patch": given.patch}
    changes = {
        key: [int(one) for one in value.split(",")] for key, value in listed.items() if value
    }
    recipe = make_recipe("semantic_search", **changes)
    embedder = Embedder(encoder_from(given.checkpoint), recipe)
    rows = read_datalist(given.data, given.split, str(Path(given.data).parent))
    with tempfile.TemporaryDirectory() as folder:
        copies = [altered(row, Path(folder), number) for number, row in enumerate(rows)]
        windows = recipe["spacing"], recipe["patch"], recipe["overlap"]
        cases = load_cases([*rows, *copies], folder, None, *windows, "warn")
    number = len(rows)
    sets = {
        "other scans": list(permutations(range(number), 2)),
        "altered copies": [(i, number + i) for i in range(number)],
    }
    table: list[Row] = []
    searches = {}
    for kind, one in (("trained", embedder), ("random", random_like(embedder))):
        for name, pairs in sets.items():
            found = compare(one, cases, pairs)
            table += figures(f"{kind}, {name}", found, kind == "trained")
            searches[f"{kind}, {name}"] = len(found) // len(WORKS)
    every, few = seconds(embedder, cases)
    table.append(Row("seconds a search, median", "all windows", few, every, "s", None))
    report(
        "locating",
        table,
        searches=searches,
        scans=number,
        recipe=recipe,
        windows=[len(case.grid.starts()) for case in cases],
    )


if __name__ == "__main__":
    main()

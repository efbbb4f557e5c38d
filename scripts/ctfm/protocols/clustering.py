"""Clusters of embeddings against organs: do patches of one organ lie together, over all scans?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_samples

from ctfm.base.errors import UserError
from ctfm.base.types import Array
from ctfm.contract.classes import TOTALSEGMENTATOR_V2
from ctfm.datalists.reading import read_datalist
from ctfm.evaluation.intervals import Estimate, estimate_ratio, estimate_weighted
from ctfm.protocols.agreement import adjusted_rand_index, mutual_information, tables_by_scan
from ctfm.protocols.embedders import adapted_recipe, load_embedders
from ctfm.protocols.maps import draw_maps
from ctfm.protocols.patches import Patches, embed_patches
from ctfm.protocols.probing.encoders import find_candidates, random_candidates
from ctfm.protocols.probing.ranking import class_ids_of
from ctfm.protocols.protocol_report import estimate_values, summary, write_csv, write_report

__all__ = ["run_clustering"]

PROTOCOL = (
    "embeddings of patches of organs, of length one, in clusters by k-means (as many as organs) "
    "and HDBSCAN (what it leaves out is one cluster more), against the organs; silhouette of the "
    "organs by cosine"
)
REMARK = "organs that a single scan shows are left out; scans are resampled whole"
SHOWN = ("k-means NMI", "k-means ARI", "HDBSCAN NMI", "HDBSCAN ARI", "silhouette")
KMEANS_STARTS = 10
FIGURES: dict[str, Callable[[Array], Array]] = {
    "NMI": mutual_information,
    "ARI": adjusted_rand_index,
}


def run_clustering(
    checkpoints: Sequence[str],
    data: str,
    base_dir: str | None = None,
    split: str = "validation",
    classes: str | int | Sequence[int] | None = None,
    out: str = "clustering",
    places: str = "organs",
    spacing: Sequence[float] | None = None,
    patch: Sequence[int] | None = None,
    most: int = 5000,
    random_seeds: int = 1,
    scans: int | None = None,
    batch_size: int = 16,
    device: str | None = None,
    amp: bool = True,
    input_check: str = "error",
    progress: bool = True,
    seed: int = 0,
    resamples: int = 2000,
) -> str:
    """Cluster patches of organs of many scans, and compare the clusters with the organs.

    Args:
        checkpoints: encoders: files, patterns, folders or repository ids.
        data: datalist (JSON) of scans with labels, such as TotalSegmentator's.
        base_dir: folder that its paths are relative to; None: its own.
        split: list of it that is used.
        classes: a class group such as organs, ids, or None: all that the labels hold.
        out: folder for metrics.csv, metrics.json, points.csv and clusters.png.
        places: "organs": one patch around the centre of each; "windows": all whose middle lies in
            an organ.
        spacing: voxel size in mm, axes SPL; None: 1,1,1, as in the semantic search.
        patch: voxels of a patch; None: 64,64,64.
        most: patches of all scans together.
        random_seeds: how many encoders with random weights stand beside them.
        scans: use so many of the list, from its start; None: all.
        batch_size: patches that pass the encoder together.
        device: such as cuda:0; None: a GPU if there is one.
        amp: compute in the fast number format of the device.
        input_check: what to do about values that are no CT's: error, warn or off.
        progress: show bars.
        seed: of k-means, t-SNE, sampling and bootstrap.
        resamples: of the bootstrap.

    Returns:
        The table.

    Raises:
        UserError: an argument, a checkpoint or a scan is not usable, or fewer than two organs are
            in two scans.
    """
    ids = None if classes is None else class_ids_of(classes)
    candidates = find_candidates(checkpoints)
    candidates += random_candidates(candidates, random_seeds)
    base = base_dir or str(Path(data).parent)
    rows = read_datalist(data, split, base)[:scans]
    if len(rows) < 2:
        raise UserError(f"{data}: {len(rows)} scan of list {split!r}: two or more are compared")
    recipe = adapted_recipe("semantic_search", spacing=spacing, patch=patch, amp=amp)
    embedders = load_embedders(candidates, recipe, device, batch_size)
    patches = embed_patches(
        rows, base, ids, embedders, places, most, input_check, progress, seed
    ).shared()
    found, points = {}, {}
    for name in embedders:
        found[name], points[name] = _compare(patches, name, seed, resamples)
    folder = Path(out).expanduser()
    settings = {
        "data": data, "split": split, "places": places, "recipe": recipe, "seed": seed,
        "scans": list(patches.names), "patches": len(patches.scans),
    }  # fmt: skip
    metrics = [
        {"encoder": name, "metric": metric, **estimate_values(estimate)}
        for name, each in found.items()
        for metric, estimate in each.items()
    ]
    write_report(folder, PROTOCOL, REMARK, settings, candidates, metrics)
    write_csv(folder / "points.csv", _rows(patches, points))
    organs = np.array([_name(i) for i in patches.class_ids])
    draw_maps({name: each["map"] for name, each in points.items()}, organs, folder / "clusters.png")
    told = f"{len(patches.scans)} patches of {len(set(organs))} organs in {len(rows)} scans"
    return "\n".join([*summary(found, SHOWN), f"95 % bootstrap intervals; {told}; {REMARK}; "
                      f"written to {out}"])  # fmt: skip


def _compare(
    patches: Patches, encoder: str, seed: int, resamples: int
) -> tuple[dict[str, Estimate], dict[str, Array]]:
    """Figures of one encoder, and of each patch its clusters and its place on the map."""
    vectors = patches.embeddings[encoder].astype(np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    organs, scans = patches.class_ids, patches.scans
    clusters = _cluster(vectors, len(np.unique(organs)), seed)
    found = {}
    for method, mine in clusters.items():
        tables = tables_by_scan(scans, organs, mine)
        for metric, figure in FIGURES.items():
            statistic = partial(_of_resamples, figure, tables)
            found[f"{method} {metric}"] = estimate_weighted(statistic, len(tables), seed, resamples)
    silhouettes = silhouette_samples(vectors, organs, metric="cosine")
    count = np.bincount(scans)
    sums = np.bincount(scans, silhouettes)
    found["silhouette"] = estimate_ratio(sums.tolist(), count.tolist(), seed, resamples)
    return found, {**clusters, "silhouette": silhouettes, "map": _map(vectors, seed)}


def _cluster(vectors: Array, organs: int, seed: int) -> dict[str, Array]:
    """Clusters of each method; -1 is what HDBSCAN puts into none."""
    smallest = max(2, len(vectors) // organs // 2)
    return {
        "k-means": KMeans(organs, n_init=KMEANS_STARTS, random_state=seed).fit_predict(vectors),
        "HDBSCAN": HDBSCAN(min_cluster_size=smallest, copy=True).fit_predict(vectors),
    }


def _of_resamples(figure: Callable[[Array], Array], tables: Array, weights: Array) -> Array:
    return figure(np.einsum("rs,slc->rlc", weights, tables))


def _map(vectors: Array, seed: int) -> Array:
    """Two dimensions for the eye, (N, 2), by t-SNE."""
    near = min(30.0, (len(vectors) - 1) / 3)
    with np.errstate(all="ignore"):
        placed: Array = TSNE(
            perplexity=near, metric="cosine", init="random", random_state=seed
        ).fit_transform(vectors)
    return placed


def _rows(patches: Patches, points: Mapping[str, Mapping[str, Array]]) -> list[dict[str, Any]]:
    return [
        {
            "encoder": encoder, "scan": patches.names[patches.scans[i]],
            "class_id": int(patches.class_ids[i]), "organ": _name(patches.class_ids[i]),
            **{f"{axis}_mm": float(mm)
               for axis, mm in zip("xyz", patches.points[i], strict=True)},
            "k_means": int(each["k-means"][i]), "hdbscan": int(each["HDBSCAN"][i]),
            "silhouette": float(each["silhouette"][i]),
            "map_x": float(each["map"][i, 0]), "map_y": float(each["map"][i, 1]),
        }
        for encoder, each in points.items()
        for i in range(len(patches.scans))
    ]  # fmt: skip


def _name(class_id: Any) -> str:
    return TOTALSEGMENTATOR_V2.get(int(class_id), f"class {int(class_id)}")

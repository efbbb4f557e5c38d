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

from ctfm.base.types import Array
from ctfm.contract.classes import class_name
from ctfm.embedding.options import PatchOptions
from ctfm.evaluation.intervals import Estimate, estimate_ratio, estimate_weighted
from ctfm.protocols.agreement import adjusted_rand_index, mutual_information, tables_by_scan
from ctfm.protocols.maps import draw_maps
from ctfm.protocols.options import (
    BootstrapOptions,
    EncoderOptions,
    LabelledOptions,
    ReadingOptions,
)
from ctfm.protocols.patches import EmbeddedPatches, embed_patches
from ctfm.protocols.protocol_report import estimate_rows, summary, write_csv, write_report
from ctfm.protocols.ranking import unit_rows

__all__ = ["run_clustering"]

PROTOCOL = (
    "embeddings of patches of organs, of length one, in clusters by k-means (as many as organs) "
    "and HDBSCAN (what it leaves out is one cluster more), against the organs; silhouette of the "
    "organs by cosine"
)
REMARK = "organs that a single scan shows are left out; scans are resampled whole"
SHOWN = ("k-means NMI", "k-means ARI", "HDBSCAN NMI", "HDBSCAN ARI", "silhouette")
KMEANS_STARTS = 10
LABELLED, PATCHES, READING = LabelledOptions(), PatchOptions(), ReadingOptions()
ENCODERS, BOOTSTRAP = EncoderOptions(), BootstrapOptions()
FIGURES: dict[str, Callable[[Array], Array]] = {
    "NMI": mutual_information,
    "ARI": adjusted_rand_index,
}


def run_clustering(
    checkpoints: Sequence[str],
    data: str,
    out: str = "clustering",
    places: str = "organs",
    most: int = 5000,
    labelled: LabelledOptions = LABELLED,
    encoders: EncoderOptions = ENCODERS,
    patches: PatchOptions = PATCHES,
    reading: ReadingOptions = READING,
    bootstrap: BootstrapOptions = BOOTSTRAP,
) -> str:
    """Cluster patches of organs of many scans, and compare the clusters with the organs.

    Args:
        checkpoints: encoders: files, patterns, folders or repository ids.
        data: datalist (JSON) of scans with labels, such as TotalSegmentator's.
        out: folder for metrics.csv, metrics.json, points.csv and clusters.png.
        places: "organs": one patch around the centre of each; "windows": all whose middle lies in
            an organ.
        most: patches of all scans together.
        labelled: scans and classes.
        encoders: random ones, and how all compute.
        patches: as in the semantic search.
        reading: of the scans.
        bootstrap: of the intervals; its seed is that of k-means, t-SNE and sampling too.

    Returns:
        The table.

    Raises:
        UserError: an argument, a checkpoint or a scan is not usable, or fewer than two organs are
            in two scans.
    """
    candidates = encoders.candidates(checkpoints)
    scans = labelled.read(data, least=2)
    recipe = patches.recipe("semantic_search", amp=encoders.amp)
    embedders = encoders.embedders(candidates, recipe)
    embedded = embed_patches(scans, embedders, places, most, reading, bootstrap.seed).shared()
    estimates, points = {}, {}
    for name in embedders:
        estimates[name], points[name] = _compare(embedded, name, bootstrap)
    folder = Path(out).expanduser()
    settings = {
        "data": data,
        "split": labelled.split,
        "places": places,
        "recipe": recipe,
        "seed": bootstrap.seed,
        "scans": list(embedded.names),
        "patches": len(embedded.scans),
    }
    metrics = estimate_rows(estimates, "encoder", "metric")
    write_report(folder, PROTOCOL, REMARK, settings, candidates, metrics)
    write_csv(folder / "points.csv", _rows(embedded, points))
    organs = np.array([class_name(int(i)) for i in embedded.class_ids])
    draw_maps({name: each["map"] for name, each in points.items()}, organs, folder / "clusters.png")
    counts = (
        f"{len(embedded.scans)} patches of {len(set(organs))} organs in {len(scans.rows)} scans"
    )
    return "\n".join(
        [
            *summary(estimates, SHOWN),
            f"95 % bootstrap intervals; {counts}; {REMARK}; written to {out}",
        ]
    )


def _compare(
    patches: EmbeddedPatches, encoder: str, bootstrap: BootstrapOptions
) -> tuple[dict[str, Estimate], dict[str, Array]]:
    """Figures of one encoder, and of each patch its clusters and its place on the map."""
    vectors = unit_rows(patches.embeddings[encoder].astype(np.float64))
    organs, scans, seed = patches.class_ids, patches.scans, bootstrap.seed
    resamples = bootstrap.resamples
    clusters = _cluster(vectors, len(np.unique(organs)), seed)
    estimates = {}
    for method, mine in clusters.items():
        tables = tables_by_scan(scans, organs, mine)
        for metric, figure in FIGURES.items():
            statistic = partial(_of_resamples, figure, tables)
            estimates[f"{method} {metric}"] = estimate_weighted(
                statistic, len(tables), seed, resamples
            )
    silhouettes = silhouette_samples(vectors, organs, metric="cosine")
    count = np.bincount(scans)
    sums = np.bincount(scans, silhouettes)
    estimates["silhouette"] = estimate_ratio(sums.tolist(), count.tolist(), seed, resamples)
    return estimates, {**clusters, "silhouette": silhouettes, "map": _map(vectors, seed)}


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


def _rows(
    patches: EmbeddedPatches, points: Mapping[str, Mapping[str, Array]]
) -> list[dict[str, Any]]:
    return [
        {
            "encoder": encoder,
            "scan": patches.names[patches.scans[i]],
            "class_id": int(patches.class_ids[i]),
            "organ": class_name(int(patches.class_ids[i])),
            **{f"{axis}_mm": float(mm) for axis, mm in zip("xyz", patches.points[i], strict=True)},
            "k_means": int(each["k-means"][i]),
            "hdbscan": int(each["HDBSCAN"][i]),
            "silhouette": float(each["silhouette"][i]),
            "map_x": float(each["map"][i, 0]),
            "map_y": float(each["map"][i, 1]),
        }
        for encoder, each in points.items()
        for i in range(len(patches.scans))
    ]

"""A place of one scan, looked for in another; the answer as text, JSON, map and picture."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.linalg import norm

from ctfm import __version__
from ctfm.base.errors import UserError
from ctfm.base.files import atomic_path
from ctfm.base.types import Array
from ctfm.embedding.embedder import Embedder
from ctfm.embedding.options import WindowOptions
from ctfm.embedding.windows import cut_window
from ctfm.imaging.class_names import spelled
from ctfm.imaging.grids import voxels_to_mm
from ctfm.pictures.located import View, draw_search
from ctfm.search.locating.heat import heat_map, write_heat_map
from ctfm.search.locating.locations import (
    Location,
    PreparedScan,
    find_location,
    read_prepared,
)
from ctfm.search.locating.search import (
    WORK,
    SimilarityMap,
    WindowSimilarity,
    look_closer,
    look_everywhere,
)
from ctfm.search.options import LocationOptions, SearchEncoder

__all__ = ["LocatingEncoder", "locate"]

#: Other places that are told beside the answer, at least so many windows from each other.
OTHERS, APART = 4, 3
Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class LocatingEncoder(SearchEncoder):
    """The encoder whose embeddings are compared, and how it computes.

    Attributes:
        sw_batch_size: windows that pass the encoder together.
        amp: compute in the fast number format of the device.
        progress: show a bar, on a terminal.
    """

    sw_batch_size: int = 16
    amp: bool = True
    progress: bool = True

    def load(self, windows: WindowOptions) -> Embedder:
        """The encoder with the recipe of the semantic search.

        Raises:
            UserError: there is no encoder, or an option is not usable.
        """
        if self.checkpoint is None:
            raise UserError(
                "no encoder is given: add --checkpoint FILE (ctfm weights fetch gets one)"
            )
        recipe = windows.recipe("semantic_search")
        return Embedder.load(
            str(self.checkpoint), recipe, self.device, self.amp, self.sw_batch_size
        )


LOCATION, WINDOWS, ENCODER = LocationOptions(), WindowOptions(), LocatingEncoder()


def locate(
    query: str,
    target: str,
    out: str = "locate",
    location: LocationOptions = LOCATION,
    labels_query: str | None = None,
    labels_target: str | None = None,
    work: float = WORK,
    exhaustive: bool = False,
    windows: WindowOptions = WINDOWS,
    encoder: LocatingEncoder = ENCODER,
) -> str:
    """Find a place of one scan in another, by the similarity of embeddings.

    The answer is the centre of the window whose embedding has the largest cosine to that of the
    patch around the place, as in the published semantic search.

    Args:
        query: scan that shows the place: NIfTI, NRRD, MHA/MHD, or a DICOM series.
        target: scan in which it is looked for.
        out: folder for locate.json, locate.png and similarity.nii.gz.
        location: the place; the answer's distance is told from the organ.
        labels_query: label map of the query.
        labels_target: label map of the target, which the answer is held against.
        work: share of the work of looking at every window in full that is done, above 0.125.
        exhaustive: look at every window in full.
        windows: as published where nothing else is said.
        encoder: whose embeddings are compared.

    Returns:
        The answer in some lines.

    Raises:
        UserError: a file, the place or an option is not usable.
    """
    embedder = encoder.load(windows)
    seen = read_prepared(embedder, query, labels_query, encoder.input_check)
    sought = find_location(seen, location)
    searched = read_prepared(embedder, target, labels_target, encoder.input_check)
    start = time.perf_counter()
    share = None if exhaustive else work
    similarities = _search(embedder, seen, sought, searched, share, encoder.progress)
    seconds = time.perf_counter() - start
    document = {
        "query": _described(seen, sought.point),
        **_answers(searched, similarities),
        "organ": _judged(searched, sought, similarities, seen.names or searched.names),
        "windows": _counted(similarities),
        "seconds": round(seconds, 3),
        "recipe": embedder.recipe,
        "encoder_sha256": embedder.fingerprint,
        "ctfm_version": __version__,
    }
    _write(Path(out).expanduser(), document, (seen, searched), similarities, sought)
    return _told(document, out)


def _search(
    embedder: Embedder,
    seen: PreparedScan,
    location: Location,
    searched: PreparedScan,
    work: float | None,
    progress: bool,
) -> SimilarityMap:
    corner = embedder.starts_at(seen.image, location.point[None])[0]
    patch = cut_window(seen.image.as_tensor(), corner, embedder.patch)
    similarity = WindowSimilarity.of(embedder, patch, searched.image, progress)
    grid = embedder.grid(searched.image)
    return (
        look_everywhere(similarity, grid) if work is None else look_closer(similarity, grid, work)
    )


def _described(scan: PreparedScan, point: Array) -> Record:
    return {
        "scan": scan.path,
        "point_mm": [round(float(mm), 2) for mm in point],
        "voxel": scan.voxel(point).tolist(),
    }


def _answers(scan: PreparedScan, similarities: SimilarityMap) -> Record:
    """The answer, and the best locations that are none of its neighbours."""
    affine, half = scan.image.affine.numpy(), np.asarray(similarities.grid.patch) // 2
    locations = [
        {
            **_described(scan, voxels_to_mm(affine, (start + half)[None])[0]),
            "similarity": round(cosine, 5),
        }
        for start, cosine in similarities.best(APART, 1 + OTHERS)
    ]
    return {"answer": locations[0], "others": locations[1:]}


def _judged(
    scan: PreparedScan, location: Location, similarities: SimilarityMap, names: Mapping[int, str]
) -> Record | None:
    """How far the answer is from the organ that was meant; None: that is not known."""
    if scan.labels is None or location.organ is None:
        return None
    centre = scan.centroid(location.organ)
    answer = _answers(scan, similarities)["answer"]
    known = centre is not None
    return {
        "class_id": location.organ,
        "name": spelled(location.organ, names),
        "centroid_mm": [round(float(mm), 2) for mm in centre] if centre is not None else None,
        "distance_mm": round(float(norm(centre - answer["point_mm"])), 2) if known else None,
        "inside": scan.label_at(np.array(answer["voxel"])) == location.organ if known else None,
    }


def _counted(similarities: SimilarityMap) -> Record:
    full, total = int(similarities.looked_at.sum()), int(similarities.looked_at.size)
    return {
        "total": total,
        "in_full": full,
        "at_half_resolution": 0 if full == total else total,
        "share_of_work": round(similarities.work, 4),
    }


def _write(
    folder: Path,
    document: Record,
    scans: tuple[PreparedScan, PreparedScan],
    similarities: SimilarityMap,
    location: Location,
) -> None:
    seen, searched = scans
    heat = heat_map(similarities, searched)
    write_heat_map(heat, searched.affine, folder / "similarity.nii.gz")
    recipe, answer, told = document["recipe"], document["answer"], document["query"]
    sides = zip(recipe["patch"], recipe["spacing"], strict=True)
    box = tuple(voxels * mm for voxels, mm in sides)
    views = [
        View(
            Path(scan.path).name,
            scan.stored[0].numpy(),
            scan.affine,
            _inside(scan, voxel),
            box,
            warm,
            None if scan.labels is None else scan.labels == location.organ,
        )
        for scan, voxel, warm in ((seen, told["voxel"], None), (searched, answer["voxel"], heat))
    ]
    captions = f"looked for: {_spelled(told)}", _caption(document)
    draw_search(views[0], views[1], folder / "locate.png", captions)
    with atomic_path(folder / "locate.json") as temporary:
        temporary.write_text(json.dumps(document, indent=4) + "\n", encoding="utf-8")


def _inside(scan: PreparedScan, voxel: Sequence[int]) -> tuple[int, ...]:
    """The nearest voxel that there is: windows reach over the edge."""
    last = np.array(scan.stored.shape[1:]) - 1
    return tuple(int(i) for i in np.clip(voxel, 0, last))


def _spelled(location: Record) -> str:
    point = ", ".join(f"{mm:.1f}" for mm in location["point_mm"])
    return f"{point} mm (voxel {', '.join(map(str, location['voxel']))})"


def _caption(document: Record) -> str:
    answer, organ = document["answer"], document["organ"]
    text = f"found: {_spelled(answer)}, cosine {answer['similarity']:.4f}"
    if organ is None:
        return text
    if organ["distance_mm"] is None:
        return f"{text}; the labels do not show {organ['name']}"
    where = "inside" if organ["inside"] else "outside"
    return f"{text}; {organ['distance_mm']:.1f} mm from the centre of {organ['name']}, {where}"


def _told(document: Record, out: str) -> str:
    windows, others = document["windows"], document["others"]
    lines = [f"{document['answer']['scan']}: {_caption(document)}"]
    if others:
        lines.append(f"next: {_spelled(others[0])}, cosine {others[0]['similarity']:.4f}")
    half = f", {windows['at_half_resolution']} at half the resolution" * (
        windows["at_half_resolution"] > 0
    )
    lines.append(
        f"windows: {windows['in_full']} of {windows['total']} in full{half}: "
        f"{windows['share_of_work']:.0%} of the work, {document['seconds']:.1f} s"
    )
    lines.append(f"written to {out}: locate.json, locate.png, similarity.nii.gz")
    return "\n".join(lines)

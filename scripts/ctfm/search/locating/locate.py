"""A place of one scan, looked for in another; the answer as text, JSON, map and picture."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.linalg import norm

from ctfm import __version__
from ctfm.base.errors import UserError
from ctfm.base.files import atomic_path
from ctfm.base.types import Array
from ctfm.contract.classes import TOTALSEGMENTATOR_V2
from ctfm.contract.tasks import ENCODER
from ctfm.embedding.embedder import Embedder
from ctfm.embedding.recipes import make_recipe
from ctfm.embedding.windows import cut_window
from ctfm.imaging.grids import voxels_to_mm
from ctfm.pictures.located import View, draw_search
from ctfm.search.locating.heat import heat_map, write_heat_map
from ctfm.search.locating.places import Place, Scan, find_place, read_labelled
from ctfm.search.locating.search import WORK, Found, Likeness, look_closer, look_everywhere

__all__ = ["locate_place"]

#: Other places that are told beside the answer, at least so many windows from each other.
OTHERS, APART = 4, 3
Record = dict[str, Any]


def locate_place(
    query: str,
    target: str,
    checkpoint: str | None = None,
    out: str = "locate",
    point: Any = None,
    voxel: Any = None,
    organ: Any = None,
    labels_query: str | None = None,
    labels_target: str | None = None,
    work: float = WORK,
    exhaustive: bool = False,
    spacing: Sequence[float] | None = None,
    patch: Sequence[int] | None = None,
    overlap: float | None = None,
    sw_batch_size: int = 16,
    device: str | None = None,
    amp: bool = True,
    input_check: str = "error",
    progress: bool = True,
) -> str:
    """Find a place of one scan in another, by the likeness of embeddings.

    The answer is the centre of the window whose embedding has the largest cosine to that of the
    patch around the place, as in the published semantic search.

    Args:
        query: scan that shows the place: NIfTI, NRRD, MHA/MHD, or a DICOM series.
        target: scan in which it is looked for.
        checkpoint: encoder, as file, folder or repository id.
        out: folder for locate.json, locate.png and similarity.nii.gz.
        point: the place, x,y,z in mm, RAS+.
        voxel: the place, i,j,k of the query's stored array, from 0.
        organ: class (name or id) whose centre of mass is the place where none is given, and from
            which the answer's distance is told; None: the class at the place.
        labels_query: label map of the query.
        labels_target: label map of the target, which the answer is held against.
        work: share of the work of looking at every window in full that is done, above 0.125.
        exhaustive: look at every window in full.
        spacing: voxel size in mm, axes SPL; None: 1,1,1, as published.
        patch: voxels of a window; None: 64,64,64, as published.
        overlap: share of a window that neighbours have in common; None: 0.625, as published.
        sw_batch_size: windows that pass the encoder together.
        device: such as cuda:0; None: a GPU if there is one.
        amp: compute in the fast number format of the device.
        input_check: what to do about values that are no CT's: error, warn or off.
        progress: show a bar.

    Returns:
        The answer in some lines.

    Raises:
        UserError: a file, the place or an option is not usable.
    """
    if checkpoint is None:
        raise UserError("no encoder is given: add --checkpoint FILE (ctfm weights fetch gets one)")
    changes = {"spacing": spacing, "patch": patch, "overlap": overlap}
    recipe = make_recipe("semantic_search", **{k: v for k, v in changes.items() if v is not None})
    if min(recipe["patch"]) < ENCODER.divisor:  # of half of less, the encoder leaves nothing
        raise UserError(f"patch is {recipe['patch']}: give sides from {ENCODER.divisor}")
    embedder = Embedder.load(str(checkpoint), recipe, device, amp, sw_batch_size)
    seen = read_labelled(embedder, query, labels_query, input_check)
    place = find_place(seen, point, voxel, organ)
    searched = read_labelled(embedder, target, labels_target, input_check)
    start = time.perf_counter()
    found = _search(embedder, seen, place, searched, None if exhaustive else work, progress)
    seconds = time.perf_counter() - start
    document = {
        "query": _described(seen, place.point),
        **_answers(searched, found),
        "organ": _judged(searched, place, found),
        "windows": _counted(found),
        "seconds": round(seconds, 3),
        "recipe": embedder.recipe,
        "encoder_sha256": embedder.fingerprint,
        "ctfm_version": __version__,
    }
    _write(Path(out).expanduser(), document, (seen, searched), found, place)
    return _told(document, out)


def _search(
    embedder: Embedder, seen: Scan, place: Place, searched: Scan, work: float | None, progress: bool
) -> Found:
    corner = embedder.starts_at(seen.image, place.point[None])[0]
    patch = cut_window(seen.image.as_tensor(), corner, embedder.patch)
    likeness = Likeness.of(embedder, patch, searched.image, progress)
    grid = embedder.grid(searched.image)
    return look_everywhere(likeness, grid) if work is None else look_closer(likeness, grid, work)


def _described(scan: Scan, point: Array) -> Record:
    return {
        "scan": scan.path,
        "point_mm": [round(float(mm), 2) for mm in point],
        "voxel": scan.voxel(point).tolist(),
    }


def _answers(scan: Scan, found: Found) -> Record:
    """The answer, and the best places that are none of its neighbours."""
    affine, half = scan.image.affine.numpy(), np.asarray(found.grid.patch) // 2
    places = [
        {
            **_described(scan, voxels_to_mm(affine, (start + half)[None])[0]),
            "similarity": round(cosine, 5),
        }
        for start, cosine in found.places(APART, 1 + OTHERS)
    ]
    return {"answer": places[0], "others": places[1:]}


def _judged(scan: Scan, place: Place, found: Found) -> Record | None:
    """How far the answer is from the organ that was meant; None: that is not known."""
    if scan.labels is None or place.organ is None:
        return None
    centre = scan.centroid(place.organ)
    answer = _answers(scan, found)["answer"]
    known = centre is not None
    return {
        "class_id": place.organ,
        "name": TOTALSEGMENTATOR_V2.get(place.organ, f"class {place.organ}"),
        "centroid_mm": [round(float(mm), 2) for mm in centre] if centre is not None else None,
        "distance_mm": round(float(norm(centre - answer["point_mm"])), 2) if known else None,
        "inside": scan.label_at(np.array(answer["voxel"])) == place.organ if known else None,
    }


def _counted(found: Found) -> Record:
    full, total = int(found.looked_at.sum()), int(found.looked_at.size)
    return {
        "total": total,
        "in_full": full,
        "at_half_resolution": 0 if full == total else total,
        "share_of_work": round(found.work, 4),
    }


def _write(
    folder: Path, document: Record, scans: tuple[Scan, Scan], found: Found, place: Place
) -> None:
    seen, searched = scans
    heat = heat_map(found, searched)
    write_heat_map(heat, searched.affine, folder / "similarity.nii.gz")
    recipe, answer, told = document["recipe"], document["answer"], document["query"]
    sides = zip(recipe["patch"], recipe["spacing"], strict=True)
    box = tuple(voxels * mm for voxels, mm in sides)
    views = [
        View(Path(scan.path).name, scan.stored[0].numpy(), scan.affine, _inside(scan, voxel), box,
             warm, None if scan.labels is None else scan.labels == place.organ)
        for scan, voxel, warm in ((seen, told["voxel"], None), (searched, answer["voxel"], heat))
    ]  # fmt: skip
    captions = f"looked for: {_spelled(told)}", _caption(document)
    draw_search(views[0], views[1], folder / "locate.png", captions)
    with atomic_path(folder / "locate.json") as temporary:
        temporary.write_text(json.dumps(document, indent=4) + "\n", encoding="utf-8")


def _inside(scan: Scan, voxel: Sequence[int]) -> tuple[int, ...]:
    """The nearest voxel that there is: windows reach over the edge."""
    last = np.array(scan.stored.shape[1:]) - 1
    return tuple(int(i) for i in np.clip(voxel, 0, last))


def _spelled(place: Record) -> str:
    point = ", ".join(f"{mm:.1f}" for mm in place["point_mm"])
    return f"{point} mm (voxel {', '.join(map(str, place['voxel']))})"


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

"""Saliency: does the embedding of a patch around an organ hang on the organ, or on what is near?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ctfm.base.errors import UserError
from ctfm.base.types import Array
from ctfm.datalists.reading import read_datalist
from ctfm.embedding.embedder import Embedder
from ctfm.evaluation.intervals import Estimate, estimate_ratio
from ctfm.imaging.grids import spacing_of
from ctfm.imaging.scans import stem
from ctfm.pictures.patches import draw_patch
from ctfm.protocols.embedders import adapted_recipe, load_embedders
from ctfm.protocols.occlusion import occlusion
from ctfm.protocols.probing.cases import scan_name
from ctfm.protocols.probing.encoders import find_candidates, random_candidates
from ctfm.protocols.probing.ranking import class_ids_of
from ctfm.protocols.protocol_report import estimate_values, summary, write_csv, write_report
from ctfm.protocols.saliency_patches import Patch, around_organs, around_place, moved
from ctfm.search.locating.heat import write_heat_map
from ctfm.search.locating.places import Scan, read_labelled

__all__ = ["run_saliency"]

PROTOCOL = (
    "patches around organs; a cube of a quarter of each side is covered with the patch's mean, in "
    "steps of half a cube; saliency of a voxel: average cosine distance that the embedding moves"
)
INSIDE, VOLUME, FOCUS = "saliency in the organ", "patch in the organ", "saliency / volume"
REMARK = (
    f"{FOCUS}: 1 where an embedding hangs on the organ as on anything else; scans are resampled"
)


#: Position of a patch's scan, the scan's name, the scan, and the patch.
Work = Iterator[tuple[int, str, Scan, Patch]]


def run_saliency(
    checkpoints: Sequence[str],
    data: str | None = None,
    scan: str | None = None,
    point: Any = None,
    voxel: Any = None,
    organ: Any = None,
    labels: str | None = None,
    base_dir: str | None = None,
    split: str = "validation",
    classes: str | int | Sequence[int] | None = None,
    out: str = "saliency",
    pictures: int = 6,
    spacing: Sequence[float] | None = None,
    patch: Sequence[int] | None = None,
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
    """Cover parts of patches around organs, and see how far their embeddings move.

    It takes 343 passes of the encoder for each organ of each scan. With `scan` in place of `data`
    it is done for one place, which needs no labels: the maps are written then, and no figures.

    Args:
        checkpoints: encoders: files, patterns, folders or repository ids.
        data: datalist (JSON) of scans with labels, such as TotalSegmentator's.
        scan: one scan: NIfTI, NRRD, MHA/MHD, or a DICOM series.
        point: place in it, x,y,z in mm, RAS+.
        voxel: place in it, i,j,k of the stored array, from 0.
        organ: name or id; without point and voxel, its centre of mass is the place.
        labels: label map of `scan`.
        base_dir: folder that the datalist's paths are relative to; None: its own.
        split: list of it that is used.
        classes: a class group such as organs, ids, or None: all that the labels hold.
        out: folder for metrics.csv, metrics.json, organs.csv and maps.
        pictures: so many patches are drawn, and their maps written on the scan's grid.
        spacing: voxel size in mm, axes SPL; None: 1,1,1, as in the semantic search.
        patch: voxels of a patch; None: 64,64,64.
        random_seeds: how many encoders with random weights stand beside them.
        scans: use so many of the list, from its start; None: all.
        batch_size: patches that pass the encoder together.
        device: such as cuda:0; None: a GPU if there is one.
        amp: compute in the fast number format of the device.
        input_check: what to do about values that are no CT's: error, warn or off.
        progress: show bars.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        The table.

    Raises:
        UserError: an argument, a checkpoint or a scan is not usable.
    """
    place = {"point": point, "voxel": voxel, "organ": organ}
    _check(data, scan, labels, place)
    ids = None if classes is None else class_ids_of(classes)
    candidates = find_candidates(checkpoints)
    candidates += random_candidates(candidates, random_seeds)
    recipe = adapted_recipe("semantic_search", spacing=spacing, patch=patch, amp=amp)
    if data is not None:
        base = base_dir or str(Path(data).parent)
        rows = read_datalist(data, split, base)[:scans]
    embedders = load_embedders(candidates, recipe, device, batch_size)
    first = next(iter(embedders.values()))
    if scan is not None:
        count, work = 1, _one_place(scan, labels, place, first, input_check)
    else:
        count, work = len(rows), _all_organs(rows, base, ids, first, input_check, progress)
    folder = Path(out).expanduser()
    found: list[dict[str, Any]] = []
    for number, name, one, part in work:
        maps = {each: _map(mine, part, progress) for each, mine in embedders.items()}
        if len(found) < pictures * len(maps):
            _write_maps(folder / "maps", name, one, part, maps)
        found += [_row(number, name, each, part, heat) for each, heat in maps.items()]
    if not found:
        raise UserError(f"{data}: the labels of {count} scans show none of the classes")
    estimates = {name: _estimate(found, name, count, seed, resamples) for name in embedders}
    metrics = [
        {"encoder": name, "metric": metric, **estimate_values(estimate)}
        for name, each in estimates.items()
        for metric, estimate in each.items()
    ]
    given = {key: value for key, value in place.items() if value is not None}
    settings = {"data": data, "split": split, "scan": scan, **given, "recipe": recipe, "seed": seed}
    write_report(folder, PROTOCOL, REMARK, settings, candidates, metrics)
    write_csv(folder / "organs.csv", [{k: v for k, v in row.items() if k != "n"} for row in found])
    table = summary(estimates, (INSIDE, VOLUME, FOCUS))
    told = f"patches: {len(found) // len(embedders)}, scans: {count}"
    return "\n".join([*table, f"95 % bootstrap intervals; {told}; {REMARK}; written to {out}"])


def _check(
    data: str | None, scan: str | None, labels: str | None, place: Mapping[str, Any]
) -> None:
    if (data is None) == (scan is None):
        raise UserError(
            "give --data DATALIST for the organs of many scans, or --scan FILE and a place in it"
        )
    if data is not None and (labels or any(value is not None for value in place.values())):
        raise UserError(
            "a place and its labels are of one scan: give --scan FILE in place of --data"
        )


def _all_organs(
    rows: Sequence[Mapping[str, Any]],
    base_dir: str,
    ids: Sequence[int] | None,
    embedder: Embedder,
    input_check: str,
    progress: bool,
) -> Work:
    for number, row in enumerate(tqdm(rows, "scans", disable=None if progress else True)):
        path, label = str(row["image"]), row.get("label")
        if not isinstance(label, str):
            raise UserError(f"{path}: the datalist has no label file for it: give one")
        scan = read_labelled(embedder, path, label, input_check)
        for patch in around_organs(scan, ids, embedder):
            yield number, scan_name(path, base_dir), scan, patch


def _one_place(
    path: str,
    labels: str | None,
    place: Mapping[str, Any],
    embedder: Embedder,
    input_check: str,
) -> Work:
    scan = read_labelled(embedder, str(path), labels, input_check)
    yield 0, Path(path).name, scan, around_place(scan, embedder, **place)


def _map(embedder: Embedder, patch: Patch, progress: bool) -> Array:
    cube = [max(side // 4, 1) for side in embedder.patch]
    stride = [max(side // 8, 1) for side in embedder.patch]
    return occlusion(patch.image, embedder.apply, cube, stride, embedder.sw_batch_size, progress)


def _row(number: int, scan: str, encoder: str, patch: Patch, heat: Array) -> dict[str, Any]:
    inside = volume = float("nan")
    if patch.organ is not None:
        volume = float(patch.organ.mean())
        mass = float(heat.sum())
        inside = float(heat[patch.organ].sum()) / mass if mass > 0 else volume
    return {
        "encoder": encoder, "scan": scan, "class_id": patch.class_id, "organ": patch.what,
        INSIDE: inside, VOLUME: volume, FOCUS: inside / volume, "n": number,
    }  # fmt: skip


def _estimate(
    rows: Sequence[Mapping[str, Any]], encoder: str, scans: int, seed: int, resamples: int
) -> dict[str, Estimate]:
    """Averages over organs; those of one scan hang together."""
    mine = [row for row in rows if row["encoder"] == encoder and not np.isnan(row[VOLUME])]
    places = np.array([row["n"] for row in mine], dtype=int)
    count = np.bincount(places, minlength=scans).tolist()
    return {
        metric: estimate_ratio(
            np.bincount(places, [row[metric] for row in mine], scans).tolist(), count, seed,
            resamples,
        )
        for metric in (INSIDE, VOLUME, FOCUS)
    }  # fmt: skip


def _write_maps(
    folder: Path, scan: str, read: Scan, patch: Patch, maps: Mapping[str, Array]
) -> None:
    """The maps on the scan's grid, 0 outside of the patch, and a picture of them."""
    what = "place" if patch.class_id is None else patch.what
    name = _file_name(f"{Path(scan).parent / stem(scan)}_{what}")
    shape = tuple(read.stored.shape[1:])
    for encoder, heat in maps.items():
        spread = moved(heat, patch.affine, read.affine, shape, 1)
        path = folder / f"{name}_{_file_name(encoder)}.nii.gz"
        write_heat_map(spread, read.affine, path)
    sizes = spacing_of(patch.affine)
    draw_patch(
        patch.image[0].numpy(), patch.organ, maps, folder / f"{name}.png", f"{patch.what}, {scan}",
        sizes.tolist(),
    )  # fmt: skip


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text).strip("._")

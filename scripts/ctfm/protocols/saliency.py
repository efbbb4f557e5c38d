"""Saliency: does the embedding of a patch around an organ hang on the organ, or on what is near?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from torch import Tensor
from tqdm import tqdm

from ctfm.classes import TOTALSEGMENTATOR_V2
from ctfm.datalists.reading import read_datalist
from ctfm.embedding import Embedder, cut_window
from ctfm.errors import UserError
from ctfm.intervals import Estimate, estimate_ratio
from ctfm.locating.heat import write_heat_map
from ctfm.locating.places import Scan, read_labelled
from ctfm.probing.encoders import find_candidates, random_candidates
from ctfm.probing.probe import class_ids_of
from ctfm.protocols.embedders import adapted_recipe, load_embedders
from ctfm.protocols.occlusion import occlusion
from ctfm.protocols.patch_pictures import draw_patch
from ctfm.protocols.report import estimate_values, summary, write_csv, write_report
from ctfm.scans import stem

__all__ = ["saliency"]

Array = npt.NDArray[Any]

PROTOCOL = (
    "patches around organs; a cube of a quarter of each side is covered with the patch's mean, in "
    "steps of half a cube; saliency of a voxel: average cosine distance that the embedding moves"
)
INSIDE, VOLUME, FOCUS = "saliency in the organ", "patch in the organ", "saliency / volume"
REMARK = (
    f"{FOCUS}: 1 where an embedding hangs on the organ as on anything else; scans are resampled"
)


@dataclass(frozen=True)
class Patch:
    """A patch around an organ.

    Attributes:
        scan: position of its scan.
        class_id: of the organ.
        image: (1, D, H, W), as the encoder sees it.
        organ: mask of the organ, (D, H, W).
        affine: voxel to mm, (4, 4).
    """

    scan: int
    class_id: int
    image: Tensor
    organ: Array
    affine: Array


def saliency(
    checkpoints: Sequence[str],
    data: str,
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

    It takes 343 passes of the encoder for each organ of each scan.

    Args:
        checkpoints: encoders: files, patterns, folders or repository ids.
        data: datalist (JSON) of scans with labels, such as TotalSegmentator's.
        base_dir: folder that its paths are relative to; None: its own.
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
        progress: show a bar.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        The table.

    Raises:
        UserError: an argument, a checkpoint or a scan is not usable.
    """
    ids = None if classes is None else class_ids_of(classes)
    candidates = find_candidates(checkpoints)
    candidates += random_candidates(candidates, random_seeds)
    rows = read_datalist(data, split, base_dir or str(Path(data).parent))[:scans]
    recipe = adapted_recipe("semantic_search", spacing=spacing, patch=patch, amp=amp)
    embedders = load_embedders(candidates, recipe, device, batch_size)
    folder = Path(out).expanduser()
    found: list[dict[str, Any]] = []
    for number, row in enumerate(tqdm(rows, "scans", disable=None if progress else True)):
        if not isinstance(row.get("label"), str):
            raise UserError(f"{row['image']}: the datalist has no label file for it: give one")
        scan = read_labelled(
            next(iter(embedders.values())), row["image"], row["label"], input_check
        )
        for one in _patches(scan, number, ids, embedders):
            maps = {name: _map(mine, one) for name, mine in embedders.items()}
            if len(found) < pictures * len(maps):
                _write_maps(folder / "maps", scan, one, maps)
            found += [_row(scan, name, one, heat) for name, heat in maps.items()]
    if not found:
        raise UserError(f"{data}: the labels of {len(rows)} scans show none of the classes")
    estimates = {name: _estimate(found, name, len(rows), seed, resamples) for name in embedders}
    metrics = [
        {"encoder": name, "metric": metric, **estimate_values(estimate)}
        for name, each in estimates.items()
        for metric, estimate in each.items()
    ]
    settings = {"data": data, "split": split, "recipe": recipe, "seed": seed}
    write_report(folder, PROTOCOL, REMARK, settings, candidates, metrics)
    write_csv(folder / "organs.csv", [{k: v for k, v in row.items() if k != "n"} for row in found])
    table = summary(estimates, (INSIDE, VOLUME, FOCUS))
    told = f"{len(found) // len(embedders)} patches in {len(rows)} scans"
    return "\n".join([*table, f"95 % bootstrap intervals; {told}; {REMARK}; written to {out}"])


def _patches(
    scan: Scan, number: int, ids: Sequence[int] | None, embedders: Mapping[str, Embedder]
) -> list[Patch]:
    """One around the centre of mass of each class, those that are cropped away left out."""
    embedder = next(iter(embedders.values()))
    assert scan.labels is not None
    there = [int(i) for i in np.unique(scan.labels) if i > 0 and (ids is None or i in ids)]
    found = []
    for class_id in there:
        centre = scan.centroid(class_id)
        assert centre is not None
        start = embedder.starts_at(scan.image, centre[None])[0]
        affine = scan.image.affine.numpy().astype(float)
        affine[:3, 3] += affine[:3, :3] @ start
        mask = _moved(scan.labels == class_id, scan.affine, affine, embedder.patch, 0) > 0
        if mask.any():
            image = cut_window(scan.image.as_tensor(), start.tolist(), embedder.patch)
            found.append(Patch(number, class_id, image, mask, affine))
    return found


def _map(embedder: Embedder, patch: Patch) -> Array:
    cube = [max(side // 4, 1) for side in embedder.patch]
    stride = [max(side // 8, 1) for side in embedder.patch]
    return occlusion(patch.image, embedder.apply, cube, stride, embedder.sw_batch_size)


def _row(scan: Scan, encoder: str, patch: Patch, heat: Array) -> dict[str, Any]:
    volume = float(patch.organ.mean())
    mass = float(heat.sum())
    inside = float(heat[patch.organ].sum()) / mass if mass > 0 else volume
    return {
        "encoder": encoder, "scan": stem(scan.path), "class_id": patch.class_id,
        "organ": _name(patch.class_id), INSIDE: inside, VOLUME: volume, FOCUS: inside / volume,
        "n": patch.scan,
    }  # fmt: skip


def _estimate(
    rows: Sequence[Mapping[str, Any]], encoder: str, scans: int, seed: int, resamples: int
) -> dict[str, Estimate]:
    """Averages over organs; those of one scan hang together."""
    mine = [row for row in rows if row["encoder"] == encoder]
    places = np.array([row["n"] for row in mine])
    count = np.bincount(places, minlength=scans).tolist()
    return {
        metric: estimate_ratio(
            np.bincount(places, [row[metric] for row in mine], scans).tolist(), count, seed,
            resamples,
        )
        for metric in (INSIDE, VOLUME, FOCUS)
    }  # fmt: skip


def _write_maps(folder: Path, scan: Scan, patch: Patch, maps: Mapping[str, Array]) -> None:
    """The maps on the scan's grid, 0 outside of the patch, and a picture of them."""
    name = f"{stem(scan.path)}_{_name(patch.class_id)}"
    shape = tuple(scan.stored.shape[1:])
    for encoder, heat in maps.items():
        spread = _moved(heat, patch.affine, scan.affine, shape, 1)
        path = folder / f"{name}_{re.sub(r'[^A-Za-z0-9.-]+', '_', encoder)}.nii.gz"
        write_heat_map(spread, scan.affine, path)
    title = f"{_name(patch.class_id)}, {Path(scan.path).name}"
    draw_patch(patch.image[0].numpy(), patch.organ, maps, folder / f"{name}.png", title)


def _moved(values: Array, affine: Array, target: Array, shape: Any, order: int) -> Array:
    """Values on one grid at the voxels of another; 0 outside."""
    matrix = np.linalg.inv(affine) @ target
    moved: Array = ndimage.affine_transform(
        np.asarray(values, np.float32), matrix[:3, :3], matrix[:3, 3], tuple(shape), np.float32,
        order=order, mode="constant",
    )  # fmt: skip
    return moved


def _name(class_id: int) -> str:
    return TOTALSEGMENTATOR_V2.get(class_id, f"class {class_id}")

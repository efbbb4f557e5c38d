"""Saliency: does the embedding of a patch depend on its organ, or on what is near?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ctfm.base.errors import UserError
from ctfm.base.types import Array
from ctfm.embedding.embedder import Embedder
from ctfm.embedding.options import PatchOptions
from ctfm.evaluation.intervals import Estimate, estimate_ratio
from ctfm.imaging.grids import spacing_of
from ctfm.imaging.listing import stem
from ctfm.imaging.reslice import on_grid
from ctfm.pictures.patches import draw_patch
from ctfm.protocols.occlusion import occlusion
from ctfm.protocols.options import (
    BootstrapOptions,
    EncoderOptions,
    LabelledOptions,
    ListedScans,
    ReadingOptions,
)
from ctfm.protocols.probing.cases import scan_name
from ctfm.protocols.protocol_report import estimate_rows, summary, write_csv, write_report
from ctfm.protocols.saliency_patches import SalientPatch, around_location, around_organs
from ctfm.search.locating.heat import write_heat_map
from ctfm.search.locating.locations import PreparedScan, read_prepared
from ctfm.search.options import LocationOptions

__all__ = ["run_saliency"]

PROTOCOL = (
    "patches around organs; a cube of a quarter of each side is covered with the patch's mean, in "
    "steps of half a cube; saliency of a voxel: average cosine distance that the embedding moves"
)
INSIDE, VOLUME, FOCUS = "saliency in the organ", "patch in the organ", "saliency / volume"
REMARK = (
    f"{FOCUS}: 1 where an embedding depends on the organ as on anything else; scans are resampled"
)


#: Position of a patch's scan, the scan's name, the scan, and the patch.
PatchWork = Iterator[tuple[int, str, PreparedScan, SalientPatch]]


@dataclass(frozen=True, kw_only=True)
class ScanLocation(LocationOptions):
    """A location in one scan; an organ's needs labels.

    Attributes:
        scan: NIfTI, NRRD, MHA/MHD, or a DICOM series.
        labels: label map of it.
    """

    scan: str | None = None
    labels: str | None = None


LOCATION, PATCHES, READING = ScanLocation(), PatchOptions(), ReadingOptions()
LABELLED, ENCODERS, BOOTSTRAP = LabelledOptions(), EncoderOptions(), BootstrapOptions()


def run_saliency(
    checkpoints: Sequence[str],
    data: str | None = None,
    out: str = "saliency",
    pictures: int = 6,
    location: ScanLocation = LOCATION,
    labelled: LabelledOptions = LABELLED,
    encoders: EncoderOptions = ENCODERS,
    patches: PatchOptions = PATCHES,
    reading: ReadingOptions = READING,
    bootstrap: BootstrapOptions = BOOTSTRAP,
) -> str:
    """Cover parts of patches around organs, and see how far their embeddings move.

    It takes 343 passes of the encoder for each organ of each scan. With `scan` in place of `data`
    it is done for one place, which needs no labels: the maps are written then, and no figures.

    Args:
        checkpoints: encoders: files, patterns, folders or repository ids.
        data: datalist (JSON) of scans with labels, such as TotalSegmentator's.
        out: folder for metrics.csv, metrics.json, organs.csv and maps.
        pictures: so many patches are drawn, and their maps written on the scan's grid.
        location: of one scan, in place of `data`.
        labelled: scans and classes.
        encoders: random ones, and how all compute.
        patches: as in the semantic search.
        reading: of the scans.
        bootstrap: of the intervals.

    Returns:
        The table.

    Raises:
        UserError: an argument, a checkpoint or a scan is not usable.
    """
    _check(data, location)
    candidates = encoders.candidates(checkpoints)
    recipe = patches.recipe("semantic_search", amp=encoders.amp)
    scans = None if data is None else labelled.read(data)
    embedders = encoders.embedders(candidates, recipe)
    first = next(iter(embedders.values()))
    if scans is None:
        count, work = 1, _one_location(location, first, reading)
    else:
        count, work = len(scans.rows), _all_organs(scans, first, reading)
    folder = Path(out).expanduser()
    rows: list[dict[str, Any]] = []
    for number, name, scan, patch in work:
        maps = {each: _map(mine, patch, reading.progress) for each, mine in embedders.items()}
        if len(rows) < pictures * len(maps):
            _write_maps(folder / "maps", name, scan, patch, maps)
        rows += [_row(number, name, each, patch, heat) for each, heat in maps.items()]
    if not rows:
        raise UserError(f"{data}: the labels of {count} scans show none of the classes")
    estimates = {name: _estimate(rows, name, count, bootstrap) for name in embedders}
    metrics = estimate_rows(estimates, "encoder", "metric")
    settings = {
        "data": data,
        "split": labelled.split,
        "scan": location.scan,
        **_named(location),
        "recipe": recipe,
        "seed": bootstrap.seed,
    }
    write_report(folder, PROTOCOL, REMARK, settings, candidates, metrics)
    write_csv(folder / "organs.csv", [{k: v for k, v in row.items() if k != "n"} for row in rows])
    table = summary(estimates, (INSIDE, VOLUME, FOCUS))
    counts = f"patches: {len(rows) // len(embedders)}, scans: {count}"
    return "\n".join([*table, f"95 % bootstrap intervals; {counts}; {REMARK}; written to {out}"])


def _named(location: ScanLocation) -> dict[str, Any]:
    """How the location is given."""
    values = {name: getattr(location, name) for name in ("point", "voxel", "organ")}
    return {name: value for name, value in values.items() if value is not None}


def _check(data: str | None, location: ScanLocation) -> None:
    if (data is None) == (location.scan is None):
        raise UserError(
            "give --data DATALIST for the organs of many scans, or --scan FILE and a place in it"
        )
    if data is not None and (location.labels or _named(location)):
        raise UserError(
            "a place and its labels are of one scan: give --scan FILE in place of --data"
        )


def _all_organs(scans: ListedScans, embedder: Embedder, reading: ReadingOptions) -> PatchWork:
    hidden = None if reading.progress else True
    for number, row in enumerate(tqdm(scans.rows, "scans", disable=hidden)):
        path, label = str(row["image"]), row.get("label")
        if not isinstance(label, str):
            raise UserError(f"{path}: the datalist has no label file for it: give one")
        scan = read_prepared(embedder, path, label, reading.input_check)
        for patch in around_organs(scan, scans.class_ids, embedder):
            yield number, scan_name(path, scans.base_dir), scan, patch


def _one_location(location: ScanLocation, embedder: Embedder, reading: ReadingOptions) -> PatchWork:
    path = str(location.scan)
    scan = read_prepared(embedder, path, location.labels, reading.input_check)
    yield 0, Path(path).name, scan, around_location(scan, embedder, location)


def _map(embedder: Embedder, patch: SalientPatch, progress: bool) -> Array:
    cube = [max(side // 4, 1) for side in embedder.patch]
    stride = [max(side // 8, 1) for side in embedder.patch]
    return occlusion(patch.image, embedder.apply, cube, stride, embedder.sw_batch_size, progress)


def _row(number: int, scan: str, encoder: str, patch: SalientPatch, heat: Array) -> dict[str, Any]:
    inside = volume = float("nan")
    if patch.organ is not None:
        volume = float(patch.organ.mean())
        mass = float(heat.sum())
        inside = float(heat[patch.organ].sum()) / mass if mass > 0 else volume
    return {
        "encoder": encoder,
        "scan": scan,
        "class_id": patch.class_id,
        "organ": patch.what,
        INSIDE: inside,
        VOLUME: volume,
        FOCUS: inside / volume,
        "n": number,
    }


def _estimate(
    rows: Sequence[Mapping[str, Any]], encoder: str, scans: int, bootstrap: BootstrapOptions
) -> dict[str, Estimate]:
    """Averages over organs; those of one scan are not independent."""
    mine = [row for row in rows if row["encoder"] == encoder and not np.isnan(row[VOLUME])]
    numbers = np.array([row["n"] for row in mine], dtype=int)
    count = np.bincount(numbers, minlength=scans).tolist()
    return {
        metric: estimate_ratio(
            np.bincount(numbers, [row[metric] for row in mine], scans).tolist(),
            count,
            bootstrap.seed,
            bootstrap.resamples,
        )
        for metric in (INSIDE, VOLUME, FOCUS)
    }


def _write_maps(
    folder: Path, scan: str, read: PreparedScan, patch: SalientPatch, maps: Mapping[str, Array]
) -> None:
    """The maps on the scan's grid, 0 outside of the patch, and a picture of them."""
    what = "place" if patch.class_id is None else patch.what
    name = _file_name(f"{Path(scan).parent / stem(scan)}_{what}")
    shape = tuple(read.stored.shape[1:])
    for encoder, heat in maps.items():
        spread = on_grid(heat, patch.affine, read.affine, shape, 1)
        path = folder / f"{name}_{_file_name(encoder)}.nii.gz"
        write_heat_map(spread, read.affine, path)
    sizes = spacing_of(patch.affine)
    draw_patch(
        patch.image[0].numpy(),
        patch.organ,
        maps,
        folder / f"{name}.png",
        f"{patch.what}, {scan}",
        sizes.tolist(),
    )


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text).strip("._")

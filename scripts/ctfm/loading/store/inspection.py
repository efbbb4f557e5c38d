"""Is a store sound, and what does it hold."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import aff2axcodes
from tqdm import tqdm

from ctfm.base.errors import UserError
from ctfm.base.types import Array
from ctfm.contract.classes import TOTALSEGMENTATOR_V2
from ctfm.datalists.datalist import PARTS, refuse
from ctfm.imaging.grids import spacing_of
from ctfm.loading.store.conversion import POSITIONS_PER_CLASS
from ctfm.loading.store.index import INDEX, Store, StoredScan
from ctfm.loading.store.volumes import read_array, read_meta, voxel_digest

__all__ = ["check", "info"]

#: Scans that are decoded at a time; each takes as much memory as its voxels.
THREADS = 8
#: Decimal prefixes.
UNITS = ("", "k", "M", "G", "T", "P")


def check(folder: str | Path, prune: bool = False) -> str:
    """Decode every file of a store and compare it with what was written.

    Args:
        folder: made by `ctfm store build`; no build may be running in it.
        prune: delete the files that no row names, and what killed builds were writing, in place of
            listing them.

    Returns:
        One line: what is sound, and what was deleted.

    Raises:
        UserError: there are problems; each is printed on a line of its own.
    """
    store = Store(folder)
    scans = _scans(store)
    problems = _all_problems(scans)
    stray = _stray_files(store.folder, scans)
    size = sum(path.stat().st_size for path in stray)
    for path in stray:
        if prune:
            path.unlink()
        else:
            problems.append(f"{path}: no row names it (--prune deletes it)")
    advice = "Delete what is damaged and run `ctfm store build` again"
    refuse(problems, f"{store.folder} is not sound", advice)
    deleted = f"; deleted what no row named: {_plural(len(stray), 'file')}, {_short(size)}B"
    return f"{store.folder}: {_plural(len(store.entries), 'scan')} sound{deleted if stray else ''}"


def _scans(store: Store) -> list[StoredScan]:
    """Each stored scan once: rows with the same content share files."""
    unique = {e.key: StoredScan(store.folder, e, store.recipe) for e in reversed(store.entries)}
    return list(reversed(unique.values()))


def _all_problems(scans: Sequence[StoredScan]) -> list[str]:
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        found = tqdm(
            pool.map(_problems, scans), total=len(scans), unit="scan", disable=None, desc="check"
        )
        return [f"{s.entry.name}: {p}" for s, some in zip(scans, found, strict=True) for p in some]


def _problems(scan: StoredScan) -> list[str]:
    try:
        return [*_image_problems(scan), *(_label_problems(scan) if scan.entry.labelled else ())]
    except UserError as error:
        return [str(error)]
    except (LookupError, TypeError, ValueError) as error:
        return [f"{scan.image_path}: metadata are damaged ({type(error).__name__})"]


def _image_problems(scan: StoredScan) -> Iterator[str]:
    path, recipe = scan.image_path, scan.recipe
    voxels, meta = read_array(path)
    yield from _array_problems(path, voxels, meta, ("int16",), scan.entry.shape)
    low, high = recipe.hu_window
    if voxels.size and not low <= voxels.min() <= voxels.max() <= high:
        yield f"{path}: holds {voxels.min()} to {voxels.max()} HU, the recipe {low:g} to {high:g}"
    affine = np.array(meta["affine"])
    spacing = spacing_of(affine)
    if not np.allclose(spacing, recipe.spacing, rtol=1e-3):
        yield f"{path}: voxels of {_by(spacing)} mm, the recipe says {_by(recipe.spacing)}"
    if "".join(aff2axcodes(affine)) != recipe.axcodes:
        yield f"{path}: axes {''.join(aff2axcodes(affine))}, the recipe says {recipe.axcodes}"


def _label_problems(scan: StoredScan) -> Iterator[str]:
    path = scan.label_path
    labels, meta = read_array(path)
    yield from _array_problems(path, labels, meta, ("uint8", "uint16"), scan.entry.shape)
    flat, positions = labels.reshape(-1), scan.positions
    counts = np.bincount(flat, minlength=1)
    shown = {int(i) for i in np.flatnonzero(counts)} - {0}
    if shown != positions.keys():
        wrong = ", ".join(str(i) for i in sorted(shown ^ positions.keys()))
        yield f"{path}: positions and voxels differ in which classes there are: {wrong}"
    for i in sorted(shown & positions.keys()):
        at = positions[i]
        if len(at) != min(counts[i], POSITIONS_PER_CLASS) or len(np.unique(at)) != len(at):
            yield f"{path}: {len(at)} positions of class {i}, which has {counts[i]} voxels"
        elif not (0 <= at.min() <= at.max() < flat.size and (flat[at] == i).all()):
            yield f"{path}: positions of class {i} lie outside it"


def _array_problems(
    path: Path,
    voxels: Array,
    meta: dict[str, Any],
    types: tuple[str, ...],
    shape: tuple[int, ...],
) -> Iterator[str]:
    if voxels.dtype.name not in types:
        yield f"{path}: voxels are {voxels.dtype}, not {' or '.join(types)}"
    if voxels.shape != shape:
        yield f"{path}: {_by(voxels.shape)} voxels, {INDEX} says {_by(shape)}"
    if voxel_digest(voxels) != meta["voxels"]:
        yield f"{path}: damaged: its voxels are not those that were written"


def _stray_files(folder: Path, scans: Sequence[StoredScan]) -> list[Path]:
    """Files that no row names, with temporary ones of builds that were killed."""
    named = {scan.image_path for scan in scans}
    named |= {scan.label_path for scan in scans if scan.entry.labelled}
    found = [*(folder / "scans").rglob("*"), *folder.glob(f".{INDEX}.*")]
    return sorted(path for path in found if path.is_file() and path not in named)


def info(folder: str | Path) -> str:
    """What a store holds, as a table to read.

    Args:
        folder: made by `ctfm store build`.

    Raises:
        UserError: there is no store, or a file is missing or damaged.
    """
    store = Store(folder)
    recipe, scans = store.recipe, _scans(store)
    low, high = recipe.hu_window
    lines = [
        f"store     {store.folder}",
        f"task      {recipe.task}",
        f"voxels    {_by(recipe.spacing)} mm, axes {recipe.axcodes}, {low:g} to {high:g} HU",
        f"cropped   to above {recipe.foreground_hu:g} HU, with a margin of {recipe.margin} voxels",
        *_lists(store),
    ]
    if scans:
        lines += [*_sizes(scans), *_values(scans), *_classes(scans)]
    lines.append(f"failed    {len(store.failures)}")
    lines += [f"  {name}: {reason}" for name, reason in store.failures.items()]
    return "\n".join(lines)


def _lists(store: Store) -> Iterator[str]:
    scans = Counter(entry.split for entry in store.entries)
    labelled = Counter(entry.split for entry in store.entries if entry.labelled)
    yield f"scans     {len(store.entries)}, with labels {labelled.total()}"
    for split in sorted(scans, key=lambda s: (PARTS.index(s) if s in PARTS else len(PARTS), s)):
        yield f"  {split:<12}{scans[split]:>8}, with labels {labelled[split]}"


def _sizes(scans: Sequence[StoredScan]) -> Iterator[str]:
    """Voxels, bytes and shapes; rows with the same content count once."""
    shapes = np.array([scan.entry.shape for scan in scans], dtype=np.int64)
    voxels = shapes.prod(1)
    images = sum(scan.image_path.stat().st_size for scan in scans)
    with_labels = [scan for scan in scans if scan.entry.labelled]
    labels = sum(scan.label_path.stat().st_size for scan in with_labels)
    yield f"stored    {len(scans)} different scans of {_short(voxels.sum())} voxels together"
    yield (
        f"on disk   {_short(images + labels)}B, {_short((images + labels) / len(scans))}B a scan; "
        f"images {_short(images)}B, int16 {2 * voxels.sum() / images:.1f} times that"
        + (f"; labels {_short(labels)}B" if with_labels else "")
    )
    yield (
        f"shapes    smallest {_by(shapes.min(0))}, median {_by(np.median(shapes, 0))}, "
        f"largest {_by(shapes.max(0))}, each axis by itself"
    )


def _values(scans: Sequence[StoredScan]) -> Iterator[str]:
    hu = [scan.meta["hu"] for scan in scans]
    mean, std = (np.mean([row[key] for row in hu]) for key in ("mean", "std"))
    yield f"HU        mean {mean:.1f}, standard deviation {std:.1f}, each the mean over scans"
    for key, name in (("p00_5", "0.5 %"), ("p50", "50 %"), ("p99_5", "99.5 %")):
        values = [row[key] for row in hu]
        middle = np.median(values)
        yield f"  {name:<8}from {min(values):.0f} to {max(values):.0f}, median {middle:.0f}"


def _classes(scans: Sequence[StoredScan]) -> Iterator[str]:
    """In how many scans each class is seen, by name where all ids are TotalSegmentator's."""
    labelled = [scan for scan in scans if scan.entry.labelled]
    if not labelled:
        return
    counts = Counter(int(i) for s in labelled for i in read_meta(s.label_path)["positions"])
    names = TOTALSEGMENTATOR_V2 if counts.keys() <= TOTALSEGMENTATOR_V2.keys() else {}
    release = ", named as in TotalSegmentator v2" if names and counts else ""
    yield f"classes   {len(counts)} in {len(labelled)} scans with labels{release}"
    for i, count in sorted(counts.items()):
        yield f"  {i:>5} {names.get(i, ''):<28}{count:>8}"


def _by(values: Sequence[float] | Array) -> str:
    return " x ".join(f"{value:g}" for value in values)


def _short(count: float) -> str:
    """A count with three digits and a decimal prefix: the unit follows."""
    power = min(len(UNITS) - 1, (len(str(round(count))) - 1) // 3)
    return f"{count / 1000**power:.{1 if power else 0}f} {UNITS[power]}"


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"

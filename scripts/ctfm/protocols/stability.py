"""Stability: is a second scan of a patient the nearest, and what do noise and kernels change?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ctfm.base.columns import read_table
from ctfm.base.errors import UserError
from ctfm.base.types import Array
from ctfm.embedding.options import WindowOptions
from ctfm.evaluation.intervals import Estimate, estimate_weighted
from ctfm.protocols.changes import CHANGES
from ctfm.protocols.descriptors import describe_scans, spell_changed
from ctfm.protocols.distributions import draw_distributions
from ctfm.protocols.options import BootstrapOptions, EncoderOptions, ReadingOptions
from ctfm.protocols.protocol_report import estimate_rows, summary, write_csv, write_report
from ctfm.protocols.ranking import unit_rows
from ctfm.protocols.reliability import intraclass_correlation

__all__ = ["run_stability"]

PROTOCOL = (
    "cosine distance between descriptors (average over a scan's patches) within test-retest pairs, "
    "between subjects, and between a scan and itself after a change; ICC(2,1) of each number"
)
REMARK = "subjects are resampled whole"
WITHIN, BETWEEN = "within pairs", "between subjects"
IDENTIFIED, ICC, GOOD = "partner is nearest", "ICC, median", "ICC above 0.75"
GOOD_ICC = 0.75
WINDOWS, READING = WindowOptions(), ReadingOptions()
#: Windows are larger than those of the semantic search.
ENCODERS, BOOTSTRAP = EncoderOptions(batch_size=8), BootstrapOptions()


@dataclass(frozen=True)
class ScanPairs:
    """Scans of subjects.

    Attributes:
        subjects: their names.
        first: the scan of each.
        second: its repetition; empty: there are none.
    """

    subjects: list[str]
    first: list[str]
    second: list[str]


def run_stability(
    checkpoints: Sequence[str],
    pairs: str,
    base_dir: str | None = None,
    out: str = "stability",
    changes: bool = True,
    encoders: EncoderOptions = ENCODERS,
    windows: WindowOptions = WINDOWS,
    reading: ReadingOptions = READING,
    bootstrap: BootstrapOptions = BOOTSTRAP,
) -> str:
    """Compare scans of the same patient, of different ones, and scans with altered copies.

    Embeddings stay in the output folder: a run that was stopped goes on.

    Args:
        checkpoints: encoders: files, patterns, folders or repository ids.
        pairs: CSV with the columns first and second (files or DICOM folders), and subject if there
            are several pairs of one; without second, scans are compared with altered copies alone.
        base_dir: folder that its paths are relative to; None: its own.
        out: folder for metrics.csv, metrics.json, distances.csv, distances.png and the embeddings.
        changes: compare each first scan with altered copies of it, which takes six times as long.
        encoders: random ones, and how all compute.
        windows: as published where nothing else is said.
        reading: of the scans.
        bootstrap: of the intervals; its seed is that of the noise too.

    Returns:
        The table.

    Raises:
        UserError: the CSV, a scan or a checkpoint is not usable.
    """
    listed, files = read_pairs(Path(pairs).expanduser(), base_dir)
    candidates = encoders.candidates(checkpoints)
    recipe = windows.recipe("stability", amp=encoders.amp)
    folder = Path(out).expanduser()
    altered = CHANGES if changes else {}
    described = describe_scans(
        candidates, files, recipe, folder / "embeddings", encoders, reading, altered, bootstrap.seed
    )
    distances = {name: _distances(listed, each, altered) for name, each in described.items()}
    estimates = {
        name: _estimate(listed, described[name], each, bootstrap)
        for name, each in distances.items()
    }
    settings = {
        "pairs": str(pairs),
        "subjects": len(set(listed.subjects)),
        "recipe": recipe,
        "seed": bootstrap.seed,
    }
    metrics = estimate_rows(estimates, "encoder", "metric")
    write_report(folder, PROTOCOL, REMARK, settings, candidates, metrics)
    write_csv(folder / "distances.csv", _rows(distances))
    draw_distributions(distances, folder / "distances.png", "cosine distance")
    shown = tuple(next(iter(estimates.values())))
    turned = {m: {name: each[m] for name, each in estimates.items()} for m in shown}
    table = summary(turned, tuple(estimates), first="figure")
    return "\n".join([*table, f"95 % bootstrap intervals; {REMARK}; written to {out}"])


def read_pairs(path: Path, base_dir: str | None) -> tuple[ScanPairs, dict[str, str]]:
    """Pairs, and the files of their scans by the names that the CSV gives them.

    Raises:
        UserError: the CSV has no column first, a cell is empty, or there are fewer than two rows.
    """
    table = read_table(path)
    if "first" not in table.columns:
        raise UserError(f"{path}: no column first: give first,second with two scans a row")
    first = [*table.columns["first"]]
    second = [*table.columns.get("second", ())]
    subjects = [*table.columns.get("subject", first)]
    for column, cells in (("first", first), ("second", second), ("subject", subjects)):
        empty = [row for row, cell in zip(table.rows, cells, strict=False) if not cell.strip()]
        if empty:
            raise UserError(f"{path}: row {empty[0]} has no {column}: fill it in, or leave it out")
    if len(set(subjects)) < 2:
        raise UserError(f"{path}: {len(set(subjects))} subject: two or more are compared")
    base = Path(base_dir).expanduser() if base_dir else path.parent
    return ScanPairs(subjects, first, second), {n: str(base / n) for n in (*first, *second)}


def _distances(
    pairs: ScanPairs, descriptors: Mapping[str, Array], changes: Mapping[str, Any]
) -> dict[str, list[float]]:
    """Kind of distance -> distances."""
    first = _unit(descriptors, pairs.first)
    apart = np.array(pairs.subjects)[:, None] != np.array(pairs.subjects)[None]
    found = {}
    if pairs.second:
        second = _unit(descriptors, pairs.second)
        found[WITHIN] = (1 - (first * second).sum(axis=1)).tolist()
        cross = 1 - first @ second.T
        found[BETWEEN] = cross[apart].tolist()
    else:
        found[BETWEEN] = (1 - first @ first.T)[apart & (np.tri(len(first), k=-1) > 0)].tolist()
    for change in changes:
        altered = _unit(descriptors, [spell_changed(name, change) for name in pairs.first])
        found[change] = (1 - (first * altered).sum(axis=1)).tolist()
    return found


def _estimate(
    pairs: ScanPairs,
    descriptors: Mapping[str, Array],
    distances: Mapping[str, list[float]],
    bootstrap: BootstrapOptions,
) -> dict[str, Estimate]:
    subjects = list(dict.fromkeys(pairs.subjects))
    numbers = np.array([subjects.index(name) for name in pairs.subjects])

    def weighted(statistic: Any) -> Estimate:
        def of_subjects(weights: Array) -> Any:  # (R, subjects) -> (R, pairs)
            return statistic(weights[:, numbers])

        return estimate_weighted(of_subjects, len(subjects), bootstrap.seed, bootstrap.resamples)

    first = _unit(descriptors, pairs.first)
    partner = _unit(descriptors, pairs.second) if pairs.second else first
    cross, apart = 1 - first @ partner.T, numbers[:, None] != numbers[None]
    between = partial(_mean_between, cross, apart)
    found = {BETWEEN: weighted(between)}
    for kind, values in distances.items():
        if kind == BETWEEN:
            continue
        mine = np.asarray(values)
        found[kind] = weighted(partial(_mean, mine))
        found[f"{kind} / {BETWEEN}"] = weighted(lambda w, mine=mine: _mean(mine, w) / between(w))
    if pairs.second:
        found[IDENTIFIED] = weighted(partial(_mean, _identified(first, partner, apart)))
        one, two = (
            np.stack([descriptors[name] for name in names]).astype(float)
            for names in (pairs.first, pairs.second)
        )
        icc = partial(intraclass_correlation, one, two)
        found[ICC] = weighted(lambda w: np.nanmedian(icc(w), axis=1))
        found[GOOD] = weighted(lambda w: (icc(w) > GOOD_ICC).mean(axis=1))
    return found


def _mean(values: Array, weights: Array) -> Array:
    averages: Array = weights @ values / weights.sum(axis=1)
    return averages


def _mean_between(cross: Array, apart: Array, weights: Array) -> Array:
    """Average over ordered pairs of different subjects, as often as both were drawn; (R,)."""
    with np.errstate(invalid="ignore"):
        averages: Array = np.einsum("ri,ij,rj->r", weights, cross * apart, weights) / np.einsum(
            "ri,ij,rj->r", weights, apart.astype(float), weights
        )
    return averages


def _identified(first: Array, second: Array, apart: Array) -> Array:
    """1 where no scan of another subject is as near as the partner, both ways averaged, (N,)."""
    cross = 1 - first @ second.T
    partner = np.diag(cross)
    others = np.where(apart, cross, np.inf)
    found: Array = ((partner < others.min(axis=1)) * 1.0 + (partner < others.min(axis=0))) / 2
    return found


def _unit(descriptors: Mapping[str, Array], names: Sequence[str]) -> Array:
    return unit_rows(np.stack([descriptors[name] for name in names]).astype(float))


def _rows(distances: Mapping[str, Mapping[str, list[float]]]) -> list[dict[str, Any]]:
    return [
        {"encoder": encoder, "kind": kind, "distance": value}
        for encoder, kinds in distances.items()
        for kind, values in kinds.items()
        for value in values
    ]

"""Retrieval on 3D-MIR: are the scans that are most alike ill in the same way?

3D-MIR (Ben Abacha et al., Sci Rep 16, 21016, 2026) takes four tasks of the Medical Segmentation
Decathlon. A cohort is an organ with lesions and, as normals, scans of other organs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctfm.base.types import Array
from ctfm.embedding.recipes import make_recipe
from ctfm.evaluation.intervals import Estimate, estimate_mean
from ctfm.protocols.descriptors import describe_scans
from ctfm.protocols.estimate_plot import draw_estimates
from ctfm.protocols.mir_cohorts import FLAGS, Cohort, find_files, read_cohorts
from ctfm.protocols.probing.encoders import find_candidates, random_candidates
from ctfm.protocols.protocol_report import estimate_values, summary, write_csv, write_report
from ctfm.protocols.ranking import average_precision_at, precision_at, rank

__all__ = ["run_mir"]

AT = (3, 5, 10)
METRICS = (*(f"P@{k}" for k in AT), "AP")
ALL = "all cohorts"
PROTOCOL = (
    "3D-MIR: test scans of each cohort as queries, its training scans as references; a scan is the "
    "element-wise minimum over its patches; AP over the first 10 hits"
)
#: CT-FM's figures, for comparison; they are none of this project's.
PUBLISHED = "published for CT-FM, lesion flag: P@3 0.916, AP 0.923"

#: Encoder -> flag -> cohort -> metric -> one value a query.
Values = dict[str, dict[str, dict[str, dict[str, Array]]]]


def run_mir(
    checkpoints: Sequence[str],
    data: str,
    scans: str,
    out: str = "3d_mir",
    random_seeds: int = 1,
    batch_size: int = 8,
    device: str | None = None,
    amp: bool = True,
    input_check: str = "error",
    seed: int = 0,
    resamples: int = 2000,
) -> str:
    """For each test scan of a cohort, the training scans that are most alike.

    Embeddings stay in the output folder: a run that was stopped goes on.

    Args:
        checkpoints: encoders: files, patterns, folders or repository ids.
        data: folder ``Data`` of 3D-MIR's repository, with its splits and annotation tables.
        scans: folder below which the decathlon's scans lie.
        out: folder for metrics.csv, metrics.json, queries.csv, precision.png and the embeddings.
        random_seeds: how many encoders with random weights stand beside them.
        batch_size: windows that pass the encoder together.
        device: such as cuda:0; None: a GPU if there is one.
        amp: compute in the fast number format of the device.
        input_check: what to do about values that are no CT's: error, warn or off.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        The table.

    Raises:
        UserError: tables, scans or a checkpoint are not usable.
    """
    cohorts = read_cohorts(Path(data).expanduser())
    names = {name for one in cohorts for name in (*one.queries, *one.references)}
    files = find_files(Path(scans).expanduser(), names)
    candidates = find_candidates(checkpoints)
    candidates += random_candidates(candidates, random_seeds)
    folder = Path(out).expanduser()
    recipe = make_recipe("mir", amp=amp)
    described = describe_scans(
        candidates, files, recipe, folder / "embeddings", device, batch_size, input_check
    )
    values, queries = _evaluate(cohorts, described)
    found = _estimate(values, seed, resamples)
    rows = [
        {"encoder": encoder, "flag": flag, "cohort": cohort, "metric": m, **estimate_values(each)}
        for encoder, flags in found.items()
        for flag, by_cohort in flags.items()
        for cohort, metrics in by_cohort.items()
        for m, each in metrics.items()
    ]
    settings = {"data": str(data), "scans": len(files), "recipe": recipe, "seed": seed}
    write_report(folder, PROTOCOL, PUBLISHED, settings, candidates, rows)
    write_csv(folder / "queries.csv", queries)
    draw_estimates(_shown(found), folder / "precision.png", "P@3", sort=False)
    tables = [line for flag in FLAGS for line in ("", *_table(found, flag))]
    return "\n".join([*tables[1:], f"95 % bootstrap intervals; {PUBLISHED}; written to {out}"])


def _evaluate(
    cohorts: Sequence[Cohort], described: Mapping[str, Mapping[str, Array]]
) -> tuple[Values, list[dict[str, Any]]]:
    """Metrics of each query, and the same as rows with the scan that is most alike."""
    values: Values = {}
    rows = []
    for encoder, descriptors in described.items():
        flags = values.setdefault(encoder, {flag: {} for flag in FLAGS})
        for cohort in cohorts:
            asked = np.stack([descriptors[name] for name in cohort.queries])
            there = np.stack([descriptors[name] for name in cohort.references])
            ranked = rank(asked, there, min(max(AT), len(there)))
            for flag, known in cohort.flags.items():
                mine = np.array([known[name] for name in cohort.queries])
                theirs = np.array([known[name] for name in cohort.references])
                relevant = theirs[ranked] == mine[:, None]
                metrics = {f"P@{k}": precision_at(relevant, k) for k in AT}
                metrics["AP"] = average_precision_at(relevant, max(AT))
                flags[flag][cohort.name] = metrics
                rows += [
                    {
                        "encoder": encoder, "cohort": cohort.name, "flag": flag, "scan": name,
                        "first": cohort.references[ranked[i, 0]],
                        **{metric: float(each[i]) for metric, each in metrics.items()},
                    }
                    for i, name in enumerate(cohort.queries)
                ]  # fmt: skip
    return values, rows


def _estimate(
    values: Values, seed: int, resamples: int
) -> dict[str, dict[str, dict[str, dict[str, Estimate]]]]:
    """Estimates of each cohort, and over the queries of all of them."""

    def estimate(cohorts: Sequence[Mapping[str, Array]], metric: str) -> Estimate:
        every = np.concatenate([metrics[metric] for metrics in cohorts])
        return estimate_mean(every.tolist(), seed, resamples)

    return {
        encoder: {
            flag: {
                name: {metric: estimate(chosen, metric) for metric in METRICS}
                for name, chosen in [
                    (ALL, [*cohorts.values()]),
                    *((name, [metrics]) for name, metrics in cohorts.items()),
                ]
            }
            for flag, cohorts in flags.items()
        }
        for encoder, flags in values.items()
    }


def _shown(found: Mapping[str, Any]) -> dict[str, dict[str, Estimate]]:
    return {
        encoder: {
            f"{flag}, {cohort}": metrics["P@3"]
            for flag, cohorts in flags.items()
            for cohort, metrics in cohorts.items()
        }
        for encoder, flags in found.items()
    }


def _table(found: Mapping[str, Any], flag: str) -> list[str]:
    return summary({encoder: flags[flag][ALL] for encoder, flags in found.items()}, METRICS, flag)

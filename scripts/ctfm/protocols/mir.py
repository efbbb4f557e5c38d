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
from ctfm.protocols.options import BootstrapOptions, EncoderOptions, ReadingOptions
from ctfm.protocols.protocol_report import estimate_rows, summary, write_csv, write_report
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
#: Windows of 24 x 128 x 128 voxels are larger than those of the semantic search.
ENCODERS, BOOTSTRAP = EncoderOptions(batch_size=8), BootstrapOptions()

#: Encoder -> flag -> cohort -> metric -> one value a query.
QueryValues = dict[str, dict[str, dict[str, dict[str, Array]]]]


def run_mir(
    checkpoints: Sequence[str],
    data: str,
    scans: str,
    out: str = "3d_mir",
    encoders: EncoderOptions = ENCODERS,
    input_check: str = "error",
    bootstrap: BootstrapOptions = BOOTSTRAP,
) -> str:
    """For each test scan of a cohort, the training scans that are most alike.

    Embeddings stay in the output folder: a run that was stopped goes on.

    Args:
        checkpoints: encoders: files, patterns, folders or repository ids.
        data: folder ``Data`` of 3D-MIR's repository, with its splits and annotation tables.
        scans: folder below which the decathlon's scans lie.
        out: folder for metrics.csv, metrics.json, queries.csv, precision.png and the embeddings.
        encoders: random ones, and how all compute.
        input_check: what to do about values that are no CT's: error, warn or off.
        bootstrap: of the intervals.

    Returns:
        The table.

    Raises:
        UserError: tables, scans or a checkpoint are not usable.
    """
    cohorts = read_cohorts(Path(data).expanduser())
    names = {name for one in cohorts for name in (*one.queries, *one.references)}
    files = find_files(Path(scans).expanduser(), names)
    candidates = encoders.candidates(checkpoints)
    folder = Path(out).expanduser()
    recipe = make_recipe("mir", amp=encoders.amp)
    reading = ReadingOptions(input_check=input_check)
    described = describe_scans(candidates, files, recipe, folder / "embeddings", encoders, reading)
    values, queries = _evaluate(cohorts, described)
    estimates = _estimate(values, bootstrap)
    rows = estimate_rows(estimates, "encoder", "flag", "cohort", "metric")
    settings = {"data": str(data), "scans": len(files), "recipe": recipe, "seed": bootstrap.seed}
    write_report(folder, PROTOCOL, PUBLISHED, settings, candidates, rows)
    write_csv(folder / "queries.csv", queries)
    draw_estimates(_shown(estimates), folder / "precision.png", "P@3", sort=False)
    tables = [line for flag in FLAGS for line in ("", *_table(estimates, flag))]
    return "\n".join([*tables[1:], f"95 % bootstrap intervals; {PUBLISHED}; written to {out}"])


def _evaluate(
    cohorts: Sequence[Cohort], described: Mapping[str, Mapping[str, Array]]
) -> tuple[QueryValues, list[dict[str, Any]]]:
    """Metrics of each query, and the same as rows with the scan that is most alike."""
    values: QueryValues = {}
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
                        "encoder": encoder,
                        "cohort": cohort.name,
                        "flag": flag,
                        "scan": name,
                        "first": cohort.references[ranked[i, 0]],
                        **{metric: float(each[i]) for metric, each in metrics.items()},
                    }
                    for i, name in enumerate(cohort.queries)
                ]
    return values, rows


def _estimate(
    values: QueryValues, bootstrap: BootstrapOptions
) -> dict[str, dict[str, dict[str, dict[str, Estimate]]]]:
    """Estimates of each cohort, and over the queries of all of them."""

    def estimate(cohorts: Sequence[Mapping[str, Array]], metric: str) -> Estimate:
        every = np.concatenate([metrics[metric] for metrics in cohorts])
        return estimate_mean(every.tolist(), bootstrap.seed, bootstrap.resamples)

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

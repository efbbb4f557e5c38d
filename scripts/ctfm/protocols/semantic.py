"""Semantic search between labelled scans: is an organ of one found in another, how far off?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ctfm.contract.classes import class_name
from ctfm.embedding.options import WindowOptions
from ctfm.evaluation.intervals import Estimate, estimate_ratio
from ctfm.protocols.estimate_plot import draw_estimates
from ctfm.protocols.options import (
    BootstrapOptions,
    EncoderOptions,
    LabelledOptions,
    ReadingOptions,
)
from ctfm.protocols.probing.ranking import LABELLED, READING, WINDOWS, search_organs
from ctfm.protocols.probing.search import SearchAnswers
from ctfm.protocols.protocol_report import estimate_rows, summary, write_report

__all__ = ["run_semantic"]

DISTANCE, INSIDE, HEART = "distance_mm", "inside", "heart"
ALL = "all classes"
PROTOCOL = (
    "semantic search: the patch around an organ's centre in one scan, the window most alike in "
    "another; distance of its centre to that organ's centre there, and whether it lies inside"
)
#: CT-FM's figures on TotalSegmentator, for comparison; they are none of this project's.
PUBLISHED = "published for CT-FM: heart 5.6 mm, 97.7 % inside"
ENCODERS, BOOTSTRAP = EncoderOptions(), BootstrapOptions()

#: Encoder -> class -> metric -> estimate.
ClassEstimates = dict[str, dict[str, dict[str, Estimate]]]


def run_semantic(
    checkpoints: Sequence[str],
    data: str,
    out: str = "semantic",
    labelled: LabelledOptions = LABELLED,
    encoders: EncoderOptions = ENCODERS,
    windows: WindowOptions = WINDOWS,
    reading: ReadingOptions = READING,
    bootstrap: BootstrapOptions = BOOTSTRAP,
) -> str:
    """Search every organ of each scan in each other one, as published for the heart.

    Answers that were asked from one scan are not independent, so whole scans are resampled.

    Args:
        checkpoints: encoders: files, patterns, folders or repository ids.
        data: datalist (JSON) of scans with labels, such as TotalSegmentator's.
        out: folder for metrics.csv, metrics.json and distances.png.
        labelled: scans and classes.
        encoders: random ones, and how all compute.
        windows: that scans are searched by.
        reading: of the scans.
        bootstrap: of the intervals.

    Returns:
        The table, over all classes.

    Raises:
        UserError: an argument, a checkpoint or a scan is not usable.
    """
    searches = search_organs(checkpoints, data, labelled, encoders, windows, reading)
    answers = {one.name: each for one, each in searches.answers} | searches.limits
    estimates = {name: _by_class(each, bootstrap) for name, each in answers.items()}
    rows = estimate_rows(estimates, "encoder", "class", "metric")
    folder = Path(out).expanduser()
    document = {**searches.document, **asdict(bootstrap)}
    candidates = [one for one, _ in searches.answers]
    write_report(folder, PROTOCOL, PUBLISHED, document, candidates, rows)
    distances = {
        name: {organ: each[DISTANCE] for organ, each in organs.items()}
        for name, organs in estimates.items()
    }
    draw_estimates(distances, folder / "distances.png", "mean distance to the organ's centre (mm)")
    remark = (
        f"95 % bootstrap intervals over {len(searches.cases)} scans; {searches.remark}; {PUBLISHED}"
    )
    table = summary({name: organs[ALL] for name, organs in estimates.items()}, (DISTANCE, INSIDE))
    return "\n".join([*table, *_heart(estimates), f"{remark}; written to {out}"])


def _by_class(
    answers: SearchAnswers, bootstrap: BootstrapOptions
) -> dict[str, dict[str, Estimate]]:
    """Estimates over all classes, then those of each."""
    ids = sorted({int(i) for i in answers.class_ids})
    chosen = {ALL: np.ones(len(answers.class_ids), dtype=bool)}
    chosen |= {class_name(i): answers.class_ids == i for i in ids}
    scans = int(answers.queries.max()) + 1
    estimates = {}
    for organ, mine in chosen.items():
        asked_from = answers.queries[mine]
        count = np.bincount(asked_from, minlength=scans).tolist()
        estimates[organ] = {
            metric: estimate_ratio(
                np.bincount(asked_from, values[mine], scans).tolist(),
                count,
                bootstrap.seed,
                bootstrap.resamples,
            )
            for metric, values in ((DISTANCE, answers.distances_mm), (INSIDE, answers.inside))
        }
    return estimates


def _heart(estimates: ClassEstimates) -> list[str]:
    """The organ that the published figure is of, where the scans show it."""
    hearts = {name: organs[HEART] for name, organs in estimates.items() if HEART in organs}
    return ["", *summary(hearts, (DISTANCE, INSIDE), first=HEART)] if hearts else []

"""Semantic search between labelled scans: is an organ of one found in another, how far off?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ctfm.contract.classes import TOTALSEGMENTATOR_V2
from ctfm.evaluation.intervals import Estimate, estimate_ratio
from ctfm.protocols.estimate_plot import draw_estimates
from ctfm.protocols.probing.ranking import ask, make_settings
from ctfm.protocols.probing.search import Answers
from ctfm.protocols.protocol_report import estimate_values, summary, write_report

__all__ = ["run_semantic"]

DISTANCE, INSIDE, HEART = "distance_mm", "inside", "heart"
ALL = "all classes"
PROTOCOL = (
    "semantic search: the patch around an organ's centre in one scan, the window most alike in "
    "another; distance of its centre to that organ's centre there, and whether it lies inside"
)
#: CT-FM's figures on TotalSegmentator, for comparison; they are none of this project's.
PUBLISHED = "published for CT-FM: heart 5.6 mm, 97.7 % inside"

Found = dict[str, dict[str, dict[str, Estimate]]]


def run_semantic(
    checkpoints: Sequence[str],
    data: str,
    base_dir: str | None = None,
    split: str = "validation",
    classes: str | int | Sequence[int] | None = None,
    out: str = "semantic",
    spacing: Sequence[float] | None = None,
    patch: Sequence[int] | None = None,
    overlap: float | None = None,
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
    """Search every organ of each scan in each other one, as published for the heart.

    Answers that were asked from one scan hang together, so whole scans are resampled.

    Args:
        checkpoints: encoders: files, patterns, folders or repository ids.
        data: datalist (JSON) of scans with labels, such as TotalSegmentator's.
        base_dir: folder that its paths are relative to; None: its own.
        split: list of it that is used.
        classes: a class group such as organs, ids, or None: all that the labels hold.
        out: folder for metrics.csv, metrics.json and distances.png.
        spacing: voxel size in mm, axes SPL; None: 1,1,1, as published.
        patch: voxels of a window, sides divisible by 16; None: 64,64,64, as published.
        overlap: share of a window that neighbours have in common; None: 0.625, as published.
        random_seeds: how many encoders with random weights stand beside them.
        scans: use so many of the list, from its start; None: all.
        batch_size: windows that pass the encoder together.
        device: such as cuda:0; None: a GPU if there is one.
        amp: compute in the fast number format of the device.
        input_check: what to do about values that are no CT's: error, warn or off.
        progress: show bars.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        The table, over all classes.

    Raises:
        UserError: an argument, a checkpoint or a scan is not usable.
    """
    settings = make_settings(spacing, patch, overlap, batch_size, device, amp, progress)
    asked = ask(checkpoints, data, settings, base_dir, split, classes, random_seeds, scans,
                input_check)  # fmt: skip
    answers = {one.name: found for one, found in asked.answers} | asked.limits
    found = {name: _by_class(each, seed, resamples) for name, each in answers.items()}
    rows = [
        {"encoder": name, "class": organ, "metric": metric, **estimate_values(estimate)}
        for name, organs in found.items()
        for organ, metrics in organs.items()
        for metric, estimate in metrics.items()
    ]
    folder = Path(out).expanduser()
    document = {**asked.document, "seed": seed, "resamples": resamples}
    candidates = [one for one, _ in asked.answers]
    write_report(folder, PROTOCOL, PUBLISHED, document, candidates, rows)
    distances = {
        name: {organ: each[DISTANCE] for organ, each in organs.items()}
        for name, organs in found.items()
    }
    draw_estimates(distances, folder / "distances.png", "mean distance to the organ's centre (mm)")
    remark = f"95 % bootstrap intervals over {len(asked.cases)} scans; {asked.remark}; {PUBLISHED}"
    table = summary({name: organs[ALL] for name, organs in found.items()}, (DISTANCE, INSIDE))
    return "\n".join([*table, *_heart(found), f"{remark}; written to {out}"])


def _by_class(answers: Answers, seed: int, resamples: int) -> dict[str, dict[str, Estimate]]:
    """Estimates over all classes, then those of each."""
    ids = sorted({int(i) for i in answers.class_ids})
    chosen = {ALL: np.ones(len(answers.class_ids), dtype=bool)}
    chosen |= {TOTALSEGMENTATOR_V2.get(i, f"class {i}"): answers.class_ids == i for i in ids}
    scans = int(answers.queries.max()) + 1
    found = {}
    for organ, mine in chosen.items():
        asked_from = answers.queries[mine]
        count = np.bincount(asked_from, minlength=scans).tolist()
        found[organ] = {
            metric: estimate_ratio(
                np.bincount(asked_from, values[mine], scans).tolist(), count, seed, resamples
            )
            for metric, values in ((DISTANCE, answers.distances_mm), (INSIDE, answers.inside))
        }
    return found


def _heart(found: Found) -> list[str]:
    """The organ that the published figure is of, where the scans show it."""
    hearts = {name: organs[HEART] for name, organs in found.items() if HEART in organs}
    return ["", *summary(hearts, (DISTANCE, INSIDE), first=HEART)] if hearts else []

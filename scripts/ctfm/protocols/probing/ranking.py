"""Rank checkpoints by how well they find the same anatomy in another scan, without training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctfm.base.errors import UserError
from ctfm.contract.classes import TOTALSEGMENTATOR_V2, v2_ids
from ctfm.contract.tasks import ENCODER, SEMANTIC_SEARCH
from ctfm.datalists.reading import read_datalist
from ctfm.embedding.windows import WindowGrid
from ctfm.inference.inferers.autocast import AutocastInferer
from ctfm.protocols.probing.cases import Case, load_cases
from ctfm.protocols.probing.encoders import Candidate, find_candidates, random_candidates
from ctfm.protocols.probing.ranking_report import format_table, write_report
from ctfm.protocols.probing.scores import BEST_WINDOW, CHANCE, Result, score
from ctfm.protocols.probing.search import Answers, best_window, chance, search

__all__ = ["Asked", "Settings", "ask", "class_ids_of", "make_settings", "rank_checkpoints"]

logger = logging.getLogger(__name__)

#: Classes named in the remark on queries.
SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How windows are laid out and computed.

    Attributes:
        spacing: voxel size in mm, axes SPL.
        patch: voxels of a window.
        overlap: share of a window that neighbours have in common.
        batch_size: windows that pass the encoder together.
        device: where it computes.
        amp: compute in the fast number format of the device.
        progress: show a bar.

    Raises:
        UserError: a value makes no sense.
    """

    spacing: tuple[float, ...]
    patch: tuple[int, ...]
    overlap: float
    batch_size: int
    device: str
    amp: bool
    progress: bool

    def __post_init__(self) -> None:
        numbers = all(isinstance(mm, int | float) for mm in self.spacing)
        if len(self.spacing) != 3 or not numbers or not all(0 < mm < 50 for mm in self.spacing):
            raise UserError(f"spacing is {list(self.spacing)}: give three sizes in mm, as 1,1,1")
        WindowGrid(self.patch, self.patch, self.overlap)  # which looks at both
        if any(side % ENCODER.divisor for side in self.patch):
            raise UserError(
                f"patch is {list(self.patch)}: give sides that {ENCODER.divisor} divides"
            )
        if self.batch_size < 1:
            raise UserError(f"batch_size is {self.batch_size}: give a number from 1")


def rank_checkpoints(
    checkpoints: Sequence[str],
    data: str,
    base_dir: str | None = None,
    split: str = "validation",
    classes: str | int | Sequence[int] | None = None,
    out: str = "probe",
    spacing: Sequence[float] | None = None,
    patch: Sequence[int] | None = None,
    overlap: float | None = None,
    random_seeds: int = 3,
    scans: int | None = None,
    batch_size: int = 16,
    device: str | None = None,
    amp: bool = True,
    input_check: str = "error",
    progress: bool = True,
) -> str:
    """Search organs of each scan in each other one, with every checkpoint and random encoders.

    The query is the patch around an organ's centre of mass; the answer, in another scan, is the
    window whose embedding has the largest cosine to the query's. Scans are held in memory.

    Random encoders differ by seed, often as much as epochs do: of three and one more, any is below
    the other three in one case of four. Compare with more of them before trusting a small lead.

    Args:
        checkpoints: files, patterns, folders or repository ids.
        data: datalist (JSON) with images and labels.
        base_dir: folder that its paths are relative to; None: its own.
        split: list of it that is used.
        classes: a class group such as organs, ids, or None: all that the labels hold.
        out: folder for probe.csv, probe.json and probe.png.
        spacing: voxel size in mm, axes SPL; None: 1,1,1, as published. On small machines 3,3,3.
        patch: voxels of a window, sides divisible by 16; None: 64,64,64, as published. At a
            spacing of 3 mm, 32,32,32.
        overlap: share of a window that neighbours have in common; None: 0.625, as published.
        random_seeds: how many encoders with random weights are compared.
        scans: use so many of the list, from its start; None: all.
        batch_size: windows that pass the encoder together.
        device: such as cuda:0; None: a GPU if there is one.
        amp: compute in the fast number format of the device.
        input_check: what to do about values that are no CT's: error, warn or off.
        progress: show bars.

    Returns:
        The table, and in its last line the best checkpoint.

    Raises:
        UserError: an argument, a checkpoint or a scan is not usable.
    """
    settings = make_settings(spacing, patch, overlap, batch_size, device, amp, progress)
    asked = ask(checkpoints, data, settings, base_dir, split, classes, random_seeds, scans,
                input_check)  # fmt: skip
    result = Result.ranked(
        [(one, score(found, TOTALSEGMENTATOR_V2)) for one, found in asked.answers],
        {name: score(found, TOTALSEGMENTATOR_V2) for name, found in asked.limits.items()},
    )
    write_report(result, Path(out), asked.document)
    return "\n".join([format_table(result), f"written to {out}; {asked.remark}", result.verdict()])


@dataclass(frozen=True)
class Asked:
    """Searches of organs of each scan in each other one.

    Attributes:
        cases: the scans.
        answers: of each encoder, checkpoints first.
        limits: `BEST_WINDOW` and `CHANCE` -> answers that no encoder makes.
        remark: what to know of the queries.
        document: what the answers depend on, as JSON has it.
    """

    cases: list[Case]
    answers: list[tuple[Candidate, Answers]]
    limits: dict[str, Answers]
    remark: str
    document: dict[str, Any]


def make_settings(
    spacing: Sequence[float] | None,
    patch: Sequence[int] | None,
    overlap: float | None,
    batch_size: int,
    device: str | None,
    amp: bool,
    progress: bool,
) -> Settings:
    """Settings, with the published ones and a GPU, if there is one, for what is None."""
    return Settings(
        spacing=_listed(spacing or SEMANTIC_SEARCH.spacing),
        patch=_listed(patch or SEMANTIC_SEARCH.patch),
        overlap=overlap if overlap is not None else SEMANTIC_SEARCH.overlap or 0.0,
        batch_size=batch_size,
        device=device or ("cuda:0" if torch.cuda.is_available() else "cpu"),
        amp=amp,
        progress=progress,
    )


def ask(
    checkpoints: Sequence[str],
    data: str,
    settings: Settings,
    base_dir: str | None,
    split: str,
    classes: str | int | Sequence[int] | None,
    random_seeds: int,
    scans: int | None,
    input_check: str,
) -> Asked:
    """Search with every checkpoint and random encoders; arguments are those of `probe`."""
    class_ids = None if classes is None else class_ids_of(classes)
    candidates = find_candidates(checkpoints)
    candidates += random_candidates(candidates, random_seeds)
    base = base_dir or str(Path(data).parent)
    rows = read_datalist(data, split, base)[:scans]
    if len(rows) < 2:
        raise UserError(f"{data}: {len(rows)} scan of list {split!r}: two or more are compared")
    windows = settings.spacing, settings.patch, settings.overlap
    cases = load_cases(rows, base, class_ids, *windows, input_check)
    limits = {BEST_WINDOW: best_window(cases), CHANCE: chance(cases)}
    answers = [(candidate, _answers(candidate, cases, settings)) for candidate in candidates]
    remark = _remark(cases)
    document = {**asdict(settings), "data": data, "split": split, "remark": remark}
    names = [case.name for case in cases]
    return Asked(cases, answers, limits, remark, {**document, "scans": names})


def _answers(candidate: Candidate, cases: Sequence[Case], settings: Settings) -> Answers:
    network = candidate.network().to(settings.device, memory_format=torch.channels_last_3d)
    inferer = AutocastInferer(enabled=settings.amp)

    def apply(patches: Tensor) -> Tensor:
        embeddings: Tensor = inferer(patches.to(settings.device), network)
        return embeddings

    with torch.inference_mode():
        found = search(cases, apply, settings.batch_size, settings.progress)
    median = float(np.median(found.distances_mm))
    logger.info("%s: median %.1f mm over %d answers", candidate.name, median, len(found.inside))
    return found


def _remark(cases: Sequence[Case]) -> str:
    """Say how many queries are centred outside of their organ; they count all the same."""
    places = [(case, i) for case in cases for i in case.centroids]
    outside = [i for case, i in places if i in case.outside]
    text = f"{len(outside)} of {len(places)} queries are centred outside their organ"
    if not outside:
        return text
    names = sorted({TOTALSEGMENTATOR_V2.get(i, f"class {i}") for i in outside})
    dots = ", …" if len(names) > SHOWN else ""
    return f"{text}, and count all the same, as published ({', '.join(names[:SHOWN])}{dots})"


def class_ids_of(classes: str | int | Sequence[int]) -> list[int]:
    """Ids of a class group by its name, or ids as the command line has them.

    Raises:
        UserError: it is neither.
    """
    if isinstance(classes, str) and not classes.replace(",", "").isdigit():
        return v2_ids(classes)
    ids = classes.split(",") if isinstance(classes, str) else _listed(classes)
    try:
        found = [int(i) for i in ids]
    except (TypeError, ValueError):
        found = []
    if not found or min(found) < 1:
        raise UserError(f"classes is {classes!r}: give a group such as organs, or ids as 1,5,51")
    return found


def _listed(value: Any) -> tuple[Any, ...]:
    """What the command line makes of ``1,2,3``, of ``1``, or of ``[1,2,3]``, as a tuple."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)

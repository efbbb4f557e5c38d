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
from ctfm.contract.classes import class_name
from ctfm.contract.tasks import ENCODER, SEMANTIC_SEARCH
from ctfm.embedding.options import WindowOptions
from ctfm.embedding.windows import WindowGrid
from ctfm.inference.inferers.autocast import AutocastInferer
from ctfm.protocols.options import EncoderOptions, LabelledOptions, ReadingOptions, listed
from ctfm.protocols.probing.cases import OrganCase, load_cases
from ctfm.protocols.probing.encoders import Candidate
from ctfm.protocols.probing.ranking_report import format_table, write_report
from ctfm.protocols.probing.scores import BEST_WINDOW, CHANCE, Ranking, score
from ctfm.protocols.probing.search import SearchAnswers, best_window, chance, search

__all__ = ["OrganSearches", "SearchSettings", "rank_checkpoints", "search_organs"]

logger = logging.getLogger(__name__)

LABELLED, WINDOWS, READING = LabelledOptions(), WindowOptions(), ReadingOptions()
#: Random encoders differ by seed, often as much as epochs do.
ENCODERS = EncoderOptions(random_seeds=3)
#: Classes named in the remark on queries.
SHOWN = 4


def rank_checkpoints(
    checkpoints: Sequence[str],
    data: str,
    out: str = "rank",
    labelled: LabelledOptions = LABELLED,
    encoders: EncoderOptions = ENCODERS,
    windows: WindowOptions = WINDOWS,
    reading: ReadingOptions = READING,
) -> str:
    """Search organs of each scan in each other one, with every checkpoint and random encoders.

    The query is the patch around an organ's centre of mass; the answer, in another scan, is the
    window whose embedding has the largest cosine to the query's. Scans are held in memory.

    Random encoders differ by seed, often as much as epochs do: of three and one more, any is below
    the other three in one case of four. Compare with more of them before trusting a small lead.

    Args:
        checkpoints: files, patterns, folders or repository ids.
        data: datalist (JSON) with images and labels.
        out: folder for rank.csv, rank.json and rank.png.
        labelled: scans and classes.
        encoders: three with random weights are compared.
        windows: as published; on small machines take a spacing of 3,3,3 and patches of 32,32,32.
        reading: of the scans.

    Returns:
        The table, and in its last line the best checkpoint.

    Raises:
        UserError: an argument, a checkpoint or a scan is not usable.
    """
    searches = search_organs(checkpoints, data, labelled, encoders, windows, reading)
    ranking = Ranking.of(
        [(one, score(answers)) for one, answers in searches.answers],
        {name: score(answers) for name, answers in searches.limits.items()},
    )
    write_report(ranking, Path(out), searches.document)
    written = f"written to {out}; {searches.remark}"
    return "\n".join([format_table(ranking), written, ranking.verdict()])


@dataclass(frozen=True)
class OrganSearches:
    """Searches of organs of each scan in each other one.

    Attributes:
        cases: the scans.
        answers: of each encoder, checkpoints first.
        limits: `BEST_WINDOW` and `CHANCE` -> answers that no encoder makes.
        remark: what to know of the queries.
        document: what the answers depend on, as JSON has it.
    """

    cases: list[OrganCase]
    answers: list[tuple[Candidate, SearchAnswers]]
    limits: dict[str, SearchAnswers]
    remark: str
    document: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How windows are laid out and computed: options, with the published values for what is None.

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

    @classmethod
    def of(cls, windows: WindowOptions, encoders: EncoderOptions, progress: bool) -> SearchSettings:
        """Settings out of options; where no device is named, a GPU if there is one."""
        overlap = windows.overlap
        return cls(
            spacing=listed(windows.spacing or SEMANTIC_SEARCH.spacing),
            patch=listed(windows.patch or SEMANTIC_SEARCH.patch),
            overlap=overlap if overlap is not None else SEMANTIC_SEARCH.overlap or 0.0,
            batch_size=encoders.batch_size,
            device=encoders.device or ("cuda:0" if torch.cuda.is_available() else "cpu"),
            amp=encoders.amp,
            progress=progress,
        )

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


def search_organs(
    checkpoints: Sequence[str],
    data: str,
    labelled: LabelledOptions,
    encoders: EncoderOptions,
    windows: WindowOptions,
    reading: ReadingOptions,
) -> OrganSearches:
    """Search with every checkpoint and random encoders, as `rank_checkpoints` does."""
    settings = SearchSettings.of(windows, encoders, reading.progress)
    candidates = encoders.candidates(checkpoints)
    scans = labelled.read(data, least=2)
    grid = settings.spacing, settings.patch, settings.overlap
    cases = load_cases(scans.rows, scans.base_dir, scans.class_ids, *grid, reading.input_check)
    limits = {BEST_WINDOW: best_window(cases), CHANCE: chance(cases)}
    answers = [(candidate, _answers(candidate, cases, settings)) for candidate in candidates]
    remark = _remark(cases)
    document = {**asdict(settings), "data": data, "split": labelled.split, "remark": remark}
    names = [case.name for case in cases]
    return OrganSearches(cases, answers, limits, remark, {**document, "scans": names})


def _answers(
    candidate: Candidate, cases: Sequence[OrganCase], settings: SearchSettings
) -> SearchAnswers:
    network = candidate.network().to(settings.device, memory_format=torch.channels_last_3d)
    inferer = AutocastInferer(enabled=settings.amp)

    def apply(patches: Tensor) -> Tensor:
        embeddings: Tensor = inferer(patches.to(settings.device), network)
        return embeddings

    with torch.inference_mode():
        answers = search(cases, apply, settings.batch_size, settings.progress)
    median = float(np.median(answers.distances_mm))
    logger.info("%s: median %.1f mm over %d answers", candidate.name, median, len(answers.inside))
    return answers


def _remark(cases: Sequence[OrganCase]) -> str:
    """Say how many queries are centred outside of their organ; they count all the same."""
    queries = [(case, i) for case in cases for i in case.centroids]
    outside = [i for case, i in queries if i in case.outside]
    text = f"{len(outside)} of {len(queries)} queries are centred outside their organ"
    if not outside:
        return text
    names = sorted({class_name(i) for i in outside})
    dots = ", …" if len(names) > SHOWN else ""
    return f"{text}, and count all the same, as published ({', '.join(names[:SHOWN])}{dots})"

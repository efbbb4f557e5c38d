"""From answers to the figures of a table, and which checkpoint is best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ctfm.base.types import Array
from ctfm.contract.classes import class_name
from ctfm.protocols.probing.encoders import Candidate
from ctfm.protocols.probing.search import SearchAnswers

__all__ = ["BEST_WINDOW", "CHANCE", "OrganScore", "Ranking", "by_rank", "score"]

#: Rows that no encoder makes, to read the others by.
BEST_WINDOW, CHANCE = "nearest window", "random window"


@dataclass(frozen=True)
class OrganScore:
    """How an encoder answers, for a class or for all of them.

    Attributes:
        class_id: None for all classes together.
        class_name: its name.
        pairs: answers that the figures are over: ordered pairs of scans, for each class.
        median_mm: median distance of the answers to the organ's centre of mass.
        mean_mm: mean distance.
        inside: share of the answers that lie inside the organ.
    """

    class_id: int | None
    class_name: str
    pairs: int
    median_mm: float
    mean_mm: float
    inside: float


@dataclass(frozen=True)
class Ranking:
    """Checkpoints and what they are read beside.

    Attributes:
        checkpoints: checkpoints and their scores, best first; the first score of each is over all
            classes.
        random: the same for random encoders.
        limits: `BEST_WINDOW` and `CHANCE` -> scores.
    """

    checkpoints: list[tuple[Candidate, list[OrganScore]]]
    random: list[tuple[Candidate, list[OrganScore]]]
    limits: dict[str, list[OrganScore]]

    @classmethod
    def of(
        cls,
        scores: Sequence[tuple[Candidate, list[OrganScore]]],
        limits: dict[str, list[OrganScore]],
    ) -> Ranking:
        """Sort encoders `by_rank`, checkpoints and random ones apart."""
        ranked = by_rank(scores)
        return cls(
            checkpoints=[one for one in ranked if one[0].source is not None],
            random=[one for one in ranked if one[0].source is None],
            limits=limits,
        )

    def random_band(self) -> tuple[float, float]:
        """Smallest and largest median distance of the random encoders, mm."""
        medians = [scores[0].median_mm for _, scores in self.random]
        return min(medians), max(medians)

    def verdict(self) -> str:
        """One line that names the best checkpoint, and where it stands beside random encoders."""
        candidate, scores = self.checkpoints[0]
        low, high = self.random_band()
        place = "below" if scores[0].median_mm < low else "NOT below"
        return (
            f"best: {candidate.name}, median {scores[0].median_mm:.1f} mm, "
            f"{scores[0].inside:.0%} inside; {place} all {len(self.random)} random encoders "
            f"({low:.1f} to {high:.1f} mm)"
        )


def score(answers: SearchAnswers) -> list[OrganScore]:
    """Scores over all answers, then over those of each class.

    Args:
        answers: of one encoder.
    """
    whole = _score(answers, np.ones(len(answers.class_ids), dtype=bool), None, "all classes")
    classes = [int(i) for i in np.unique(answers.class_ids)]
    return [
        whole,
        *(_score(answers, answers.class_ids == i, i, class_name(i)) for i in classes),
    ]


def by_rank(
    scores: Sequence[tuple[Candidate, list[OrganScore]]],
) -> list[tuple[Candidate, list[OrganScore]]]:
    """The best first: by median distance over all answers, then by mean."""
    return sorted(scores, key=lambda one: (one[1][0].median_mm, one[1][0].mean_mm))


def _score(answers: SearchAnswers, mine: Array, class_id: int | None, name: str) -> OrganScore:
    return OrganScore(
        class_id=class_id,
        class_name=name,
        pairs=int(mine.sum()),
        median_mm=float(np.median(answers.distances_mm[mine])),
        mean_mm=float(answers.distances_mm[mine].mean()),
        inside=float(answers.inside[mine].mean()),
    )

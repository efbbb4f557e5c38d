"""A ranking as files and on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ctfm.base.files import atomic_path
from ctfm.base.tables import align, write_json, write_table
from ctfm.protocols.probing.encoders import Candidate
from ctfm.protocols.probing.scores import BEST_WINDOW, CHANCE, OrganScore, Ranking, by_rank

__all__ = ["format_table", "write_report"]

COLUMNS = ("checkpoint", "class_id", "class", "pairs", "median_mm", "mean_mm", "share_inside")


def write_report(ranking: Ranking, folder: Path, settings: Mapping[str, Any]) -> None:
    """Write ``rank.csv``, ``rank.json`` and ``rank.png``, each of them whole.

    Args:
        ranking: what is written.
        folder: made where it does not exist.
        settings: what the figures depend on, as JSON has it.

    Raises:
        UserError: the folder cannot be written to.
    """
    write_table(folder / "rank.csv", COLUMNS, _cells(ranking))
    write_json(folder / "rank.json", _document(ranking, settings))
    with atomic_path(folder / "rank.png") as path:
        _figure(ranking).savefig(path, format="png", dpi=120)


def format_table(ranking: Ranking) -> str:
    """All classes together, best first; what no encoder makes comes last."""
    lines = [("", "checkpoint", "median mm", "mean mm", "inside", "answers")]
    for rank, (name, scores) in enumerate(_rows(ranking), start=1):
        whole = scores[0]
        number = "" if name in ranking.limits else str(rank)
        distances = f"{whole.median_mm:.1f}", f"{whole.mean_mm:.1f}"
        lines.append((number, name, *distances, f"{whole.inside:.1%}", str(whole.pairs)))
    return "\n".join(align(lines, left=(1,)))


def _cells(ranking: Ranking) -> Iterator[list[Any]]:
    for name, scores in _rows(ranking):
        for one in scores:
            figures = (one.median_mm, one.mean_mm, one.inside)
            head = (name, "" if one.class_id is None else one.class_id, one.class_name, one.pairs)
            yield [*head, *(f"{figure:.6g}" for figure in figures)]


def _rows(ranking: Ranking) -> Iterator[tuple[str, list[OrganScore]]]:
    """Encoders by rank, random ones among them, then the limits."""
    encoders = by_rank([*ranking.checkpoints, *ranking.random])
    yield from ((candidate.name, scores) for candidate, scores in encoders)
    yield from ranking.limits.items()


def _document(ranking: Ranking, settings: Mapping[str, Any]) -> dict[str, Any]:
    def encoders(found: Sequence[tuple[Candidate, list[OrganScore]]]) -> list[dict[str, Any]]:
        return [
            {
                "name": candidate.name,
                "source": candidate.source,
                "seed": candidate.seed,
                "epoch": candidate.epoch,
                "encoder_sha256": candidate.encoder_sha256,
                "init_filters": candidate.architecture.init_filters,
                "blocks_down": candidate.architecture.blocks_down,
                **_summary(scores[0]),
            }
            for candidate, scores in found
        ]

    return {
        "best": ranking.checkpoints[0][0].name,
        "verdict": ranking.verdict(),
        "checkpoints": encoders(ranking.checkpoints),
        "random": encoders(ranking.random),
        "random_median_mm": ranking.random_band(),
        "limits": {name: _summary(scores[0]) for name, scores in ranking.limits.items()},
        "settings": dict(settings),
    }


def _summary(whole: OrganScore) -> dict[str, Any]:
    figures = asdict(whole)
    return {name: figures[name] for name in ("pairs", "median_mm", "mean_mm", "inside")}


def _figure(ranking: Ranking) -> Figure:
    """Median distance of each checkpoint, by epoch where all have one, over the random band."""
    found = [(candidate, scores[0].median_mm) for candidate, scores in ranking.checkpoints]
    epochs = [candidate.epoch for candidate, _ in found]
    by_epoch = None not in epochs and len(set(epochs)) == len(epochs)
    if by_epoch:
        found.sort(key=lambda one: one[0].epoch or 0)
    places = [c.epoch or 0 for c, _ in found] if by_epoch else list(range(len(found)))
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    low, high = ranking.random_band()
    axes.axhspan(low, high, color="0.8", label="encoders with random weights")
    axes.axhline((low + high) / 2, color="0.6", linewidth=1)
    for name, style in ((CHANCE, ":"), (BEST_WINDOW, "--")):
        level = ranking.limits[name][0].median_mm
        axes.axhline(level, color="0.3", linestyle=style, linewidth=1, label=name)
    axes.plot(places, [median for _, median in found], "o-" if by_epoch else "o", color="tab:blue")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("median distance to the organ's centre (mm)")
    if by_epoch:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        names = [candidate.name for candidate, _ in found]
        axes.set_xticks(places, names, rotation=30, ha="right", parse_math=False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure

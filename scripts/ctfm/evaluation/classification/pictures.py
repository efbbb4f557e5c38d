"""ROC, precision and recall, and reliability, as pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture
from scipy import stats
from sklearn.metrics import precision_recall_curve, roc_curve

from ctfm.base.files import atomic_path
from ctfm.evaluation.classification.evaluation import Evaluation, Figure
from ctfm.evaluation.classification.predictions import Scores
from ctfm.evaluation.intervals import CONFIDENCE, value_text

__all__ = ["draw_pictures"]

COLORS = ("tab:blue", "tab:orange")
FAINT = "0.6"
MARKERS = {"fixed": "o", "youden": "D", "sensitive": "^"}


def draw_pictures(found: Evaluation, folder: Path) -> None:
    """Write `roc.png`, `precision_recall.png` and `reliability.png`, each of them whole.

    Raises:
        UserError: the folder cannot be written to.
    """
    for name, picture in (
        ("roc", _roc(found)),
        ("precision_recall", _precision_recall(found)),
        ("reliability", _reliability(found)),
    ):
        with atomic_path(folder / f"{name}.png") as path:
            picture.savefig(path, format="png", dpi=120)


def _empty(height: float) -> Picture:
    picture = Picture(figsize=(6.4, height), layout="constrained")
    FigureCanvasAgg(picture)
    return picture


def _square(found: Evaluation, x: str, y: str) -> tuple[Picture, Axes]:
    picture = _empty(6.4)
    axes = picture.subplots()
    axes.set_aspect("equal")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(_title(found), fontsize=10)
    return picture, axes


def _title(found: Evaluation) -> str:
    cases, positives = found.predictions.cases, found.predictions.positives
    return f"{cases} cases, {positives} positive ({positives / cases:.0%})"


def _named(found: Evaluation, score: Scores, figure: str, title: str) -> str:
    one = next(f for f in found.figures if (f.score, f.figure) == (score.name, figure))
    return f"{score.name}: {title} {value_text(one.value, one.interval)}"


def _colored(found: Evaluation) -> Iterator[tuple[Scores, str]]:
    return zip(found.predictions.scores, COLORS, strict=False)


def _at_points(found: Evaluation, score: Scores, figure: str) -> dict[str, Figure]:
    return {f.point: f for f in found.figures if (f.score, f.figure) == (score.name, figure)}


def _mark(axes: Axes, found: Evaluation, score: Scores, color: str, x: str, y: str) -> None:
    """A marker at each operating point; the legend explains those of every score."""
    across, up = (_at_points(found, score, name) for name in (x, y))
    for point in found.points[score.name]:
        place = across[point.name].value, up[point.name].value
        place = (1 - place[0], place[1]) if x == "specificity" else place
        name = {"fixed": "fixed threshold", "sensitive": "chosen sensitivity"}.get(
            point.name, "Youden"
        )
        axes.plot(
            *place,
            MARKERS.get(point.name, "s"),
            color=color,
            markeredgecolor="black",
            markersize=9,
            linestyle="none",
            zorder=4,
            clip_on=False,
            label=f"{name}, p >= {point.threshold:.3f}",
        )


def _roc(found: Evaluation) -> Picture:
    picture, axes = _square(found, "1 - specificity", "sensitivity")
    axes.plot([0, 1], [0, 1], color=FAINT, linestyle="--", linewidth=1, label="chance")
    for score, color in _colored(found):
        false, true, _ = roc_curve(found.predictions.labels, score.ranks)
        name = _named(found, score, "auroc", "AUROC")
        axes.plot(false, true, color=color, linewidth=2, label=name, zorder=3)
        _mark(axes, found, score, color, "specificity", "sensitivity")
    _legend(axes, "lower right")
    return picture


def _precision_recall(found: Evaluation) -> Picture:
    picture, axes = _square(found, "recall (sensitivity)", "precision (PPV)")
    labels = found.predictions.labels
    share = float(labels.mean())
    axes.axhline(share, color=FAINT, linestyle="--", linewidth=1, label=f"chance, {share:.2f}")
    for score, color in _colored(found):
        precision, recall, _ = precision_recall_curve(labels, score.ranks)
        name = _named(found, score, "average_precision", "AP")
        axes.step(recall, precision, where="post", color=color, linewidth=2, label=name, zorder=3)
        _mark(axes, found, score, color, "sensitivity", "ppv")
    _legend(axes, "lower left")
    return picture


def _reliability(found: Evaluation) -> Picture:
    """Above, share of positives by probability with Wilson's intervals; below, how many cases."""
    picture = _empty(7.6)
    above, below = picture.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    above.plot([0, 1], [0, 1], color=FAINT, linestyle="--", linewidth=1, label="perfect")
    edges = np.linspace(0, 1, found.bins + 1)
    for score, color in _colored(found):
        _draw_bins(above, found, score, color, _named(found, score, "ece", "error"))
    shares = [score.probabilities for score in found.predictions.scores]
    below.hist(shares, edges.tolist(), color=COLORS[: len(shares)], rwidth=0.85)
    above.set_ylim(-0.02, 1.02)
    above.set_xlim(-0.02, 1.02)
    above.set_ylabel("share of positive cases, 95 % interval")
    above.set_title(_title(found), fontsize=10)
    above.grid(color="0.92")
    _legend(above, "upper left")
    below.set_ylabel("cases")
    below.set_xlabel(f"mean probability in each of {found.bins} bins")
    return picture


def _draw_bins(axes: Axes, found: Evaluation, score: Scores, color: str, name: str) -> None:
    labels, shares = found.predictions.labels, score.probabilities
    member = np.minimum((shares * found.bins).astype(int), found.bins - 1)
    points = []
    for one in np.unique(member):
        here = labels[member == one]
        part = stats.binomtest(int(here.sum()), len(here)).proportion_ci(CONFIDENCE, "wilson")
        points.append((shares[member == one].mean(), here.mean(), part.low, part.high))
    x, y, low, high = np.array(points).T
    spread = np.clip([y - low, high - y], 0, None)
    axes.errorbar(
        x, y, yerr=spread, color=color, marker="o", linewidth=1.5, capsize=3, label=name, zorder=3
    )


def _legend(axes: Axes, place: str) -> None:
    """Names as they are: a "$" in a column's name is no formula."""
    legend = axes.legend(loc=place, fontsize=8, framealpha=0.95)
    for text in legend.get_texts():
        text.set_parse_math(False)

"""Differences between two runs, paired by case: mean, interval, signed-rank test."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from ctfm.base.errors import UserError
from ctfm.evaluation.comparison.runs import METRICS, Metric, Run, check_same
from ctfm.evaluation.intervals import Estimate, Interval, estimate_mean, interval_text, mean

__all__ = ["Comparison", "Pair", "Row", "compare_runs", "holm", "signed_rank_p"]

SIGNIFICANT = 0.05
#: Below so many cases that differ, no p-value can fall below 0.05 (two-sided, 2 ** (1 - n)).
MIN_CASES_FOR_TEST = 6
#: With at most so many cases that differ, the smallest possible p is worth a word.
FEW_CASES = 10
#: Differences of scores with six digits: what is smaller is the rounding of their subtraction.
DECIMALS = 9


@dataclass(frozen=True)
class Pair:
    """The scores of both runs for a case; nan: there is none."""

    case: str
    a: float
    b: float

    @property
    def difference(self) -> float:
        """A - B; nan where a score is missing."""
        return round(self.a - self.b, DECIMALS)


@dataclass(frozen=True)
class Row:
    """One class, or all of them, over the cases in which both runs have a score.

    Attributes:
        class_id: None for all classes together.
        name: of the class.
        pairs: one for each case, those without a score included.
        a: mean of A's scores.
        b: mean of B's scores.
        difference: mean of A - B over cases, with its interval.
        better_a: cases in which A is better.
        better_b: cases in which B is.
        only_a: cases in which A alone has a score.
        only_b: cases in which B alone has one.
        p: two-sided, of Wilcoxon's signed-rank test; nan without a case.
        p_holm: p corrected for the number of classes; for all classes together as `p`.
    """

    class_id: int | None
    name: str
    pairs: tuple[Pair, ...]
    a: float
    b: float
    difference: Estimate
    better_a: int
    better_b: int
    only_a: int
    only_b: int
    p: float
    p_holm: float

    @property
    def differing(self) -> int:
        """Cases in which one run is better."""
        return self.better_a + self.better_b


@dataclass(frozen=True)
class Comparison:
    """What `compare_runs` found, and with which settings."""

    a: Run
    b: Run
    overall: Row
    classes: list[Row]
    seed: int
    resamples: int

    @property
    def metric(self) -> Metric:
        """How the metric reads."""
        return METRICS[self.a.metric]

    def verdict(self) -> str:
        """The result over all classes, in words.

        A difference counts as shown if the test's p is below 0.05 and the interval, where there
        is one, does not hold 0.
        """
        row, metric = self.overall, self.metric
        value, interval = row.difference.mean, row.difference.interval
        p = "p < 0.001" if row.p < 0.001 else f"p = {row.p:.2g}"
        cases = "1 case" if row.difference.cases == 1 else f"{row.difference.cases} cases"
        if row.p < SIGNIFICANT and (interval is None or interval[0] * interval[1] > 0):
            sign = 1 if (value > 0) == metric.higher_is_better else -1
            name, factor = ("A" if sign > 0 else "B"), math.copysign(1, value)
            details = [_interval(interval, metric.digits, factor), p, cases]
            by = f"{abs(value):.{metric.digits}f} {metric.title}"
            text = f"{name} is better by {by} ({', '.join(filter(None, details))})"
            return f"{text}{self._limits()}"
        found = f"A - B = {value:.{metric.digits}f} {metric.title}"
        details = [found, _interval(interval, metric.digits), p, cases]
        text = f"no difference can be shown ({', '.join(filter(None, details))})"
        if 0 < row.differing < MIN_CASES_FOR_TEST:
            least = f"{2.0 ** (1 - row.differing):.4g}"
            text += f"; {row.differing} of them differ, so that the smallest possible p is {least}"
        return text

    def _limits(self) -> str:
        """What a shown difference does not show."""
        least = 2.0 ** (1 - self.overall.differing)
        text = "; cases vary here, not trainings: another seed of either run may differ as much"
        if self.overall.differing <= FEW_CASES and self.overall.p <= 1.01 * least:
            return f"; with so few cases no p is smaller than {least:.2g}{text}"
        return text


def _interval(ends: Interval, digits: int, factor: float = 1) -> str:
    if ends is None:
        return ""
    low, high = sorted(factor * end for end in ends)
    return f"95 % interval {interval_text((low, high), digits)}"


def compare_runs(a: Run, b: Run, seed: int = 0, resamples: int = 1000) -> Comparison:
    """Compare two runs over the cases in which both have a score.

    All classes together: first the mean over those classes of a case that have a score in both
    runs, then over cases.

    Args:
        a: one run.
        b: the other, on the same cases.
        seed: of the bootstrap; the intervals are the same on every run.
        resamples: bootstrap resamples for each interval (percentile method, over cases).

    Raises:
        UserError: the runs are not of the same cases, classes and references, or no case has a
            score in both.
    """
    check_same(a, b)
    higher = METRICS[a.metric].higher_is_better
    by_class: dict[int, list[Pair]] = {i: [] for i in sorted(a.names)}
    for (case, i), value in a.values.items():
        by_class[i].append(Pair(case, value, b.values[case, i]))
    rows = [_row(i, a.names[i], pairs, higher, seed, resamples) for i, pairs in by_class.items()]
    overall = _row(None, "all classes", _over_classes(by_class.values()), higher, seed, resamples)
    if not overall.difference.cases:
        raise UserError(
            f"no case has a value of {a.metric} in both runs: choose another --metric, or "
            "evaluate again"
        )
    missing = [(row.only_a, row.only_b) for row in rows]
    only_a, only_b = (sum(side) for side in zip(*missing, strict=True))
    corrected = holm([row.p for row in rows])
    return Comparison(
        a=a,
        b=b,
        overall=replace(overall, only_a=only_a, only_b=only_b),
        classes=[replace(row, p_holm=p) for row, p in zip(rows, corrected, strict=True)],
        seed=seed,
        resamples=resamples,
    )


def _over_classes(by_class: Iterable[Sequence[Pair]]) -> list[Pair]:
    """Each case's mean over the classes that have a score in both runs."""
    shared: dict[str, list[Pair]] = {}
    for pairs in by_class:
        for pair in pairs:
            both = [] if math.isnan(pair.difference) else [pair]
            shared.setdefault(pair.case, []).extend(both)
    return [Pair(c, mean(p.a for p in some), mean(p.b for p in some)) for c, some in shared.items()]


def _row(
    class_id: int | None,
    name: str,
    pairs: Sequence[Pair],
    higher_is_better: bool,
    seed: int,
    resamples: int,
) -> Row:
    both = [pair for pair in pairs if not math.isnan(pair.difference)]
    differences = [pair.difference for pair in both]
    up, down = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    p = signed_rank_p(differences)
    return Row(
        class_id=class_id,
        name=name,
        pairs=tuple(pairs),
        a=mean(pair.a for pair in both),
        b=mean(pair.b for pair in both),
        difference=estimate_mean(differences, seed, resamples),
        better_a=up if higher_is_better else down,
        better_b=down if higher_is_better else up,
        only_a=sum(math.isnan(pair.b) and not math.isnan(pair.a) for pair in pairs),
        only_b=sum(math.isnan(pair.a) and not math.isnan(pair.b) for pair in pairs),
        p=p,
        p_holm=p,
    )


def signed_rank_p(differences: Sequence[float]) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test; cases without a difference are left out.

    It is exact up to 50 cases, or 13 where absolute differences are tied.

    Args:
        differences: one a case, none of them nan.

    Returns:
        1 where no case differs; nan where there is no case.
    """
    if not len(differences):
        return math.nan
    differing = np.array([d for d in differences if d != 0])
    if not differing.size:
        return 1.0
    return float(stats.wilcoxon(differing).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction (1979): no smaller than p, and 1 at most; nan stays nan and counts not."""
    order = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected, largest = list(p_values), 0.0
    for place, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - place) * p))
        corrected[i] = largest
    return corrected

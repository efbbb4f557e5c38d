"""Means and intervals over cases, and the files and the table they are written to."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import torch
from monai.metrics.utils import do_metric_reduction

from ctfm.base.errors import UserError
from ctfm.evaluation.metrics import (
    METRICS,
    ClassScore,
    format_table,
    segmentation_scores,
    summarise,
    write_report,
)

NAN = float("nan")


def score(class_id=1, dice=0.5, reference_ml=1.0, prediction_ml=1.0) -> ClassScore:
    name, distances = f"class_{class_id}", (10 * dice, 20 * dice)
    return ClassScore(class_id, name, dice, *distances, dice / 2, reference_ml, prediction_ml)


def cases(dice) -> dict[str, list[ClassScore]]:
    """One case a row, one class a column of Dice values; nan: not in the reference."""
    return {
        f"case_{row}": [
            score(i, value, reference_ml=float(not math.isnan(value)), prediction_ml=1.0)
            for i, value in enumerate(values, start=1)
        ]
        for row, values in enumerate(dice)
    }


DICE = [[0.9, NAN, 0.5], [0.8, 0.6, NAN], [0.7, NAN, NAN], [1.0, 0.2, 0.3]]


def test_means_are_monais_reductions():
    summary = summarise(cases(DICE))
    overall, _ = do_metric_reduction(torch.tensor(DICE), "mean")
    classes, counts = do_metric_reduction(torch.tensor(DICE), "mean_batch")
    assert summary.overall.estimates["dice"].mean == pytest.approx(float(overall))
    found = [row.estimates["dice"] for row in summary.classes]
    assert [estimate.mean for estimate in found] == pytest.approx(classes.tolist())
    assert [estimate.cases for estimate in found] == counts.tolist() == [4, 2, 2]
    assert [row.cases for row in summary.classes] == [4, 2, 2]
    assert summary.overall.estimates["hd95_mm"].mean == pytest.approx(20 * float(overall))


def test_missed_and_spurious_are_counted():
    given = {
        "a": [score(1, 0.0, prediction_ml=0), score(2, NAN, reference_ml=0)],
        "b": [score(1), score(2, NAN, reference_ml=0, prediction_ml=0)],
    }
    summary = summarise(given)
    assert [(row.cases, row.missed, row.spurious) for row in summary.classes] == [
        (2, 1, 0),
        (0, 0, 1),
    ]
    assert (summary.overall.cases, summary.overall.missed, summary.overall.spurious) == (2, 1, 1)
    assert math.isnan(summary.classes[1].estimates["dice"].mean)


def test_case_without_any_class_does_not_enter_the_overall_mean():
    summary = summarise(cases([[0.5], [NAN]]))
    assert summary.cases == 2
    assert summary.overall.cases == 1
    assert summary.overall.estimates["dice"].mean == 0.5


def test_interval_is_a_percentile_bootstrap_over_cases():
    values = np.random.default_rng(1).uniform(0.2, 0.9, 12)
    interval = summarise(cases(values[:, None])).overall.estimates["dice"].interval
    rng = np.random.default_rng(7)
    means = [np.mean(rng.choice(values, len(values))) for _ in range(20_000)]
    assert interval == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.02)
    assert interval[0] < values.mean() < interval[1]


def test_interval_of_many_cases_is_the_normal_one():
    values = np.random.default_rng(2).normal(0.8, 0.05, (400, 1))
    interval = summarise(cases(values)).classes[0].estimates["dice"].interval
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert interval == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_equal_cases_have_an_interval_of_no_width():
    interval = summarise(cases([[0.75]] * 5)).overall.estimates["dice"].interval
    assert interval == (0.75, 0.75)


def test_interval_depends_on_seed_and_nothing_else():
    values = np.random.default_rng(3).random((8, 3))
    first, again = summarise(cases(values), seed=5), summarise(cases(values), seed=5)
    assert first == again
    alone = summarise(cases(values[:, 2:]), seed=5).classes[0]
    assert alone.estimates["dice"] == first.classes[2].estimates["dice"]
    other = summarise(cases(values), seed=6)
    assert other.overall.estimates["dice"].interval != first.overall.estimates["dice"].interval
    assert other.overall.estimates["dice"].mean == first.overall.estimates["dice"].mean


@pytest.mark.parametrize(("count", "has_interval"), [(1, False), (2, False), (3, True)])
def test_no_interval_below_three_cases(count, has_interval):
    values = [[0.1 * (i + 1)] for i in range(count)] + [[NAN]]
    estimate = summarise(cases(values)).classes[0].estimates["dice"]
    assert estimate.cases == count
    assert (estimate.interval is not None) is has_interval


def test_nothing_to_summarise():
    with pytest.raises(UserError, match="no cases"):
        summarise({})


def read_csv(path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def strict_json(path) -> dict:
    def refuse(constant: str):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_report_holds_every_score_and_no_nan(tmp_path):
    given = cases(DICE)
    summary = write_report(given, tmp_path / "new" / "folder", settings={"model": "x", "bad": NAN})
    folder = tmp_path / "new" / "folder"
    names = ["metrics.json", "metrics_cases.csv", "metrics_summary.csv"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert all("nan" not in (folder / name).read_text().lower() for name in names)

    rows = read_csv(folder / "metrics_cases.csv")
    header = "case,class_id,class,dice,asd_mm,hd95_mm,nsd,reference_ml,prediction_ml"
    assert ",".join(rows[0]) == header
    assert len(rows) == 12
    assert rows[0]["case"] == "case_0"
    assert float(rows[0]["hd95_mm"]) == 18
    assert rows[1]["dice"] == ""

    rows = read_csv(folder / "metrics_summary.csv")
    assert [row["class"] for row in rows] == ["all classes", "class_1", "class_2", "class_3"]
    estimate = summary.classes[0].estimates["nsd"]
    assert float(rows[1]["nsd"]) == pytest.approx(estimate.mean)
    assert float(rows[1]["nsd_ci_high"]) == pytest.approx(estimate.interval[1])
    assert (rows[2]["cases"], rows[2]["dice_ci_low"]) == ("2", "")

    document = strict_json(folder / "metrics.json")
    assert document["cases"] == 4
    assert document["nsd_tolerance_mm"] == 3
    assert document["bootstrap"]["resamples"] == 1000
    assert document["settings"] == {"model": "x", "bad": None}
    overall = document["overall"]["estimates"]
    assert list(overall) == list(METRICS)
    assert overall["dice"]["mean"] == summary.overall.estimates["dice"].mean
    assert document["classes"][1]["estimates"]["dice"]["interval"] is None


def test_report_of_real_scores_with_numpy_spacing(tmp_path):
    label = np.zeros((6, 6, 6), dtype=np.uint8)
    label[1:4, 2:5, 2:5] = 1
    spacing = np.array([1, 2, 3], dtype=np.float32)
    scores = segmentation_scores(label, label, spacing, {1: "one", 2: "two"})
    write_report({"a": scores}, tmp_path)
    assert strict_json(tmp_path / "metrics.json")["overall"]["estimates"]["dice"]["mean"] == 1
    rows = read_csv(tmp_path / "metrics_cases.csv")
    assert (rows[0]["dice"], rows[0]["reference_ml"], rows[1]["dice"]) == ("1", "0.162", "")


def test_report_is_the_same_on_every_run(tmp_path):
    for folder in ("a", "b"):
        write_report(cases(DICE), tmp_path / folder)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_report_uses_the_summary_it_is_given(tmp_path):
    summary = summarise(cases(DICE), seed=3, resamples=50, nsd_tolerance_mm=1)
    assert write_report(cases(DICE), tmp_path, summary) is summary
    document = strict_json(tmp_path / "metrics.json")
    assert (document["bootstrap"]["seed"], document["nsd_tolerance_mm"]) == (3, 1)


def test_report_where_no_folder_can_be(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match="cannot write"):
        write_report(cases(DICE), tmp_path / "taken")


def test_table_is_aligned_and_complete():
    summary = summarise(cases([*DICE, [0.9, NAN, NAN]]))
    lines = format_table(summary).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "ASD mm" in lines[0]
    assert "NSD 3 mm" in lines[0]
    assert [line[:11].strip() for line in lines[2:]] == [
        "all classes",
        "1 class_1",
        "2 class_2",
        "3 class_3",
    ]
    assert " 0.860 " in lines[3]
    assert " 0.400 " in lines[4]
    assert " to " in lines[3]
    assert " to " not in lines[4], "two cases have no interval"


def test_table_counts_what_it_leaves_out():
    given = cases(DICE)
    for row in given.values():
        row.append(score(9, NAN, reference_ml=0, prediction_ml=0))
    lines = format_table(summarise(given), limit=2).splitlines()
    assert lines[-2:] == ["and 1 more classes", "and 1 classes in no reference and no prediction"]
    assert len(lines) == 7
    assert "nan" not in "".join(lines)

"""Two runs against each other: figures by hand and by slow references, files, what is refused."""

from __future__ import annotations

import csv
import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import rankdata

from ctfm.base.errors import UserError
from ctfm.evaluation.comparison.comparison_report import format_comparison
from ctfm.evaluation.comparison.folders import compare_folders
from ctfm.evaluation.comparison.paired import Comparison, compare_runs, holm, signed_rank_p
from ctfm.evaluation.comparison.runs import read_run

NAN = float("nan")
COLUMNS = "case,class_id,class,dice,asd_mm,hd95_mm,nsd,reference_ml,prediction_ml"
NAMES = {1: "liver", 2: "tumour", 3: "vein"}


def write(folder: Path, scores: dict[str, list[float]], metric: str = "dice") -> Path:
    """`metrics_cases.csv` of a run: a case a row, a class a column; nan: no score."""
    folder.mkdir(parents=True, exist_ok=True)
    names = COLUMNS.split(",")
    with open(folder / "metrics_cases.csv", "w", newline="") as file:
        table = csv.DictWriter(file, names, restval="", lineterminator="\n")
        table.writeheader()
        for case, values in scores.items():
            for class_id, value in enumerate(values, start=1):
                row = {"case": case, "class_id": class_id, "class": NAMES[class_id]}
                row |= {"reference_ml": "0" if math.isnan(value) and metric == "dice" else "12.5"}
                row |= {} if math.isnan(value) else {metric: f"{value:.6g}"}
                table.writerow(row)
    return folder


def named(rows: Any) -> dict[str, list[float]]:
    return {f"case_{i}": list(map(float, np.atleast_1d(row))) for i, row in enumerate(rows)}


def compared(tmp_path: Path, a: Any, b: Any, metric: str = "dice") -> Comparison:
    runs = (
        read_run(write(tmp_path / name, named(rows), metric), metric)
        for name, rows in (("a", a), ("b", b))
    )
    return compare_runs(*runs)


# --- figures --------------------------------------------------------------------------------


def slow_signed_rank_p(differences: np.ndarray) -> float:
    """All ways to give the ranks a sign: how many are as far from the middle?"""
    differing = differences[differences != 0]
    ranks = rankdata(np.abs(differing))
    middle = ranks.sum() / 2
    seen = abs(ranks[differing > 0].sum() - middle)
    signs = np.array(list(product((0, 1), repeat=len(ranks))))
    return float((np.abs(signs @ ranks - middle) >= seen - 1e-9).mean())


@pytest.mark.parametrize("count", [1, 2, 5, 6, 9, 12])
@pytest.mark.parametrize("tied", [False, True])
def test_p_is_that_of_all_signs(count: int, tied: bool) -> None:
    differences = np.random.default_rng(count).normal(0.05, 0.1, count)
    if tied:
        differences = differences.round(1)
        differences[0] = 0.1
    assert signed_rank_p(differences) == pytest.approx(slow_signed_rank_p(differences))


def test_p_of_many_cases_is_that_of_the_normal_approximation() -> None:
    differences = np.random.default_rng(0).normal(0.01, 0.1, 200)
    ranks = rankdata(np.abs(differences))
    n = len(ranks)
    z = (ranks[differences > 0].sum() - n * (n + 1) / 4) / math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
    assert signed_rank_p(differences) == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), abs=2e-3)


def test_p_without_differences_and_without_cases() -> None:
    assert signed_rank_p([0.0, 0.0]) == 1
    assert math.isnan(signed_rank_p([]))
    assert signed_rank_p([0.1] * 6) == pytest.approx(2 ** (1 - 6))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, NAN, 0.03]) == pytest.approx([0.03, 0.06, NAN, 0.06], nan_ok=True)
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


def test_means_differences_and_counts_by_hand(tmp_path: Path) -> None:
    a = [[0.9, NAN, 0.5], [0.8, 0.6, NAN], [0.7, NAN, NAN], [1.0, 0.2, 0.3]]
    b = [[0.8, NAN, 0.6], [0.7, 0.6, NAN], [0.8, NAN, NAN], [0.6, 0.4, 0.1]]
    found = compared(tmp_path, a, b)
    assert [row.difference.mean for row in found.classes] == pytest.approx([0.125, -0.1, 0.05])
    assert [row.difference.cases for row in found.classes] == [4, 2, 2]
    assert [(row.better_a, row.better_b) for row in found.classes] == [(3, 1), (0, 1), (1, 1)]
    by_case = [0.7 - 0.7, 0.7 - 0.65, 0.7 - 0.8, 0.5 - 1.1 / 3]
    overall = found.overall
    assert [pair.difference for pair in overall.pairs] == pytest.approx(by_case)
    assert overall.difference.mean == pytest.approx(np.mean(by_case))
    assert (overall.better_a, overall.better_b) == (2, 1)
    assert overall.a - overall.b == pytest.approx(overall.difference.mean)


def test_interval_is_that_of_the_paired_differences(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    b = rng.uniform(0.2, 0.9, 25)
    a = b + rng.normal(0.03, 0.05, 25)
    found = compared(tmp_path, a, b).overall.difference
    draws = rng.choice(a - b, (20_000, 25)).mean(1)
    assert found.interval == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.004)


def test_exchanged_runs_give_the_opposite(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random((8, 2)), rng.random((8, 2))
    one, other = compared(tmp_path / "1", a, b), compared(tmp_path / "2", b, a)
    assert one.overall.difference.mean == pytest.approx(-other.overall.difference.mean)
    assert one.overall.p == other.overall.p
    assert (one.overall.better_a, one.overall.better_b) == (
        other.overall.better_b,
        other.overall.better_a,
    )


def test_distances_that_one_run_does_not_have_are_left_out_and_counted(tmp_path: Path) -> None:
    """The overall mean compares the classes that both runs have in a case."""
    a = [[1.0, 50.0], [2.0, 3.0], [4.0, NAN]]
    b = [[2.0, NAN], [2.0, 5.0], [NAN, NAN]]
    found = compared(tmp_path, a, b, "hd95_mm")
    assert [pair.difference for pair in found.overall.pairs[:2]] == pytest.approx([-1, -1])
    assert math.isnan(found.overall.pairs[2].difference)
    assert (found.overall.only_a, found.overall.only_b) == (2, 0)
    assert found.overall.better_a == 2, "a smaller distance is better"
    assert "left out, since one run alone has a value of hd95_mm" in format_comparison(found)


# --- in words -------------------------------------------------------------------------------


def test_better_run_in_words(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    b = rng.uniform(0.5, 0.8, 24)
    a = b + rng.normal(0.031, 0.01, 24)
    better = compared(tmp_path / "1", a, b).verdict()
    assert better.startswith("A is better by 0.03")
    assert " Dice (95 % interval 0.02" in better
    assert ", p < 0.001, 24 cases); cases vary here, not trainings: another seed" in better
    worse = compared(tmp_path / "2", b, a).verdict()
    assert worse == better.replace("A is better", "B is better")


def test_smaller_distances_are_better_in_words(tmp_path: Path) -> None:
    far = np.linspace(5, 9, 10)
    found = compared(tmp_path, far - 1 - far / 100, far, "asd_mm")
    assert found.verdict().startswith("A is better by 1.07 mm ASD (95 % interval 1.0")


def test_no_difference_in_words(tmp_path: Path) -> None:
    same = np.linspace(0.5, 0.9, 10)
    found = compared(tmp_path / "1", same, same)
    assert found.overall.p == 1
    assert found.verdict() == (
        "no difference can be shown (A - B = 0.000 Dice, 95 % interval 0.000 to 0.000, p = 1, "
        "10 cases)"
    )
    signs = 0.02 * np.array([1, -1] * 5) * np.linspace(0.5, 1, 10)
    text = compared(tmp_path / "2", same + signs, same).verdict()
    assert text.startswith("no difference can be shown (A - B = ")


@pytest.mark.parametrize(("count", "p"), [(5, "0.0625"), (2, "0.5"), (1, "1")])
def test_few_cases_in_words(tmp_path: Path, count: int, p: str) -> None:
    b = np.linspace(0.3, 0.6, count)
    text = compared(tmp_path, b + 0.3, b).verdict()
    assert text.startswith("no difference can be shown (A - B = 0.300 Dice")
    assert text.endswith(f"{count} of them differ, so that the smallest possible p is {p}")
    assert ("1 case)" in text) is (count == 1)


def test_six_cases_can_be_enough(tmp_path: Path) -> None:
    b = np.linspace(0.3, 0.6, 6)
    text = compared(tmp_path, b + b / 10, b).verdict()
    assert text.startswith("A is better by 0.045 Dice")
    assert "p = 0.031, 6 cases); with so few cases no p is smaller than 0.031; cases vary" in text


# --- files and table ------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(3)
    b = rng.uniform(0.3, 0.7, (9, 3))
    b[2, 1] = NAN
    a = b + rng.normal(0.05, 0.02, b.shape)
    return (
        write(tmp_path / "pretrained" / "evaluation", named(a)).parent,
        write(tmp_path / "scratch", named(b)),
    )


def test_files(runs: tuple[Path, Path], tmp_path: Path) -> None:
    text = compare_folders(*runs, out=tmp_path / "out")
    with open(tmp_path / "out" / "compare.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9 * 4
    assert rows[0]["class"] == "all classes"
    for row in rows:
        if row["difference"]:
            difference = float(row["a"]) - float(row["b"])
            assert float(row["difference"]) == pytest.approx(difference, abs=2e-6)
    empty = [row for row in rows if not row["difference"]]
    assert [(row["case"], row["class"], row["a"]) for row in empty] == [("case_2", "tumour", "")]
    document = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert document["verdict"] == text.splitlines()[-1]
    assert document["overall"]["difference"] == pytest.approx(0.05, abs=0.02)
    assert [row["cases"] for row in document["classes"]] == [9, 8, 9]
    assert all(row["p_holm"] >= row["p"] for row in document["classes"])
    assert document["bootstrap"]["seed"] == 0
    assert (tmp_path / "out" / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_same_files_on_every_run(runs: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("1", "2"):
        compare_folders(*runs, out=tmp_path / name)
    for name in ("compare.csv", "compare.json"):
        one, other = (tmp_path / folder / name for folder in ("1", "2"))
        assert one.read_bytes() == other.read_bytes()
    assert compare_folders(*runs, seed=1) != compare_folders(*runs)


def test_table(runs: tuple[Path, Path], tmp_path: Path) -> None:
    lines = compare_folders(*runs).splitlines()
    assert lines[0] == f"A: {runs[0] / 'evaluation' / 'metrics_cases.csv'}"
    assert len({len(line) for line in lines[3:9]}) == 1
    assert [line[:11].strip() for line in lines[5:9]] == [
        "all classes",
        "1 liver",
        "2 tumour",
        "3 vein",
    ]
    assert lines[-1].startswith("A is better by 0.0")


def test_class_that_no_case_has(tmp_path: Path) -> None:
    rows = [[0.5, NAN], [0.6, NAN], [0.7, NAN]]
    text = format_comparison(compared(tmp_path, rows, rows))
    assert "and 1 classes that no case has in both runs" in text
    assert "nan" not in text


def test_reads_what_an_evaluation_writes(tmp_path: Path) -> None:
    from ctfm.evaluation.metrics import ClassScore, write_report

    for run, dice in (("a", 0.8), ("b", 0.7)):
        cases = {
            f"case {i}": [
                ClassScore(5, "liver, all of it", dice + i / 50, 1.5, 2.5, 0.9, 1500.25, 1400),
                ClassScore(7, "pancreas", NAN, NAN, NAN, NAN, 0.0, 0.0),
            ]
            for i in range(7)
        }
        write_report(cases, tmp_path / run)
    text = compare_folders(tmp_path / "a", tmp_path / "b")
    assert "(95 % interval 0.100 to 0.100, p = 0.016, 7 cases); with so few cases no p" in text
    assert compare_folders(tmp_path / "a", tmp_path / "b", metric="nsd").endswith("p = 1, 7 cases)")


# --- what is refused ------------------------------------------------------------------------


def refused(a: Path, b: Path, **options: Any) -> str:
    with pytest.raises(UserError) as raised:
        compare_folders(a, b, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_lesions_of_two_runs(tmp_path: Path) -> None:
    """Fewer false positives are better; what a case without lesions has is no sensitivity."""
    header = "case,lesions,detected,sensitivity,predicted,false_positives"
    runs = {
        "a": ["x,2,2,1,2,0", "y,2,1,0.5,2,1", "z,0,0,,1,1"],
        "b": ["x,2,1,0.5,3,2", "y,2,1,0.5,4,3", "z,0,0,,4,4"],
    }
    for name, lines in runs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "lesions_cases.csv").write_text("\n".join([header, *lines]) + "\n")
    found, false = (
        compare_runs(*(read_run(tmp_path / name, metric) for name in runs))
        for metric in ("sensitivity", "false_positives")
    )
    assert (found.overall.a, found.overall.b, found.overall.difference.cases) == (0.75, 0.5, 2)
    assert (false.overall.difference.mean, false.overall.better_a) == (pytest.approx(-7 / 3), 3)
    with pytest.raises(UserError, match=r"no metrics_cases\.csv"):
        compare_folders(tmp_path / "a", tmp_path / "b")


def test_runs_on_other_cases(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = write(tmp_path / "other", named([[0.5, 0.5, 0.5]] * 2) | {"new": [0.5] * 3})
    found = refused(runs[0], other)
    assert "7 only in A (case_2, case_3, case_4, case_5, case_6, …), 1 only in B (new)" in found


def test_runs_with_other_classes(runs: tuple[Path, Path], tmp_path: Path) -> None:
    fewer = write(tmp_path / "other", named([[0.5, 0.5]] * 9))
    assert "not of the same classes: 9 only in A (case_0 vein" in refused(runs[0], fewer)
    file = runs[1] / "metrics_cases.csv"
    file.write_text(file.read_text().replace("liver", "spleen"))
    assert "class 1 is liver in A and spleen in B" in refused(*runs)


def test_runs_against_other_labels(runs: tuple[Path, Path]) -> None:
    file = runs[1] / "metrics_cases.csv"
    file.write_text(file.read_text().replace("12.5", "12.6", 1))
    found = refused(*runs)
    assert "case case_0, liver: the reference has 12.5 ml in A and 12.6 ml in B" in found


def test_no_score_in_both(tmp_path: Path) -> None:
    a, b = (write(tmp_path / name, named([[NAN], [NAN]])) for name in ("a", "b"))
    assert "no case has a value of dice in both runs" in refused(a, b)


def test_files_of_another_form(runs: tuple[Path, Path], tmp_path: Path) -> None:
    assert "no such file or folder" in refused(tmp_path / "nowhere", runs[1])
    assert "metric is 'iou': choose from dice" in refused(*runs, metric="iou")
    (tmp_path / "empty").mkdir()
    assert "no metrics_cases.csv in this folder" in refused(tmp_path / "empty", runs[1])
    assert "holds 2 files metrics_cases.csv" in refused(tmp_path, runs[1])
    file = runs[1] / "metrics_cases.csv"
    text = file.read_text()
    first = text.splitlines()[1]
    for content, message in (
        ("", "no column case"),
        (text.replace("dice", "iou"), "no column dice"),
        (COLUMNS + "\n", "holds no cases"),
        (f"{text}{first}\n", "case case_0, class 1 comes twice"),
        (text.replace(",1,liver", ",one,liver", 1), "line 2"),
        (text.replace(",liver,", ",liver,high", 1), "line 2"),
    ):
        file.write_text(content)
        assert message in refused(*runs)
    file.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in refused(*runs)

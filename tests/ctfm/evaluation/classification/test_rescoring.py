"""Tables of predictions, as people have them, scored from the command line."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from ctfm.base.errors import UserError
from ctfm.evaluation.classification.calibration import calibrate, write_calibration
from ctfm.evaluation.classification.predictions import read_predictions
from ctfm.evaluation.classification.rescoring import score_predictions

CASES = 80


def rows(seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    found = []
    for number in range(CASES):
        label = int(number % 3 == 0)
        raw = 1.5 * label - 0.7 + rng.normal(size=2)
        found.append(
            {
                "image": f"scan {number}",
                "patient": f"p{number // 2}",
                "label": label,
                "logit": raw[0],
                "a": expit(raw[0]),
                "b": expit(raw[1]),
            }
        )
    return found


def write(path: Path, table: list[dict[str, Any]], delimiter: str = ",") -> Path:
    open_text = gzip.open if path.name.endswith(".gz") else open
    with open_text(path, "wt", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(table)
    return path


def scored(path: Path, **options: Any) -> dict[str, Any]:
    out = path.parent / "out"
    options = {"label": "label", "score": "a", "resamples": 100, **options}
    score_predictions(path, out=out, **options)
    return json.loads((out / "classification.json").read_text())


def auroc(document: dict[str, Any]) -> float:
    return next(one["value"] for one in document["figures"] if one["figure"] == "auroc")


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(UserError) as raised:
        scored(path, **options)
    assert "\n" not in str(raised.value)
    assert not (path.parent / "out").exists()
    return str(raised.value)


def test_from_the_command_line(tmp_path: Path) -> None:
    write(tmp_path / "predictions.csv", rows())
    words = "--predictions predictions.csv --label label --score a --compare b --out out"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "ctfm",
            "evaluate",
            "classification",
            *words.split(),
            "--youden",
            "--sensitivity",
            "--subject",
            "patient",
            "--resamples",
            "100",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "80 cases, 27 positive, of 40 subjects"
    assert "no difference can be shown (A - B = " in done.stdout
    assert "highest threshold with a sensitivity of at least 0.95, chosen on these" in done.stdout
    names = {path.name for path in (tmp_path / "out").iterdir()}
    tables = {"classification.csv", "classification_compare.csv", "classification.json"}
    assert names == tables | {"roc.png", "precision_recall.png", "reliability.png"}
    for name in names - tables:
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")


def test_mistakes_end_in_one_line(tmp_path: Path) -> None:
    write(tmp_path / "predictions.csv", rows())
    words = "--predictions predictions.csv --label truth --score a --out out"
    done = subprocess.run(
        [sys.executable, "-m", "ctfm", "evaluate", "classification", *words.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: predictions.csv: no column 'truth' for --label; it has image, patient, label, "
        "logit, a, b"
    ]


def test_files(tmp_path: Path) -> None:
    document = scored(write(tmp_path / "p.csv", rows()), compare="b", youden=True)
    labels, shares = zip(*((row["label"], row["a"]) for row in rows()), strict=True)
    assert auroc(document) == pytest.approx(roc_auc_score(labels, shares))
    assert (document["cases"], document["positives"]) == (80, 27)
    assert [point["name"] for point in document["operating_points"]["b"]] == ["fixed", "youden"]
    assert document["bootstrap"]["over"] == "cases"
    with open(tmp_path / "out" / "classification.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(document["figures"]) == 2 * (4 + 2 * 8)
    for one, row in zip(document["figures"], table, strict=True):
        assert float(row["value"]) == pytest.approx(one["value"], rel=1e-5)
        assert (row["score"], row["operating_point"]) == (one["score"], one["point"])
    with open(tmp_path / "out" / "classification_compare.csv", newline="") as file:
        compared = list(csv.DictReader(file))
    assert len(compared) == len(document["differences"]) == 20
    assert {row["test"] for row in compared} == {"DeLong", "bootstrap", "McNemar, exact"}


def test_same_files_on_every_run(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", rows())
    one = scored(path, compare="b")
    assert scored(path, compare="b") == one
    (tmp_path / "out" / "roc.png").unlink()


@pytest.mark.parametrize(
    ("kinds", "positive"),
    [
        (("0", "1"), None),
        (("0.0", "1.0"), None),
        (("false", "TRUE"), None),
        (("1,0", "0,1"), None),
        (("[1, 0]", "[0, 1]"), None),
        (("normal", "abnormal"), "abnormal"),
        (("2", "1"), 1),
        (("1,0", "0,1"), (0, 1)),
    ],
)
def test_labels_as_people_write_them(tmp_path: Path, kinds: tuple[str, str], positive: Any) -> None:
    table = [{**row, "label": kinds[row["label"]]} for row in rows()]
    found = scored(write(tmp_path / "p.csv", table), positive=positive)
    assert auroc(found) == auroc(scored(write(tmp_path / "q.csv", rows())))


def test_other_forms_of_tables(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra embeddings")
    import pyarrow as pa

    expected = auroc(scored(write(tmp_path / "p.csv", rows())))
    for path in (
        write(tmp_path / "p.csv.gz", rows()),
        write(tmp_path / "semicolons.csv", rows(), ";"),
        write(tmp_path / "p.tsv", rows(), "\t"),
    ):
        assert auroc(scored(path)) == expected
    parquet.write_table(pa.Table.from_pylist(rows()), tmp_path / "p.parquet")
    assert auroc(scored(tmp_path / "p.parquet")) == pytest.approx(expected)
    text = (tmp_path / "p.csv").read_text()
    (tmp_path / "p.csv").write_text("\n" + text + "\n\n", encoding="utf-8")
    assert auroc(scored(tmp_path / "p.csv")) == expected
    (tmp_path / "p.csv").write_text(text, encoding="utf-8-sig")
    assert auroc(scored(tmp_path / "p.csv")) == expected


def test_columns_whose_names_are_numbers(tmp_path: Path) -> None:
    table = [{"0": row["label"], "1": row["a"]} for row in rows()]
    assert scored(write(tmp_path / "p.csv", table), label=0, score=1)["scores"] == ["1"]


def test_logits_and_a_calibration(tmp_path: Path) -> None:
    """Thresholds and temperature come from the file, and are not chosen on these cases."""
    path = write(tmp_path / "p.csv", rows())
    assert auroc(scored(path, score="logit", logits=True)) == pytest.approx(auroc(scored(path)))
    others = rows(1)
    chosen = calibrate(
        [3 * row["logit"] for row in others], [row["label"] for row in others], data="others"
    )
    file = write_calibration(chosen, tmp_path / "calibration.json")
    found = scored(path, score="logit", logits=True, calibration=file)
    points = found["operating_points"]["logit"]
    assert [point["threshold"] for point in points] == [p.threshold for p in chosen.points]
    assert not any("optimistic" in point["how"] for point in points)
    assert found["settings"]["temperature"] == chosen.temperature
    cases = read_predictions(path, "label", ["logit"], logits=True, temperature=2.0)
    assert cases.scores[0].probabilities[0] == pytest.approx(expit(rows()[0]["logit"] / 2))


def test_a_name_that_looks_like_a_formula(tmp_path: Path) -> None:
    table = [{"label": row["label"], "$a_{1": row["a"]} for row in rows()]
    assert scored(write(tmp_path / "p.csv", table), score="$a_{1")["cases"] == CASES


def test_verdicts(tmp_path: Path) -> None:
    """In words: the first or the second is better, or none can be told from the other."""
    labels = [int(number % 2 == 0) for number in range(CASES)]
    rng = np.random.default_rng(0)
    good, bad = expit(2 * np.array(labels) - 1 + rng.normal(size=CASES)), rng.random(CASES)
    table = [
        {"label": label, "a": a, "b": b, "perfect": label, "opposite": 1 - label}
        for label, a, b in zip(labels, good, bad, strict=True)
    ]
    path = write(tmp_path / "p.csv", table)

    def verdict(score: str, compare: str) -> str:
        text = score_predictions(
            path, "label", score, tmp_path / "out", compare=compare, resamples=100
        )
        return text.splitlines()[-1]

    better = verdict("a", "b")
    assert better.startswith("a is better by 0.")
    assert better.endswith("p < 0.001)")
    assert verdict("b", "a") == better
    assert "95 % interval 0." in better
    assert verdict("perfect", "opposite").startswith("no difference can be shown (A - B = 1.000")
    assert verdict("perfect", "opposite").endswith("no p-value)")


def test_probabilities_taken_for_logits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scored(write(tmp_path / "p.csv", rows()), logits=True)
    assert "as probabilities do: is --logits right?" in caplog.text


# --- what is refused ------------------------------------------------------------------------


def changed(number: int, **cells: Any) -> list[dict[str, Any]]:
    table = rows()
    table[number] = {**table[number], **cells}
    return table


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (changed(3, a="1.5"), {}, "lie outside 0..1 (from "),
        (changed(3, a=""), {}, "1 of 80 are missing or no finite number (first: case 4)"),
        (changed(3, a="inf"), {}, "1 of 80 are missing or no finite number"),
        (changed(3, a="high"), {}, "line 5: column a holds 'high', which is no number"),
        (changed(3, label=""), {}, "1 of 80 labels are missing (first: line 5)"),
        (changed(3, label="maybe"), {}, "labels are '0', '1', 'maybe', not 0 and 1: say by"),
        (changed(3, label="maybe"), {"positive": 1}, "3 different labels ('0', '1', 'maybe')"),
        (changed(3, label="1,1"), {}, "labels are '0', '1', '1,1', not 0 and 1"),
        (rows(), {"positive": "abnormal"}, "no label is 'abnormal' (--positive); there are '0'"),
        (rows(), {"score": "c"}, "no column 'c' for --score; it has image, patient, label"),
        (rows(), {"compare": "c"}, "no column 'c' for --score"),
        (rows(), {"compare": "a"}, "--score and --compare both name a"),
        (rows(), {"subject": "who"}, "no column 'who' for --subject"),
        (changed(3, patient=" "), {"subject": "patient"}, "1 rows name no subject (first: line 5)"),
        (rows(), {"id": "patient"}, "40 ids come more than once (first: 'p0', 2 times)"),
        (rows()[:8], {}, "8 cases, and 10 are the least"),
        (rows()[1::3], {}, "0 of 27 cases are positive"),
        (rows(), {"threshold": 2}, "threshold is 2: give a number from 0 to 1"),
        (rows(), {"sensitivity": 95}, "sensitivity is 95: give a number from above 0 to 1"),
        (rows(), {"calibration": "nowhere.json"}, "nowhere.json: no such calibration"),
    ],
)
def test_tables_and_options(
    tmp_path: Path, table: list[dict[str, Any]], options: dict[str, Any], message: str
) -> None:
    assert message in refused(write(tmp_path / "p.csv", table), **options)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "nowhere.csv")
    (tmp_path / "p.xlsx").write_bytes(b"PK")
    assert "a spreadsheet, which is not read: save it as CSV" in refused(tmp_path / "p.xlsx")
    for content, message in (
        (b"", "the file is empty"),
        (b"label,a\n", "holds no rows"),
        (b"label,a,a\n1,0,0\n", "column 'a' comes twice"),
        (b"label,a\n1,0.5\n0\n", "line 3: 1 cells, and 2 columns"),
        (b"label,a\n1,0.5\n1,0,0.5\n", "line 3: 3 cells, and 2 columns"),
        (b"\xff\xfe\x00", "cannot be read as CSV"),
    ):
        (tmp_path / "p.csv").write_bytes(content)
        assert message in refused(tmp_path / "p.csv")
    (tmp_path / "p.csv.gz").write_bytes(b"no gzip")
    assert "cannot be read as CSV" in refused(tmp_path / "p.csv.gz")
    (tmp_path / "p.csv.gz").write_bytes(gzip.compress(b"label,a\n" * 100)[:-12])
    assert "cannot be read as CSV" in refused(tmp_path / "p.csv.gz")
    pytest.importorskip("pyarrow", reason="needs the extra embeddings")
    (tmp_path / "p.parquet").write_bytes(b"no parquet")
    assert "cannot be read as Parquet" in refused(tmp_path / "p.parquet")

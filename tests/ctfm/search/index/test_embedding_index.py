"""The index: each row once, one encoder, nothing lost by a kill, and what is wrong is said."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lancedb", reason="needs the extra index: pip install 'ct-fm-bundles[index]'")

import pyarrow as pa
import pyarrow.parquet as pq

from ctfm.base.errors import UserError
from ctfm.search.index.adding import add_embeddings
from ctfm.search.index.checking import check_index, describe_index
from ctfm.search.index.exporting import export_index
from ctfm.search.index.index import Index
from index_support import DIMENSION, embed


def test_adding_twice_changes_nothing(tmp_path: Path) -> None:
    embed(tmp_path / "e")
    told = add_embeddings([str(tmp_path / "e")], str(tmp_path / "i"))
    assert told.endswith("44 rows, 44 of them new")
    assert add_embeddings([str(tmp_path / "e")], str(tmp_path / "i")).endswith("0 of them new")
    index = Index(tmp_path / "i")
    assert (index.count(), index.count("kind = 'scan'"), index.dimension) == (44, 4, DIMENSION)
    assert "44 rows of 4 scans are sound" in check_index(str(tmp_path / "i"))
    assert "4 scans, 40 patches, 16 numbers" in describe_index(str(tmp_path / "i"))


def test_rows_are_those_of_the_table(tmp_path: Path) -> None:
    embed(tmp_path / "e", scans=1)
    add_embeddings([str(tmp_path / "e" / "embeddings.parquet")], str(tmp_path / "i"), prefix="x/")
    rows = Index(tmp_path / "i").rows(["scan", "kind", "x_mm", "embedding"]).to_pylist()
    expected = pq.read_table(tmp_path / "e/embeddings.parquet/s0.parquet").to_pylist()
    for found, given in zip(rows, expected, strict=True):
        assert found["scan"] == f"x/{given['scan']}"
        assert {k: found[k] for k in ("kind", "x_mm", "embedding")} == {
            k: given[k] for k in ("kind", "x_mm", "embedding")
        }


def test_metadata(tmp_path: Path) -> None:
    embed(tmp_path / "e")
    table = tmp_path / "m.csv"
    table.write_text("scan,organ,age\ns0,lung,50\ns1,it's,\nnone,x,1\n")
    index = str(tmp_path / "i")
    add_embeddings([str(tmp_path / "e")], index)
    told = add_embeddings([str(tmp_path / "e")], index, metadata=str(table))
    assert "1 scans of" in told
    assert Index(index).metadata == ["organ", "age"]
    assert Index(index).count("organ = 'lung' AND age > 40 AND kind = 'patch'") == 10
    assert Index(index).count("organ IS NULL") == 22
    with pytest.raises(UserError, match=r"--where colour = 1: .*No field named colour"):
        Index(index).count("colour = 1")


def test_what_looks_like_a_number_stays_what_it_is(tmp_path: Path) -> None:
    embed(tmp_path / "e")
    (tmp_path / "m.csv").write_text(
        "scan,id,accession,code,age\ns0,00012,12345678901234567,1E5,62.5\n"
        "s1,00013,12345678901234568,17,\n"
    )
    index = str(tmp_path / "i")
    add_embeddings([str(tmp_path / "e")], index, metadata=str(tmp_path / "m.csv"))
    scan = "kind = 'scan' AND "
    assert Index(index).count(f"{scan}id = '00012'") == 1
    assert Index(index).count(f"{scan}accession = '12345678901234567'") == 1
    assert Index(index).count(f"{scan}code = '1E5'") == 1
    assert Index(index).count(f"{scan}age > 62") == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name,x\na,b\n", "no column scan"),
        ("scan,x\ns0,1\ns0,2\n", "scan s0 comes 2 times"),
        ('scan,age\ns0,"62,5"\n', "column age: 62,5 has a decimal comma"),
        ("scan,embedding\ns0,1\n", "column 'embedding': give it another name"),
        ("scan,a b\ns0,1\n", "column 'a b'"),
    ],
)
def test_metadata_that_makes_no_sense(text: str, told: str, tmp_path: Path) -> None:
    embed(tmp_path / "e")
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(UserError, match=told):
        add_embeddings([str(tmp_path / "e")], str(tmp_path / "i"), metadata=str(tmp_path / "m.csv"))
    assert not (tmp_path / "i").exists()


def test_two_kinds_of_embeddings_do_not_mix(tmp_path: Path) -> None:
    index = str(tmp_path / "i")
    add_embeddings([str(embed(tmp_path / "a"))], index)
    with pytest.raises(UserError, match="encoder bbbbbbbbbbbb, not aaaaaaaaaaaa: two kinds"):
        add_embeddings([str(embed(tmp_path / "b", sha="b" * 64))], index)
    with pytest.raises(UserError, match=r"overlap 0.25, not 0.5"):
        add_embeddings([str(embed(tmp_path / "c", overlap=0.25))], index)
    assert Index(index).count() == 44


def test_another_scan_of_the_same_name(tmp_path: Path) -> None:
    index = str(tmp_path / "i")
    add_embeddings([str(embed(tmp_path / "a", scans=1))], index)
    other = embed(tmp_path / "b", scans=3)
    (other / "embeddings.parquet/s2.parquet").rename(other / "embeddings.parquet/s0.parquet")
    rows = pq.read_table(other / "embeddings.parquet/s0.parquet")
    names = pa.array(["s0"] * rows.num_rows)
    pq.write_table(rows.set_column(0, "scan", names), other / "embeddings.parquet/s0.parquet")
    with pytest.raises(UserError, match="a scan called s0 is there with other embeddings"):
        add_embeddings([str(other)], index)
    add_embeddings([str(other)], index, prefix="b/")
    assert Index(index).count("kind = 'scan'") == 3


def test_what_is_no_index(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no index: make one with `ctfm index add FOLDER --index"):
        Index(tmp_path / "none")
    with pytest.raises(UserError, match=r"no embeddings\.parquet in it"):
        add_embeddings([str(tmp_path)], str(tmp_path / "i"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file.txt").touch()
    with pytest.raises(UserError, match="not empty, and no index"):
        add_embeddings([str(embed(tmp_path / "e"))], str(tmp_path / "other"))


@pytest.mark.parametrize(("value", "told"), [(np.nan, None), (0.0, "1 embeddings that are not")])
def test_rows_that_are_broken(value: float, told: str | None, tmp_path: Path) -> None:
    embed(tmp_path / "e", scans=2)
    path = tmp_path / "e/embeddings.parquet/s1.parquet"
    rows = pq.read_table(path)
    vectors = np.array(rows["embedding"].to_pylist(), np.float32)
    vectors[3] = value
    broken = pa.FixedSizeListArray.from_arrays(vectors.ravel(), DIMENSION)
    pq.write_table(rows.set_column(5, "embedding", broken), path)
    if told is None:
        with pytest.raises(UserError, match=r"s1\.parquet: embeddings that are not finite"):
            add_embeddings([str(tmp_path / "e")], str(tmp_path / "i"))
        return
    add_embeddings([str(tmp_path / "e")], str(tmp_path / "i"))
    with pytest.raises(UserError, match=told):
        check_index(str(tmp_path / "i"))


def test_export(tmp_path: Path) -> None:
    add_embeddings([str(embed(tmp_path / "e"))], str(tmp_path / "i"))
    assert export_index(str(tmp_path / "i"), str(tmp_path / "all.parquet")).endswith("44 rows")
    found = pq.read_table(tmp_path / "all.parquet")
    assert found.num_rows == 44
    assert found.schema.field("embedding").type == pa.list_(pa.float32()), "as Milvus takes it"
    rows = Index(tmp_path / "i").rows(found.column_names).to_pylist()
    assert sorted(found.to_pylist(), key=str) == sorted(rows, key=str)
    assert found.schema.metadata[b"encoder_sha256"] == b"a" * 64
    with pytest.raises(UserError, match=r"ends in \.parquet"):
        export_index(str(tmp_path / "i"), str(tmp_path / "all.csv"))


def test_kill_at_any_moment_loses_nothing_that_was_reported(tmp_path: Path) -> None:
    """Small batches, so that there are many moments."""
    embed(tmp_path / "e", scans=12, patches=40)
    program = (
        "import sys; from ctfm.search.index import adding; adding.BATCH = 41; "
        "print(adding.add_embeddings([sys.argv[1]], sys.argv[2]), flush=True)"
    )
    generator, reported = random.Random(0), 0
    for attempt in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "e"), str(tmp_path / "i")],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        stop_after = generator.randint(1, 10)
        for number, line in enumerate(process.stdout, start=1):
            if "rows seen" in line:
                reported = max(reported, int(line.split(": ")[1].split()[0]))
            if number == stop_after and attempt < 3:
                time.sleep(generator.random() / 50)
                process.send_signal(signal.SIGKILL)
                break
        process.communicate()
        if reported:
            assert Index(tmp_path / "i").count() >= reported
    assert Index(tmp_path / "i").count() == 12 * 41
    check_index(str(tmp_path / "i"))

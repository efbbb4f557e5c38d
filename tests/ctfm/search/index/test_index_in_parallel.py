"""One index, several processes: nothing lost, nothing twice, whoever is killed; built in parts."""

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

from ctfm.base.errors import UserError
from ctfm.search.index import retrying, searching
from ctfm.search.index.adding import _add_columns, add_embeddings
from ctfm.search.index.approximate import build_index
from ctfm.search.index.checking import check_index
from ctfm.search.index.index import ANN_INDEX, Index
from ctfm.search.index.retrying import patiently
from ctfm.search.index.searching import Searcher
from index_support import DIMENSION, embed

SCANS, PATCHES = 16, 40
#: A scan a batch, so that there are many moments.
PROGRAM = (
    "import sys; from ctfm.search.index import adding; adding.BATCH = 1; "
    "print(adding.add_embeddings([sys.argv[1]], sys.argv[2], build=False), flush=True)"
)


def add_apart(embeddings: Path, index: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(embeddings), str(index)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_processes_add_the_same_and_one_is_killed(tmp_path: Path) -> None:
    """Both add everything at the same moment, which is the worst that can happen."""
    embed(tmp_path / "e", scans=SCANS, patches=PATCHES)
    steady, killed = (add_apart(tmp_path / "e", tmp_path / "i") for _ in range(2))
    assert killed.stdout is not None
    generator = random.Random(0)
    reported, kill_after = 0, generator.randint(1, 6)
    for number, line in enumerate(killed.stdout, start=1):
        reported = int(line.split(": ")[1].split()[0])
        if number == kill_after:
            time.sleep(generator.random() / 20)
            killed.send_signal(signal.SIGKILL)
            break
    killed.communicate()
    assert Index(tmp_path / "i").count() >= reported == kill_after * (PATCHES + 1)
    again = add_apart(tmp_path / "e", tmp_path / "i")
    told = [process.communicate(timeout=120)[0] for process in (steady, again)]
    assert (steady.returncode, again.returncode) == (0, 0), told
    assert Index(tmp_path / "i").count() == SCANS * (PATCHES + 1)
    assert f"{SCANS * (PATCHES + 1)} rows of {SCANS} scans" in check_index(str(tmp_path / "i"))


def test_handles_that_do_not_know_of_each_other(tmp_path: Path) -> None:
    """The same without chance: the second has opened the index before the first adds to it."""
    embed(tmp_path / "e", scans=3)
    add_embeddings([str(tmp_path / "e")], str(tmp_path / "i"))
    first, second = Index(tmp_path / "i"), Index(tmp_path / "i")
    rows = first.table.to_arrow()
    keys = rows["key"].to_pylist()
    new = rows.set_column(0, rows.schema.field(0), [[f"x/{key}" for key in keys]])
    for one in (first, second):
        one.table.merge_insert("key").when_not_matched_insert_all().execute(new)
    assert Index(tmp_path / "i").count() == 2 * len(keys)


def test_each_part_of_the_files_by_one_process(tmp_path: Path) -> None:
    embed(tmp_path / "e", scans=6)
    told = [
        add_embeddings([str(tmp_path / "e")], str(tmp_path / "i"), shard=i, shards=3)
        for i in range(3)
    ]
    assert told[2].endswith("by shard 2 of 3")
    assert told[2].startswith(f"{tmp_path / 'i'}: 66 rows, ")
    assert "66 rows of 6 scans" in check_index(str(tmp_path / "i"))
    empty = add_embeddings([str(tmp_path / "e")], str(tmp_path / "i"), shard=8, shards=99)
    assert empty.endswith("no scan in shard 8 of 99")


def test_parts_that_bring_the_same_new_column(tmp_path: Path) -> None:
    add_embeddings([str(embed(tmp_path / "e"))], str(tmp_path / "i"))
    first, second = Index(tmp_path / "i"), Index(tmp_path / "i")
    for one in (first, second):
        _add_columns(one, {"s0": {"age": 5.0}})
    assert Index(tmp_path / "i").metadata == second.metadata == ["age"]


class TestPatience:
    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retrying, "WAIT", 0.001)

    def test_it_is_tried_again(self) -> None:
        left = [RuntimeError("Retryable commit conflict for version 7"), OSError("contention")]

        def action() -> str:
            if left:
                raise left.pop()
            return "done"

        assert patiently(action, "i") == "done"

    def test_not_for_ever(self) -> None:
        def action() -> None:
            raise RuntimeError("Too many concurrent writers")

        with pytest.raises(UserError, match=r"^i: other processes .* 6 attempts .*Too many conc"):
            patiently(action, "i")

    def test_what_is_no_conflict_comes_through_at_once(self) -> None:
        calls = []

        def action() -> None:
            calls.append(1)
            raise OSError("No space left on device")

        with pytest.raises(OSError, match="No space left"):
            patiently(action, "i")
        assert len(calls) == 1


@pytest.fixture
def filled(tmp_path: Path) -> str:
    """Added in batches of a scan each, as several processes leave them: nothing is put together."""
    for scan in range(8):
        folder = embed(tmp_path / f"e{scan}", scans=8, patches=99)
        for other in range(8):
            if other != scan:
                (folder / "embeddings.parquet" / f"s{other}.parquet").unlink()
        add_embeddings([str(folder)], str(tmp_path / "i"), build=False)
    return str(tmp_path / "i")


def recall(index: Index, monkeypatch: pytest.MonkeyPatch) -> float:
    """Of the five most alike, by the approximate index."""
    vectors = np.random.default_rng(3).normal(size=(20, DIMENSION))
    exact = Searcher(index, "patch")
    expected = [{hit.similarity for hit in exact.search(v, 5)} for v in vectors]
    monkeypatch.setattr(searching, "EXACT_ROWS", 10)
    searcher = Searcher(index, "patch")
    assert not searcher.exact
    found = [[hit.similarity for hit in searcher.search(v, 5)] for v in vectors]
    near = [
        any(abs(a - b) < 1e-5 for b in e) for e, f in zip(expected, found, strict=True) for a in f
    ]
    return float(np.mean(near))


def test_build(filled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "approximate index of 800 rows in" in build_index(filled)
    assert recall(Index(filled), monkeypatch) > 0.9


def test_build_in_parts(filled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is never started, and then is; the first build's index is replaced as a whole."""
    pytest.importorskip("lance", reason="needs pylance: pip install 'ct-fm-bundles[index-shards]'")
    build_index(filled)
    embed(Path(filled).parent / "more", scans=11, patches=99)
    add_embeddings([str(Path(filled).parent / "more")], filled, build=False)
    assert Index(filled).table.index_stats(ANN_INDEX).num_unindexed_rows == 300
    told = build_index(filled, shard=1, shards=2)
    assert told.endswith("1 of 2 parts are there, the last one ends the build")
    assert Index(filled).table.index_stats(ANN_INDEX).num_unindexed_rows == 300
    assert build_index(filled, shard=0, shards=2).endswith("the approximate index is there")
    assert Index(filled).table.index_stats(ANN_INDEX).num_unindexed_rows == 0
    assert not (Path(filled) / "segments").exists()
    assert recall(Index(filled), monkeypatch) > 0.9
    check_index(filled)


def test_notes_of_rows_that_were_moved_since_do_not_count(filled: str) -> None:
    pytest.importorskip("lance", reason="needs pylance: pip install 'ct-fm-bundles[index-shards]'")
    build_index(filled, shard=0, shards=2)
    patiently(Index(filled).table.optimize, filled)  # puts all into one file
    assert "1 of 2 parts" in build_index(filled, shard=1, shards=2)
    assert "it was the last" in build_index(filled, shard=0, shards=2)
    assert Index(filled).table.index_stats(ANN_INDEX).num_unindexed_rows == 0


def test_too_few_rows(tmp_path: Path) -> None:
    add_embeddings([str(embed(tmp_path / "e"))], str(tmp_path / "i"))
    with pytest.raises(UserError, match=r"44 rows are too few .* 256: searches are exact"):
        build_index(str(tmp_path / "i"))

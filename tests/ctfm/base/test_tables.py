"""Numbers as files and terminals show them."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from ctfm.base.tables import align, as_json, cell, number, write_json, write_records, write_table

NAN = float("nan")


def test_numbers_in_files_and_on_terminals() -> None:
    assert [cell(v) for v in (0.12345678, NAN, math.inf, 3, "a")] == ["0.123457", "", "", 3, "a"]
    assert json.loads(as_json({"a": [NAN, (1.5, math.inf)], 2: None})) == {
        "a": [None, [1.5, None]],
        "2": None,
    }
    assert (number(0.25, 1), number(NAN, 1)) == ("0.2", "-")


def test_columns_are_aligned() -> None:
    assert align([("a", "bb"), ("ccc", "d")]) == ["a    bb", "-------", "ccc   d"]
    lines = align([("", "name", "mm"), ("1", "a", "12.5")], left=(1,))
    assert lines == ["   name    mm", "-------------", "1  a     12.5"]


def test_table_is_the_same_whatever_names_it_holds(tmp_path: Path) -> None:
    rows = [("a,b", 1.5), (os.fsdecode(b"od\xff"), None)]
    written = write_table(tmp_path / "new" / "table.csv", ("name", "size"), iter(rows))
    assert written.read_bytes() == b'name,size\n"a,b",1.5\nod\\udcff,\n'


def test_records_have_a_cell_for_every_name(tmp_path: Path) -> None:
    written = write_records(tmp_path / "a.csv", [{"a": 1, "b": 0.12345678}, {"a": NAN, "c": "x"}])
    assert written.read_bytes() == b"a,b,c\r\n1,0.123457,\r\n,,x\r\n"
    assert write_records(tmp_path / "b.csv", [], ("a", "b")).read_bytes() == b"a,b\r\n"


def test_documents_are_written_as_they_are_spelled(tmp_path: Path) -> None:
    written = write_json(tmp_path / "a.json", {"a": NAN, "b": Path("c")})
    assert written.read_text() == as_json({"a": NAN, "b": Path("c")})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]

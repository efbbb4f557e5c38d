"""Tables that people bring: columns by their names, and labels of two classes."""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from ctfm.base.errors import UserError
from ctfm.base.optional import require

__all__ = ["Table", "binary_labels", "has_decimal_comma", "numbers_or_text", "read_table"]

#: Names that a message repeats.
SHOWN = 30
DELIMITERS = (",", ";", "\t")
#: What counts as 0 and as 1 without being asked, in lower case.
NEGATIVE = frozenset({"0", "0.0", "false"})
POSITIVE = frozenset({"1", "1.0", "true"})
#: Two classes as SinoCT writes them, one-hot: "1,0" is the first, "0,1" the second.
_ONE_HOT = re.compile(r"[\[(]?\s*([01])(?:\.0)?\s*,\s*([01])(?:\.0)?\s*[\])]?")


#: A number as people write it; 00012 and 1E5 are names.
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")


@dataclass(frozen=True)
class Table:
    """Cells as text, column by column.

    Attributes:
        source: the file.
        columns: name -> cells, in the file's order; all are of one length.
        rows: what messages call the rows: line numbers of a text file, else row numbers.
    """

    source: Path
    columns: Mapping[str, Sequence[str]]
    rows: Sequence[str]

    def column(self, name: str, option: str) -> list[str]:
        """The cells of a column, without blanks around them.

        Args:
            name: of the column.
            option: that named it, such as "--label", for the message.

        Raises:
            UserError: there is no such column; it lists those there are.
        """
        if name not in self.columns:
            names = list(self.columns)
            there = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
            raise UserError(f"{self.source}: no column {name!r} for {option}; it has {there}")
        return [cell.strip() for cell in self.columns[name]]


def read_table(path: Path) -> Table:
    """Read a CSV file (also .csv.gz, .tsv, and with ";" between cells) or a Parquet file.

    Raises:
        UserError: the file is missing, holds no rows, or has another form.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file: give a table as .csv, .csv.gz or .parquet")
    name = path.name.lower()
    if name.endswith((".xlsx", ".xls", ".ods")):
        raise UserError(f"{path}: a spreadsheet, which is not read: save it as CSV")
    table = _read_parquet(path) if name.endswith((".parquet", ".pq")) else _read_text(path)
    if not table.rows:
        raise UserError(f"{path}: holds no rows: give a table with one row a case")
    return table


def has_decimal_comma(cell: str) -> bool:
    """Whether a cell is a number with a comma in place of the point."""
    return _DECIMAL_COMMA.fullmatch(cell) is not None


def numbers_or_text(cells: Sequence[str], what: str) -> list[Any]:
    """Cells as numbers, where each is spelled as one that float64 holds exactly as it stands.

    Otherwise they stay text: of ``00012`` and of accession numbers of 17 digits a number would make
    something else. Empty cells are None.

    Args:
        cells: of one column.
        what: named in messages.

    Raises:
        UserError: numbers have a decimal comma.
    """
    filled = [cell for cell in cells if cell]
    commas = [cell for cell in filled if has_decimal_comma(cell)]
    if commas and all(has_decimal_comma(cell) or _is_number(cell) for cell in filled):
        raise UserError(f"{what}: {commas[0]} has a decimal comma: write the table with points")
    if not all(map(_is_number, filled)):
        return [cell or None for cell in cells]
    return [float(cell) if cell else None for cell in cells]


def _is_number(cell: str) -> bool:
    return bool(_NUMBER.fullmatch(cell)) and Decimal(cell) == Decimal(repr(float(cell)))


def _read_text(path: Path) -> Table:
    open_text = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with open_text(path, "rt", encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            delimiter = max(DELIMITERS, key=first.count)
            reader = csv.reader(file, delimiter=delimiter)
            lines = [(str(reader.line_num), row) for row in reader if any(map(str.strip, row))]
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as CSV ({reason}): write the table again") from None
    if not lines:
        raise UserError(f"{path}: the file is empty: give a table with a line of column names")
    names = [name.strip() for name in lines[0][1]]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path}: column {twice[0]!r} comes twice: rename one of them")
    for number, row in lines[1:]:
        if len(row) != len(names):
            raise UserError(
                f"{path} line {number}: {len(row)} cells, and {len(names)} columns: write the "
                "table again, with quotes around cells that hold the separator"
            )
    cells = zip(*(row for _, row in lines[1:]), strict=True) if lines[1:] else [()] * len(names)
    return Table(
        path,
        dict(zip(names, map(list, cells), strict=True)),
        [f"line {number}" for number, _ in lines[1:]],
    )


def _read_parquet(path: Path) -> Table:
    parquet = require("pyarrow.parquet", purpose="read Parquet", extra="embeddings")
    try:
        content = parquet.read_table(path).to_pydict()
    except Exception as error:  # pyarrow raises many kinds
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read as Parquet ({reason}): write it again") from error
    columns = {
        name: ["" if cell is None else str(cell) for cell in cells]
        for name, cells in content.items()
    }
    count = len(next(iter(columns.values()), []))
    return Table(path, columns, [f"row {number}" for number in range(1, count + 1)])


def binary_labels(
    cells: Sequence[str], rows: Sequence[str], what: str, positive: str | None = None
) -> list[int]:
    """Labels as 0 and 1.

    Without `positive`, 0 and 1, true and false, and the one-hot "1,0" (0) and "0,1" (1) are
    understood. With it, that value is 1, and the one other value of the column is 0.

    Args:
        cells: the labels as text.
        rows: what messages call the rows.
        what: the column, for messages, such as "table.csv: column label".
        positive: the value that counts as 1, in upper or lower case.

    Raises:
        UserError: a label is missing, or is not of two classes.
    """
    texts = [cell.strip().lower() for cell in cells]
    missing = [row for row, text in zip(rows, texts, strict=True) if text in ("", "nan")]
    if missing:
        raise UserError(
            f"{what}: {len(missing)} of {len(texts)} labels are missing (first: {missing[0]}): "
            "fill them in, or leave these rows out"
        )
    there = sorted(set(texts))
    shown = ", ".join(map(repr, there[:5])) + (", …" if len(there) > 5 else "")
    if positive is not None:
        if positive.strip().lower() not in there:
            raise UserError(f"{what}: no label is {positive!r} (--positive); there are {shown}")
        if len(there) > 2:
            raise UserError(
                f"{what}: {len(there)} different labels ({shown}), not two: leave the rows of "
                "the others out, or write the labels as 0 and 1"
            )
        return [int(text == positive.strip().lower()) for text in texts]
    known = {text: _known(text) for text in there}
    if None in known.values():
        raise UserError(
            f"{what}: labels are {shown}, not 0 and 1: say by --positive VALUE which one counts "
            "as 1"
        )
    return [int(known[text] or 0) for text in texts]


def _known(text: str) -> int | None:
    if text in NEGATIVE | POSITIVE:
        return int(text in POSITIVE)
    pair = _ONE_HOT.fullmatch(text)
    if pair and pair[1] != pair[2]:
        return int(pair[2])
    return None

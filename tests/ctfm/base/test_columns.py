"""Cells of tables that people bring."""

from __future__ import annotations

import pytest

from ctfm.base.columns import numbers_or_text
from ctfm.base.errors import UserError


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "-2.5", "", "0"], [1.0, -2.5, None, 0.0]),
        (["62.50"], [62.5]),
        (["00012", "1"], ["00012", "1"]),
        (["12345678901234567"], ["12345678901234567"]),
        (["1E5"], ["1E5"]),
        (["nan"], ["nan"]),
        (["inf", ""], ["inf", None]),
        (["1", "lung"], ["1", "lung"]),
        (["1,2", "lung"], ["1,2", "lung"]),
        ([""], [None]),
    ],
)
def test_a_column_is_of_numbers_where_each_cell_survives(
    cells: list[str], values: list[object]
) -> None:
    assert numbers_or_text(cells, "column x") == values


def test_a_decimal_comma_is_named() -> None:
    with pytest.raises(UserError, match="column age: 62,5 has a decimal comma: write the table"):
        numbers_or_text(["61", "62,5"], "column age")

"""Options as they are typed."""

from __future__ import annotations

import pytest

from ctfm.base.errors import UserError
from ctfm.base.options import is_on, nearest, switch_or_word


@pytest.mark.parametrize("value", [True, "true", "True", "TRUE", "yes", "on", "1", 1])
def test_on(value: object) -> None:
    assert is_on("x", value) is True
    assert switch_or_word("x", value, ("binary",)) is True


@pytest.mark.parametrize("value", [False, "false", "FALSE", "no", "off", "0", 0])
def test_off(value: object) -> None:
    assert is_on("x", value) is False
    assert switch_or_word("x", value, ("binary",)) is False


@pytest.mark.parametrize("value", ["maybe", "", "None", None, 2, "tru"])
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(UserError, match=f"overwrite is {value!r}: give true or false"):
        is_on("overwrite", value)
    with pytest.raises(UserError, match=f"overwrite is {value!r}: give true, false, binary"):
        switch_or_word("overwrite", value, ("binary",))


def test_a_word_beside_the_switch() -> None:
    assert switch_or_word("dicom_seg", "Binary", ("binary", "labelmap")) == "binary"


def test_the_nearest_word_is_named() -> None:
    assert nearest("--previw", ["overlap", "preview"], "--") == "did you mean --preview?"
    assert nearest("x", ["overlap", "preview"]) == "choose from overlap, preview"

"""Flat options, as they are typed, become arguments and option objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from ctfm.base.errors import UserError
from ctfm.commands.calling import call, join_numbers


@dataclass(frozen=True, kw_only=True)
class Windows:
    side: int = 64
    overlap: float = 0.625

    def __post_init__(self) -> None:
        if self.side < 16:
            raise UserError(f"side is {self.side}: give 16 or more")


WIDE = Windows(side=128)


def embed(scan: str, out: str = "here", windows: Windows = WIDE) -> tuple[Any, ...]:
    return scan, out, windows.side, windows.overlap


def test_fields_of_an_option_object_are_options() -> None:
    assert call(embed, "a.nii.gz") == ("a.nii.gz", "here", 128, 0.625)
    assert call(embed, "a.nii.gz", overlap=0.5) == ("a.nii.gz", "here", 128, 0.5)
    assert call(embed, "a.nii.gz", side=32, out="there") == ("a.nii.gz", "there", 32, 0.625)
    with pytest.raises(UserError, match="side is 8"):
        call(embed, "a.nii.gz", side=8)


@pytest.mark.parametrize("name", ["colour", "windows", "scan"])
def test_an_unknown_option_is_refused_with_those_that_there_are(name: str) -> None:
    listed = f"there is no option --{name}: choose from --out, --side, --overlap"
    with pytest.raises(UserError, match=f"^{listed}$"):
        call(embed, "a.nii.gz", **{name: 1})


@pytest.mark.parametrize(
    ("typed", "options", "others", "numbers", "joined"),
    [
        (["a", -20, 300], {"point": 10}, ["a"], [], {"point": [10, -20, 300]}),
        (["a", 2, 3, "b"], {"voxel": 1}, ["a", "b"], [], {"voxel": [1, 2, 3]}),
        (["a", 1, 2, 3], {"voxel": True}, ["a"], [1, 2, 3], {"voxel": True}),
        (["a", 1], {}, ["a"], [1], {}),
        (["a"], {"point": 10}, ["a"], [], {"point": 10}),
    ],
)
def test_numbers_of_a_location_are_put_together(
    typed: list[Any], options: dict[str, Any], others: list[Any], numbers: list[Any], joined: Any
) -> None:
    assert join_numbers(typed, options) == (others, numbers)
    assert options == joined

"""Options of patches and windows: what is not said is the contract's."""

from __future__ import annotations

import pytest

from ctfm.base.errors import UserError
from ctfm.embedding.options import PatchOptions, WindowOptions
from ctfm.embedding.recipes import make_recipe


def test_what_is_not_said_is_the_recipes_own() -> None:
    assert WindowOptions().recipe("stability") == make_recipe("stability")
    recipe = WindowOptions(spacing=(3, 3, 3), overlap=0.0).recipe("semantic_search", amp=False)
    assert recipe == {
        **make_recipe("semantic_search"),
        "spacing": [3, 3, 3],
        "overlap": 0.0,
        "amp": False,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (PatchOptions(patch=(16, 16, 8)), r"patch is \[16, 16, 8\]: give sides from 16"),
        (PatchOptions(spacing=(1, 1)), r"spacing is \[1, 1\]: give three sizes in mm"),
        (WindowOptions(overlap=1.5), "overlap is 1.5"),
        (PatchOptions(patch=64), "give 64,64,64 and 0.625"),  # type: ignore[arg-type]
    ],
)
def test_what_makes_no_sense_is_refused(options: PatchOptions, message: str) -> None:
    with pytest.raises(UserError, match=message):
        options.recipe("semantic_search")

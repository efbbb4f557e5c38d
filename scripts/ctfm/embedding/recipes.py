"""What decides an embedding, as a mapping that JSON holds: embeddings of two kinds never mix."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ctfm.base.errors import UserError
from ctfm.contract.tasks import (
    AXCODES,
    HU_WINDOW,
    LESION_RETRIEVAL,
    SCAN_EMBEDDING,
    SEMANTIC_SEARCH,
    STABILITY,
)
from ctfm.embedding.windows import WindowGrid

__all__ = ["POOLINGS", "RECIPES", "check_recipe", "check_windows", "make_recipe"]

Recipe = dict[str, Any]

#: How the embeddings of a scan's patches become one; "min" is the 3D-MIR protocol.
POOLINGS: dict[str, Callable[..., Any]] = {"mean": np.mean, "min": np.min}
#: What every recipe says; it may say more.
REQUIRED = ("patch", "spacing", "overlap", "pooling")
#: Rows of the contract, by the name that overlays have; "scan" is what is done where none is named.
RECIPES = {
    "scan": SCAN_EMBEDDING,
    "mir": LESION_RETRIEVAL,
    "semantic_search": SEMANTIC_SEARCH,
    "stability": STABILITY,
}


def make_recipe(name: str = "scan", **changes: Any) -> Recipe:
    """The recipe of a use, equal to what the bundles' configs write into tables.

    Where the contract fixes no overlap, or compares patches alone, it is that of "scan".

    Args:
        name: a key of `RECIPES`.
        changes: values that differ: patch, spacing, overlap, pooling, skip_air, amp.

    Raises:
        UserError: there is no such use, or a value makes no sense.

    Example:
        >>> make_recipe("mir", overlap=0.5)["patch"]
        [24, 128, 128]
    """
    if name not in RECIPES:
        raise UserError(f"recipe is {name!r}: choose from {', '.join(RECIPES)}")
    task = RECIPES[name]
    overlap = SCAN_EMBEDDING.overlap if task.overlap is None else task.overlap
    recipe = {
        "axcodes": AXCODES,
        "spacing": task.spacing,
        "foreground_hu": 0,
        "hu_window": HU_WINDOW,
        "patch": task.patch,
        "overlap": overlap,
        "pooling": task.pooling if task.pooling in POOLINGS else SCAN_EMBEDDING.pooling,
        "skip_air": False,
        "amp": True,
    }
    if unknown := changes.keys() - recipe.keys():
        raise UserError(f"a recipe has no {', '.join(sorted(unknown))}: it has {', '.join(recipe)}")
    return check_recipe({**recipe, **changes})


def check_recipe(recipe: Mapping[str, Any]) -> Recipe:
    """The recipe as JSON holds it, which is how recipes are compared.

    Raises:
        UserError: something is missing or makes no sense.
    """
    plain: Recipe = json.loads(json.dumps(dict(recipe)))
    if missing := [name for name in REQUIRED if name not in plain]:
        raise UserError(f"recipe lacks {', '.join(missing)}: it has {', '.join(plain)}")
    if plain["pooling"] not in POOLINGS:
        raise UserError(f"pooling is {plain['pooling']!r}: choose {' or '.join(POOLINGS)}")
    return plain


def check_windows(recipe: Mapping[str, Any]) -> None:
    """Can windows be cut by this recipe?

    Raises:
        UserError: patch, spacing or overlap make no sense.
    """
    patch, spacing = recipe["patch"], recipe["spacing"]
    if not isinstance(patch, list) or not isinstance(recipe["overlap"], int | float):
        raise UserError(f"patch is {patch}, overlap {recipe['overlap']}: give 64,64,64 and 0.625")
    WindowGrid(tuple(patch), tuple(patch), recipe["overlap"])  # which looks at both
    # the encoder takes any side: that of 3D-MIR, 24, cannot be halved four times either
    sizes = spacing if isinstance(spacing, list) else []
    if len(sizes) != 3 or not all(isinstance(mm, int | float) and 0 < mm < 50 for mm in sizes):
        raise UserError(f"spacing is {spacing}: give three sizes in mm, as 1,1,1")

"""The command that finds a place of one scan in another."""

from __future__ import annotations

from typing import Any

from ctfm.base.errors import UserError
from ctfm.commands.calling import call

__all__ = ["locate"]


def locate(arguments: tuple[Any, ...], options: dict[str, Any]) -> str:
    """Sort out what was typed, and run `ctfm.search.locating.locate`.

    Args:
        arguments: query and target; a place may stand between them, or some of its numbers: Fire
            takes one value an option, of ``--point 10 -20 300`` the first.
        options: all the rest.

    Raises:
        UserError: not two scans are given.
    """
    from ctfm.search import locate_place

    scans = [one for one in arguments if isinstance(one, str)]
    numbers = [one for one in arguments if isinstance(one, int | float)]
    places = [one for one in arguments if isinstance(one, list | tuple)]
    if len(scans) != 2 or len(places) > 1 or (places and numbers):
        raise UserError(
            "give a scan that shows the place, the place, and a scan to look in: "
            "ctfm locate QUERY.nii.gz --point 10,-20,300 TARGET.nii.gz --checkpoint FILE"
        )
    if numbers:
        key = "voxel" if _begun(options.get("voxel")) else "point"
        places = [[options[key], *numbers] if _begun(options.get(key)) else numbers]
        options[key] = places[0]
    elif places:
        options.setdefault("point", places[0])
    return str(call(locate_place, *scans, **options))


def _begun(value: Any) -> bool:
    """Whether an option received the first of several numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool)

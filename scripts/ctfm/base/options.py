"""Switches as they are typed: ``--overwrite false`` comes from the command line as a word."""

from __future__ import annotations

from typing import Any

from ctfm.base.errors import UserError

__all__ = ["is_on"]

WORDS = {"true": True, "false": False}


def is_on(name: str, value: Any) -> bool:
    """What a switch was set to; a word of another meaning would count as True otherwise.

    Raises:
        UserError: neither true nor false.
    """
    word = str(value).lower()
    if word not in WORDS:
        raise UserError(f"{name} is {value!r}: give true or false")
    return WORDS[word]

"""Options as they are typed: from the command line, a switch comes as a word."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from ctfm.base.errors import UserError

__all__ = ["SWITCH", "is_on", "nearest"]

#: How a switch is spelled, in small letters.
SWITCH = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


def is_on(name: str, value: Any) -> bool:
    """Read a switch; a word such as "false" would count as True otherwise.

    Args:
        name: the option, for the message.
        value: a bool, or a spelling of one.

    Raises:
        UserError: neither true nor false.
    """
    word = str(value).lower()
    if word not in SWITCH:
        raise UserError(f"{name} is {value!r}: give true or false")
    return SWITCH[word]


def nearest(typed: str, choices: Sequence[str], prefix: str = "") -> str:
    """What a misspelled word may have meant, for the end of a message.

    Args:
        typed: the unknown word, dashes in front do not count.
        choices: known words.
        prefix: what stands in front of a known word where it is typed.
    """
    close = get_close_matches(typed.lstrip("-").lower(), choices, n=1, cutoff=0.6)
    if close:
        return f"did you mean {prefix}{close[0]}?"
    return "choose from " + ", ".join(f"{prefix}{choice}" for choice in choices)

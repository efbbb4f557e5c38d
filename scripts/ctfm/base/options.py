"""Options as they are typed: from the command line, a switch comes as a word."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from ctfm.base.errors import UserError

__all__ = ["SWITCH", "check_device", "is_on", "nearest", "switch_or_word"]

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


def switch_or_word(name: str, value: Any, words: Sequence[str]) -> bool | str:
    """Read a switch that may also be set to one of some words.

    Args:
        name: the option, for the message.
        value: a bool, a spelling of one, or one of `words`.
        words: such as ("labelmap", "binary").

    Raises:
        UserError: it is none of these.
    """
    word = str(value).lower()
    if word not in SWITCH and word not in words:
        raise UserError(f"{name} is {value!r}: give true, false, {', '.join(words)}")
    return SWITCH.get(word, word)


def check_device(device: Any) -> Any:
    """The device that a name such as "cpu" or "cuda:1" stands for.

    Args:
        device: name, or torch.device.

    Returns:
        torch.device.

    Raises:
        UserError: there is no such device here.
    """
    import torch

    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"device is {device!r}: give cpu, cuda or cuda:0") from error
    gpus = torch.cuda.device_count()
    if found.type == "cuda" and (found.index or 0) >= gpus:
        there = f"cuda:0 to cuda:{gpus - 1}" if gpus > 1 else "cuda:0" if gpus else "cpu"
        raise UserError(f"device is {str(device)!r}, but {gpus} GPUs are found here: give {there}")
    return found


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

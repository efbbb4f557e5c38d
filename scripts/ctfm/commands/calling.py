"""Call a function with what was typed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ctfm.errors import UserError

__all__ = ["call"]


def call(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call `function`; an option that it does not know is a user's slip, not a defect."""
    known = list(inspect.signature(function).parameters)[len(arguments) :]
    for name in options:
        if name not in known:
            listed = ", ".join(f"--{option}" for option in known)
            raise UserError(f"there is no option --{name}: choose from {listed}")
    return function(*arguments, **options)

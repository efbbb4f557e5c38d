"""Call a function with what was typed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from glob import glob
from typing import Any

from ctfm.base.errors import UserError

__all__ = ["call", "split_folders"]


def call(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call `function`; an option that it does not know is a user's slip, not a defect."""
    known = list(inspect.signature(function).parameters)[len(arguments) :]
    for name in options:
        if name not in known:
            listed = ", ".join(f"--{option}" for option in known)
            raise UserError(f"there is no option --{name}: choose from {listed}")
    return function(*arguments, **options)


def split_folders(typed: Any) -> list[str]:
    """Folders as they are typed: one, several with commas, or a pattern such as ``archive/*``."""
    folders = list(typed) if isinstance(typed, list | tuple) else [] if typed is None else [typed]
    parts = [part for folder in folders for part in str(folder).split(",")]
    return [folder for part in parts for folder in sorted(glob(part)) or [part]]

"""Call a function with what was typed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from glob import glob
from typing import Any

from ctfm.base.errors import UserError

__all__ = ["call", "join_numbers", "split_folders"]


def call(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call `function`; an option that it does not know is a user's slip, not a defect.

    Where a parameter's default is an option object, the object's fields are options of their own.
    """
    parameters = list(inspect.signature(function).parameters.values())[len(arguments) :]
    objects: dict[str, Any] = {
        one.name: one.default for one in parameters if is_dataclass(one.default)
    }
    names = {name: [field.name for field in fields(one)] for name, one in objects.items()}
    known = [name for one in parameters for name in names.get(one.name, [one.name])]
    for name in options:
        if name not in known:
            listed = ", ".join(f"--{option}" for option in known)
            raise UserError(f"there is no option --{name}: choose from {listed}")
    for name, default in objects.items():
        typed = {option: options.pop(option) for option in names[name] if option in options}
        if typed:
            options[name] = replace(default, **typed)
    return function(*arguments, **options)


def join_numbers(
    arguments: Sequence[Any], options: dict[str, Any]
) -> tuple[list[Any], list[int | float]]:
    """Put the numbers of a location together: of ``--point 10 -20 300`` Fire takes one.

    Args:
        arguments: what was typed without a name.
        options: "point" or "voxel" gets the numbers if it has the first of them.

    Returns:
        The other arguments, and numbers that belong to no option.
    """
    numbers = [typed for typed in arguments if isinstance(typed, int | float)]
    others = [typed for typed in arguments if not isinstance(typed, int | float)]
    for name in ("voxel", "point"):
        first = options.get(name)
        if numbers and isinstance(first, int | float) and not isinstance(first, bool):
            options[name], numbers = [first, *numbers], []
    return others, numbers


def split_folders(typed: Any) -> list[str]:
    """Folders as they are typed: one, several with commas, or a pattern such as ``archive/*``."""
    folders = list(typed) if isinstance(typed, list | tuple) else [] if typed is None else [typed]
    parts = [part for folder in folders for part in str(folder).split(",")]
    return [folder for part in parts for folder in sorted(glob(part)) or [part]]

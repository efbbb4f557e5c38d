"""Hand what was typed to a function of a room, which is imported no earlier than that."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pkgutil import resolve_name
from typing import Any

__all__ = ["call", "report"]


def call(target: str | Callable[..., Any], /, *arguments: Any, **typed: Any) -> Any:
    """Call a function with options as they are typed: flat.

    Where a parameter's default is an option object, the object's fields are options of their own.

    Args:
        target: the function, or its "module:name".
        arguments: passed on as they are.
        typed: an argument of the function, or a field of one of its option objects, each.

    Raises:
        TypeError: the function has no such argument, which is a defect of the command.
    """
    function = resolve_name(target) if isinstance(target, str) else target
    named: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if is_dataclass(parameter.default):
            names = [field.name for field in fields(parameter.default) if field.name in typed]
            own: dict[str, Any] = {name: typed.pop(name) for name in names}
            named[name] = replace(parameter.default, **own)  # type: ignore[type-var]
        elif name in typed:
            named[name] = typed.pop(name)
    return function(*arguments, **named, **typed)


def report(target: str, /, **typed: Any) -> None:
    """Call a function as `call` does, and print what it returns."""
    print(call(target, **typed))

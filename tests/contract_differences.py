"""Where a bundle's configs say other numbers than the contract."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from pydoc import locate
from typing import Any

from monai.bundle import ConfigComponent, ConfigParser

from contract_values import expected_values
from ctfm.release.configs import components, parse_stack


def contract_differences(root: Path) -> list[str]:
    """Where a config's literal is not the contract's number: one line each.

    A component that leaves an argument out is held to the default of its signature.
    """
    differences = []
    for stack, expected in expected_values(root.name).items():
        name, parser = stack[-1], parse_stack(root, stack)
        for spelled, value in expected.items():
            found = list(_values(parser, spelled))
            if not found:
                differences.append(f"{name}: {spelled} is missing, the contract has {value}")
            differences += [
                f"{name}: {spelled} is {one}, the contract has {value}"
                for one in found
                if _plain(one) != _plain(value)
            ]
    return differences


def _values(parser: ConfigParser, spelled: str) -> Iterator[Any]:
    """Values of an id, or of an argument (``Target::argument``) wherever it is given."""
    target, _, argument = spelled.rpartition("::")
    if not target:
        if spelled in parser:
            yield _literal(parser, parser.get(spelled))
        return
    for one in components(parser.get()):
        if str(one["_target_"]).rpartition(".")[2] == target:
            yield _literal(parser, one[argument] if argument in one else _default(one, argument))


def _literal(parser: ConfigParser, value: Any) -> Any:
    while isinstance(value, str) and value.startswith("@"):
        value = parser.get(value[1:])
    return value


def _default(component: Mapping[str, Any], argument: str) -> Any:
    found = locate(ConfigComponent(component).resolve_module_name())
    parameter = inspect.signature(found).parameters.get(argument) if callable(found) else None
    return "left out" if parameter is None else parameter.default


def _plain(value: Any) -> Any:
    """Without the differences that configs and Python have in spelling."""
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item) for item in value)
    return value.upper() if isinstance(value, str) else value

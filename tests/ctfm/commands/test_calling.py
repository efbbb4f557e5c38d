"""Flat options, as they are typed, become arguments and option objects."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pkgutil import resolve_name
from typing import Any

import pytest

from ctfm.base.errors import UserError
from ctfm.commands import calling
from ctfm.commands.calling import call
from ctfm.commands.running import run
from ctfm.commands.tree import Command, all_commands


@dataclass(frozen=True, kw_only=True)
class Windows:
    side: int = 64
    overlap: float = 0.625

    def __post_init__(self) -> None:
        if self.side < 16:
            raise UserError(f"side is {self.side}: give 16 or more")


WIDE = Windows(side=128)


def embed(scan: str, out: str = "here", windows: Windows = WIDE) -> tuple[Any, ...]:
    return scan, out, windows.side, windows.overlap


def test_fields_of_an_option_object_are_options() -> None:
    assert call(embed, scan="a.nii.gz") == ("a.nii.gz", "here", 128, 0.625)
    assert call(embed, "a.nii.gz", overlap=0.5) == ("a.nii.gz", "here", 128, 0.5)
    assert call(embed, "a.nii.gz", side=32, out="there") == ("a.nii.gz", "there", 32, 0.625)
    assert call(f"{__name__}:embed", "a.nii.gz", side=32)[2] == 32
    with pytest.raises(UserError, match="side is 8"):
        call(embed, "a.nii.gz", side=8)


def test_an_option_that_the_function_lacks_is_a_defect_of_the_command() -> None:
    with pytest.raises(TypeError, match="colour"):
        call(embed, "a.nii.gz", colour="blue")


#: Arguments of functions that their command does not offer.
LEFT_OUT = {
    ("weights", "extract"): {"dtype", "revision", "offline", "key"},
    ("weights", "fetch"): {"filename"},
    ("segment",): {"bundle", "checkpoint", "classes", "overwrite"},  # passed on where typed
}


def required(function: Callable[..., Any]) -> list[str]:
    """Words that give a command what it cannot do without."""
    words = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            words.append("typed")
        elif parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD:
            by_name = parameter.kind is parameter.KEYWORD_ONLY
            words += [f"--{name}", "typed"] if by_name else ["typed"]
    return words


def flat_defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """Defaults of a function of a room, those of its option objects among them."""
    defaults: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if is_dataclass(parameter.default):
            names = [field.name for field in fields(parameter.default)]
            defaults |= {one: getattr(parameter.default, one) for one in names}
        elif parameter.default is not inspect.Parameter.empty:
            defaults[name] = parameter.default
    return defaults


@pytest.mark.parametrize("command", all_commands(), ids=lambda command: "-".join(command.words))
def test_each_command_has_the_options_and_defaults_of_its_function(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls are recorded in place of being made; what is not typed is the function's default."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def resolve(target: str) -> Callable[..., Any]:
        function = resolve_name(target)

        def record(**typed: Any) -> None:
            calls.append((target, typed))

        record.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
        return record

    monkeypatch.setattr(calling, "resolve_name", resolve)
    run([*command.words, *required(command.function)])
    target, typed = calls[0]
    function = resolve_name(target)
    inspect.signature(function).bind(**typed)
    for name, value in flat_defaults(function).items():
        if name in flat(typed) and name in inspect.signature(command.function).parameters:
            assert flat(typed)[name] in (value, "typed"), name
    left_out = flat_defaults(function).keys() - flat(typed).keys()
    assert left_out <= LEFT_OUT.get(command.words, set())


def flat(typed: dict[str, Any]) -> dict[str, Any]:
    """Arguments with the fields of option objects in place of the objects."""
    arguments: dict[str, Any] = {}
    for name, value in typed.items():
        if is_dataclass(value):
            arguments |= {field.name: getattr(value, field.name) for field in fields(value)}
        else:
            arguments[name] = value
    return arguments

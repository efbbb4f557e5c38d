"""From a typed line to a command that runs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, get_type_hints

from ctfm import __version__
from ctfm.commands.parsing import convert, expand, parse
from ctfm.commands.tree import GROUPS, Command, find_command

__all__ = ["run"]

HELP = ("--help", "-h", "help")
VERSION = ("--version", "version", "-V")


def run(words: Sequence[str]) -> None:
    """Run what was typed after `ctfm`.

    Args:
        words: the command and its options.

    Raises:
        UserError: there is no such command or option, a value is not of the option's type, or
            what the command itself raises.
    """
    line = list(words)
    if line and line[0] in VERSION:
        print(__version__)
    elif not line or line[0] in HELP or (line[0] in GROUPS and line[1:2] and line[1] in HELP):
        _help(line)
    else:
        command = find_command(line)
        rest = line[len(command.words) :]
        if any(word in HELP[:2] for word in rest):
            _help(["help", *command.words])
        else:
            _run(command, rest)


def _help(line: Sequence[str]) -> None:
    from ctfm.commands.helping import command_help, overview

    words = [word for word in line if word not in HELP]
    if words and not (len(words) == 1 and words[0] in GROUPS):
        print(command_help(find_command(words)))
    else:
        print(overview(words[0] if words else None))


def _run(command: Command, rest: Sequence[str]) -> None:
    """Fire binds the arguments; by then each is one token, of text, that fits the signature."""
    import fire
    from fire.decorators import SetParseFn

    tokens = expand(*parse(command.function, rest, command.name))
    fire.Fire(SetParseFn(str)(_converting(command.function)), command=tokens, name=command.name)


def _converting(function: Callable[..., None]) -> Callable[..., None]:
    """The function, taking text."""
    hints = get_type_hints(function)
    signature = inspect.signature(function)

    @functools.wraps(function)
    def typed(*arguments: Any, **options: Any) -> None:
        bound = signature.bind(*arguments, **options)
        for name, value in bound.arguments.items():
            kind = signature.parameters[name].kind
            if kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
                bound.arguments[name] = convert(value, hints[name], name)
        function(*bound.args, **bound.kwargs)

    return typed

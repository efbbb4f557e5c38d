"""What a command says of itself, on the terminal and in docs/cli.md."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ctfm.commands.option_texts import OPTION_TEXTS
from ctfm.commands.parsing import SHORT, types_of
from ctfm.commands.tree import COMMANDS, GROUPS, Command, all_commands, group_text

__all__ = ["Option", "command_help", "document", "options_of", "overview", "summary"]

WIDTH = 100
INDENT = " " * 8
KINDS = {int: "number", float: "number", str: "text", bool: "true|false"}


@dataclass(frozen=True)
class Option:
    """An argument or option of a command, as help shows it.

    Attributes:
        name: as it is typed, without dashes.
        kind: what is typed for it, such as "number".
        default: as text, empty where the option's text tells it; None: it has to be given.
        text: one line on what it does.
        positional: it may be given by its place, without its name.
        several: any number of them may be given.
    """

    name: str
    kind: str
    default: str | None
    text: str
    positional: bool = False
    several: bool = False

    @property
    def typed(self) -> str:
        """How it is typed: "SCAN…" or "--out, -o TEXT"."""
        if self.several:
            return f"{self.name.upper()}…"
        short = {long: f", -{letter}" for letter, long in SHORT.items() if len(long) > 1}
        dashed = self.name.upper() if self.positional else f"--{self.name}"
        return f"{dashed}{'' if self.positional else short.get(self.name, '')}"


def summary(function: Callable[..., Any]) -> str:
    """The first sentence of a command's docstring."""
    return str(inspect.getdoc(function)).splitlines()[0]


def options_of(function: Callable[..., Any]) -> list[Option]:
    """Arguments and options of a command, with their texts.

    Raises:
        KeyError: an option has no text, neither in the docstring nor in `OPTION_TEXTS`.
    """
    texts, hints = _texts(function), get_type_hints(function)
    options = []
    for name, parameter in inspect.signature(function).parameters.items():
        several = parameter.kind is parameter.VAR_POSITIONAL
        free = parameter.kind is parameter.VAR_KEYWORD
        options.append(
            Option(
                name="KEY" if free else name,
                kind=_kind(hints[name]),
                default=_default(parameter),
                text=texts[name] if name in texts else OPTION_TEXTS[name],
                positional=parameter.kind is parameter.POSITIONAL_OR_KEYWORD,
                several=several,
            )
        )
    return options


def overview(group: str | None = None) -> str:
    """What `ctfm --help` prints: the commands, a line each.

    Args:
        group: the commands of this group alone, as `ctfm store --help` prints them.
    """
    lines = ["ctfm COMMAND …; ctfm COMMAND --help lists the options of a command", ""]
    if group is None:
        lines += [_line((word,), function) for word, function in COMMANDS.items()]
    for word in GROUPS if group is None else [group]:
        lines += ["", f"{group_text(word)}:"]
        lines += [_line((word, function.__name__), function) for function in GROUPS[word][1]]
    return "\n".join([*lines, "", "ctfm --version prints the version"])


def _line(words: tuple[str, ...], function: Callable[..., Any]) -> str:
    return f"  ctfm {' '.join(words):26}{summary(function)}"


def command_help(command: Command) -> str:
    """What `ctfm COMMAND --help` prints."""
    options = options_of(command.function)
    lines = [_usage(command, options), "", *_description(command.function), ""]
    for option in options:
        default = f" [{option.default}]" if option.default else ""
        lines.append(f"  {option.typed}  {option.kind}{default}")
        lines += textwrap.wrap(option.text, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT)
    return "\n".join(lines)


def document() -> str:
    """docs/cli.md: every command with its options."""
    lines = [
        "# The command line",
        "",
        "Made from the commands themselves by `make docs/cli.md`. Values are taken as they are",
        "typed; a switch is on alone (`--preview`) or with true or false (`--preview false`);",
        "lists are typed with commas or spaces.",
    ]
    for command in all_commands():
        options = options_of(command.function)
        lines += ["", f"## {command.name}", "", f"    {_usage(command, options)}", ""]
        lines += [*_description(command.function), "", "| option | value | default | |"]
        lines.append("| --- | --- | --- | --- |")
        lines += [_row(option) for option in options]
    return "\n".join(lines) + "\n"


def _row(option: Option) -> str:
    default = "required" if option.default is None else option.default
    cells = [f"`{option.typed}`", option.kind, default, option.text]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _usage(command: Command, options: list[Option]) -> str:
    words = [command.name]
    for option in options:
        if option.several:
            words.append(option.typed)
        elif option.positional:
            words.append(option.typed if option.default is None else f"[{option.typed}]")
        elif option.default is None:
            words.append(f"--{option.name} {option.name.upper()}")
    return " ".join([*words, "[options]"])


def _description(function: Callable[..., Any]) -> list[str]:
    return str(inspect.getdoc(function)).split("\nArgs:")[0].strip().splitlines()


def _texts(function: Callable[..., Any]) -> dict[str, str]:
    """Texts of the docstring's section Args."""
    _, _, section = str(inspect.getdoc(function)).partition("\nArgs:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _kind(annotation: Any) -> str:
    return " or ".join(dict.fromkeys(_kind_of(kind) for kind in types_of(annotation)))


def _kind_of(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return {str: "names", float: "numbers", int: "numbers"}[get_args(kind)[0]]
    return KINDS[kind]


def _default(parameter: inspect.Parameter) -> str | None:
    value = parameter.default
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        return ""
    if value is inspect.Parameter.empty:
        return None
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(f"{member:g}" for member in value)
    return str(value)

"""What was typed after a command becomes arguments of its function, by their annotations.

Values are what was typed: ``-o 2026_11`` is the folder 2026_11, not a number.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ctfm.base.errors import UserError
from ctfm.base.options import SWITCH, is_on, nearest

__all__ = ["SHORT", "convert", "expand", "literal", "parse", "types_of"]

#: Options of one letter. Fire would call them ambiguous.
SHORT = {"o": "out", "k": "k"}
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
NUMBERS = re.compile(rf"[\[(]?\s*{NUMBER.pattern}(\s*,\s*{NUMBER.pattern})*\s*,?\s*[\])]?")
BRACKETS = "([{}])"


class UnfitError(Exception):
    """A text is not of this type; the message says what is."""


def types_of(annotation: Any) -> tuple[Any, ...]:
    """The types of a union, as ``int | None`` is; None is left out."""
    members = get_args(annotation) if _is_union(annotation) else (annotation,)
    return tuple(member for member in members if member is not NoneType)


def parse(
    function: Callable[..., Any], tokens: Sequence[str], name: str
) -> tuple[list[str], dict[str, str]]:
    """Sort tokens into positional arguments and options, all of them text still.

    Args:
        function: whose signature says which options there are.
        tokens: what was typed after the command.
        name: how the command is called, for messages.

    Returns:
        Positional arguments, and option -> text; a switch that stands alone is "true".

    Raises:
        UserError: an unknown or incomplete option, one given twice, too many arguments, or one is
            missing.
    """
    reader = _Reader(function, list(tokens), name)
    reader.read()
    reader.check()
    return reader.positional, reader.options


def expand(positional: Sequence[str], options: dict[str, str]) -> list[str]:
    """One token an argument, in a form that leaves nothing to guess."""
    return [*positional, *(f"--{option}={text}" for option, text in options.items())]


def convert(text: str, annotation: Any, option: str) -> Any:
    """A typed text as its annotation says.

    Raises:
        UserError: it cannot be read as such; the message says what is expected.
    """
    if not isinstance(text, str):  # a default, or a call from Python
        return text
    types = types_of(annotation)
    if NoneType in get_args(annotation) and text.lower() in ("none", "null"):
        return None
    expected = []
    for kind in types:
        try:
            return _as(text, kind)
        except UnfitError as error:
            expected.append(str(error))
    raise UserError(f"--{option} is {text!r}: give {' or '.join(expected)}")


def literal(text: str) -> Any:
    """The value of a config key without a type: a number, list, true, false, none, or the text."""
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


class _Reader:
    """One pass over the tokens of a command."""

    def __init__(self, function: Callable[..., Any], tokens: list[str], name: str) -> None:
        self.parameters = inspect.signature(function).parameters
        self.hints = get_type_hints(function)
        self.tokens = tokens
        self.name = name
        self.positional: list[str] = []
        self.options: dict[str, str] = {}

    @property
    def free(self) -> bool:
        """Whether options beside the named ones are taken."""
        return any(p.kind is p.VAR_KEYWORD for p in self.parameters.values())

    @property
    def known(self) -> list[str]:
        variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        return [name for name, p in self.parameters.items() if p.kind not in variable]

    def read(self) -> None:
        while self.tokens:
            token = self.tokens.pop(0)
            if token == "--":
                self.positional += self.tokens
                self.tokens = []
            elif token.startswith("-") and token != "-" and not NUMBERS.fullmatch(token):
                self._option(token)
            else:
                self.positional.append(token)

    def _option(self, token: str) -> None:
        typed, equals, value = token.partition("=")
        name = self._name(typed)
        if name is None:
            name, value, equals = self._switched_off(typed.lstrip("-")), "false", "="
        if name in self.options:
            raise UserError(f"--{name} is given twice: give it once")
        self.options[name] = value if equals else self._value(name)

    def _name(self, typed: str) -> str | None:
        """The option's name, also of ``-o`` and ``--sw-batch-size``; None: it is switched off."""
        word = typed.lstrip("-")
        if not typed.startswith("--"):
            name = SHORT.get(word, "")
        else:
            name = word if word in self.known else word.replace("-", "_")
        if name in self.known:
            return name
        if self._switched_off(word) in self._switches():
            return None
        if self.free and typed.startswith("--"):
            return word
        shown = nearest(word, self.known, "--")
        raise UserError(f"there is no option {typed} of {self.name}: {shown}")

    def _switched_off(self, word: str) -> str:
        """What ``--nopreview`` and ``--no-preview`` switch off."""
        return word.removeprefix("no").lstrip("-").replace("-", "_") if word[:2] == "no" else ""

    def _switches(self) -> list[str]:
        return [name for name in self.known if bool in types_of(self.hints[name])]

    def _value(self, name: str) -> str:
        types = types_of(self.hints.get(name, str))
        following = self.tokens[0] if self.tokens else None
        if name not in self.parameters:  # a key of the config
            return self._next(name) if following and not _is_flag(following) else "true"
        if bool in types:
            fits = following is not None and _fits(following, types)
            return self.tokens.pop(0) if fits else "true"
        value = self._next(name)
        if get_origin(types[0]) is tuple:
            value = ",".join([value, *self._more(value, get_args(types[0])[0])])
        return value

    def _next(self, name: str) -> str:
        if not self.tokens or _is_flag(self.tokens[0]):
            raise UserError(f"--{name} has no value: give --{name} VALUE")
        return self.tokens.pop(0)

    def _more(self, value: str, kind: type) -> list[str]:
        """Further members of a list that is typed with spaces: ``--point 10 -20 300``."""
        more: list[str] = []
        if kind is not str and not NUMBER.fullmatch(value):
            return more
        while self.tokens and not _is_flag(self.tokens[0]):
            member = self.tokens[0].rstrip(",")
            if kind is str and _is_path(member):
                break
            if kind is not str and not NUMBER.fullmatch(member):
                break
            more.append(member)
            self.tokens.pop(0)
        return more

    def check(self) -> None:
        """Refuse what is too much or missing."""
        places = [n for n, p in self.parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
        several = any(p.kind is p.VAR_POSITIONAL for p in self.parameters.values())
        if len(self.positional) > len(places) and not several:
            extra = self.positional[len(places)]
            raise UserError(f"{extra} is one argument too many for {self.name}: {self._usage()}")
        taken = places[: len(self.positional)]
        for name in taken:
            if name in self.options:
                raise UserError(f"--{name} is given twice: by its name and by its place")
        for name in self.known:
            required = self.parameters[name].default is inspect.Parameter.empty
            if required and name not in (*taken, *self.options):
                raise UserError(f"{name} is missing: add --{name} {name.upper()}; {self._usage()}")

    def _usage(self) -> str:
        return f"{self.name} --help lists all"


def _is_union(annotation: Any) -> bool:
    return type(annotation).__name__ in ("UnionType", "_UnionGenericAlias", "Union")


def _is_flag(token: str) -> bool:
    return token.startswith("-") and token != "-" and not NUMBERS.fullmatch(token)


def _is_path(token: str) -> bool:
    return any(sign in token for sign in ("/", os.sep, ".", "*")) or Path(token).exists()


def _fits(text: str, types: Sequence[Any]) -> bool:
    for kind in types:
        try:
            _as(text, kind)
        except UnfitError:
            continue
        return True
    return False


def _as(text: str, kind: Any) -> Any:
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise UnfitError(", ".join(map(str, get_args(kind))))
        return text
    if get_origin(kind) is tuple:
        return tuple(_as(member, get_args(kind)[0]) for member in _members(text))
    if kind is bool:
        if text.lower() not in SWITCH:
            raise UnfitError("true or false")
        return is_on("", text)
    if kind in (int, float):
        return _number(text, kind)
    return text


def _number(text: str, kind: type) -> Any:
    noun = "a whole number" if kind is int else "a number"
    try:
        number = kind(text)
    except ValueError as error:
        raise UnfitError(noun) from error
    if number != number:  # NaN
        raise UnfitError(noun)
    return number


def _members(text: str) -> list[str]:
    members = [member.strip(" '\"") for member in text.strip(BRACKETS + " ").split(",")]
    return [member for member in members if member]

"""The tree of commands: which words lead to which function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from ctfm.base.errors import UserError
from ctfm.base.options import nearest
from ctfm.commands import (
    auto3dseg,
    datalists,
    dicom,
    evaluation,
    index,
    phantoms,
    protocols,
    release,
    searching,
    segmentation,
    store,
    weights,
)

__all__ = ["COMMANDS", "GROUPS", "Command", "all_commands", "find_command", "group_text"]

Function = Callable[..., None]

#: Commands of one word.
COMMANDS: dict[str, Function] = {
    "segment": segmentation.segment,
    "locate": searching.locate,
    "search": searching.search,
    "view": searching.view,
    "rank": protocols.rank,
    "compare": evaluation.compare,
    "lesions": evaluation.lesions,
    "pack": release.pack,
    "verify": release.verify,
}

#: Commands of two words: the first word, the module that explains the group, and its commands.
GROUPS: dict[str, tuple[ModuleType, tuple[Function, ...]]] = {
    "weights": (
        weights,
        (weights.fetch, weights.verify, weights.convert, weights.extract, weights.inject),
    ),
    "datalist": (
        datalists,
        (
            datalists.totalsegmentator,
            datalists.msd,
            datalists.sinoct,
            datalists.cq500,
            datalists.classification,
            datalists.ct,
            datalists.idc,
        ),
    ),
    "dicom": (dicom, (dicom.convert,)),
    "store": (store, (store.build, store.check, store.info)),
    "index": (index, (index.add, index.build, index.info, index.check, index.export)),
    "evaluate": (evaluation, (evaluation.classification,)),
    "protocol": (
        protocols,
        (
            protocols.organmnist3d,
            protocols.mir,
            protocols.semantic,
            protocols.clustering,
            protocols.stability,
            protocols.saliency,
        ),
    ),
    "auto3dseg": (auto3dseg, (auto3dseg.check, auto3dseg.infer, auto3dseg.evaluate)),
    "phantom": (phantoms, (phantoms.torso, phantoms.head, phantoms.dataset, phantoms.msd)),
}


@dataclass(frozen=True)
class Command:
    """A command and the words that it is called by.

    Attributes:
        words: such as ("store", "build").
        function: what runs.
    """

    words: tuple[str, ...]
    function: Function

    @property
    def name(self) -> str:
        """As it is typed: "ctfm store build"."""
        return " ".join(("ctfm", *self.words))


def all_commands() -> list[Command]:
    """Each command, those of one word first."""
    commands = [Command((word,), function) for word, function in COMMANDS.items()]
    for word, (_, functions) in GROUPS.items():
        commands += [Command((word, function.__name__), function) for function in functions]
    return commands


def group_text(word: str) -> str:
    """What the commands of a group are for, on one line."""
    return str(GROUPS[word][0].__doc__).splitlines()[0].rstrip(".")


def find_command(words: list[str]) -> Command:
    """The command that a line of words begins with.

    Raises:
        UserError: there is none; the nearest one is named.
    """
    known = {command.words: command for command in all_commands()}
    for length in (1, 2):
        command = known.get(tuple(words[:length]))
        if command is not None:
            return command
    if words[0] in GROUPS:
        below = [function.__name__ for function in GROUPS[words[0]][1]]
        if len(words) == 1 or words[1].startswith("-"):
            raise UserError(f"ctfm {words[0]} needs one word more: {', '.join(below)}")
        typed, choices = words[1], below
    else:
        typed, choices = words[0], [*COMMANDS, *GROUPS]
    prefix = "ctfm " if choices[0] in COMMANDS else f"ctfm {words[0]} "
    raise UserError(f"there is no {prefix}{typed}: {nearest(typed, choices)}")

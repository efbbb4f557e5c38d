"""Each `ctfm …` line of the documents is one that the command line takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ctfm.base.errors import UserError
from ctfm.commands.parsing import parse
from ctfm.commands.tree import find_command
from support import ROOT

DOCUMENTS = [
    ROOT / "README.md",
    *sorted(path for path in (ROOT / "docs").glob("*.md") if path.name != "cli.md"),
    *sorted(ROOT.glob("bundles/*/docs/README.md")),
    *sorted(ROOT.glob("algorithm_templates/*/docs/README.md")),
]


def lines_of(path: Path) -> list[str]:
    """Whole commands: those of code blocks and those between backticks that have arguments."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"^(?: {4})?ctfm [^\n`]*", text, re.MULTILINE)
    found += re.findall(r"`(ctfm [^`]*)`", text)
    lines = [" ".join(one.split("  #")[0].split()) for one in found]
    return sorted({one for one in lines if len(one.split()) > 3 and "…" not in one})


def refusal(line: str) -> str:
    """Why the command line does not take a command; empty: it does."""
    words = shlex.split(line)[1:]
    command = find_command(words)
    try:
        parse(command.function, words[len(command.words) :], command.name)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_command_line_takes_them(path: Path) -> None:
    """What is named in a sentence may be less than a whole command."""
    refusals = {line: refusal(line) for line in lines_of(path)}
    part = re.compile("is missing: add|has no value: give")
    assert {line: said for line, said in refusals.items() if said and not part.search(said)} == {}


def test_lines_are_found() -> None:
    assert sum(len(lines_of(path)) for path in DOCUMENTS) > 40

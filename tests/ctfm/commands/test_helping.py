"""Help on the terminal and in docs/cli.md."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from ctfm.commands.helping import command_help, document, options_of, overview, summary
from ctfm.commands.option_texts import OPTION_TEXTS
from ctfm.commands.tree import GROUPS, Command, all_commands

REPOSITORY = Path(__file__).parents[3]
HEAVY = {"torch", "monai", "numpy", "nibabel", "matplotlib", "ignite", "fire"}


@pytest.mark.parametrize("command", all_commands(), ids=lambda command: "-".join(command.words))
class TestEachCommand:
    def test_explains_each_option_once(self, command: Command) -> None:
        options = options_of(command.function)
        assert len(options) == len(inspect.signature(command.function).parameters)
        section = str(inspect.getdoc(command.function)).partition("\nArgs:\n")[2]
        for option in options:
            assert option.text, option.name
            if option.text == OPTION_TEXTS.get(option.name):
                assert f"    {option.name}: " not in section, "it is said in OPTION_TEXTS"

    def test_lists_type_default_and_text_of_each(self, command: Command) -> None:
        text = command_help(command)
        assert text.startswith(command.name)
        assert summary(command.function) in text
        for option in options_of(command.function):
            default = f" [{option.default}]" if option.default else ""
            assert f"  {option.typed}  {option.kind}{default}\n" in text
            assert option.text.split()[0] in text
        assert max(map(len, text.splitlines())) <= 110


def test_each_text_is_used() -> None:
    used = {name for c in all_commands() for name in inspect.signature(c.function).parameters}
    assert OPTION_TEXTS.keys() <= used


def test_the_overview_names_each_command() -> None:
    for command in all_commands():
        assert f"  {command.name} " in overview()
    assert "ctfm segment" not in overview("store")
    assert [line.split()[2] for line in overview("store").splitlines() if "ctfm store" in line] == [
        function.__name__ for function in GROUPS["store"][1]
    ]


def test_the_document_is_up_to_date() -> None:
    written = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == document(), "make docs/cli.md"


@pytest.mark.parametrize("words", [["--help"], ["-h"], [], ["help"], ["segment", "--help"]])
def test_help_needs_nothing_that_takes_time(words: list[str], tmp_path: Path) -> None:
    code = "import sys; from ctfm.commands import run; run(sys.argv[1:]); "
    code += f"print(*sorted(set(sys.modules) & {HEAVY!r}), sep=',')"
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "ctfm segment" in done.stdout
    assert done.stdout.splitlines()[-1] == ""

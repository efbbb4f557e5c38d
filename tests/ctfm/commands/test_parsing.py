"""What was typed becomes arguments, by their annotations."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from ctfm.base.errors import UserError
from ctfm.commands.parsing import convert, expand, literal, parse


def command(
    scan: str,
    *more: str,
    out: str,
    k: int = 10,
    work: float = 0.3,
    preview: bool = True,
    sw_batch_size: int | None = None,
    build: bool | None = None,
    sensitivity: float | bool | None = None,
    organ: int | str | None = None,
    point: tuple[float, ...] | None = None,
    voxel: tuple[int, ...] | None = None,
    classes: tuple[str, ...] | None = None,
    check: Literal["error", "warn"] = "error",
) -> None:
    """A command with an option of each type."""


def closed(scan: str, out: str = "here") -> None:
    """A command with two arguments."""


def free(scan: str, *, out: str = "here", **config: str) -> None:
    """A command that takes keys of a config."""


def options(*words: str) -> dict[str, str]:
    return parse(command, ["scan", "-o", "out", *words], "ctfm command")[1]


@pytest.mark.parametrize("name", ["2026_11", "123", "20200101_123456", "1E5", "true", "None", "-"])
def test_a_name_stays_what_was_typed(name: str) -> None:
    positional, typed = parse(command, [name, "-o", name], "ctfm command")
    assert (positional, typed) == ([name], {"out": name})
    assert convert(name, str, "out") == name


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--preview", "false"], {"preview": "false"}),
        (["--preview=FALSE"], {"preview": "FALSE"}),
        (["--nopreview"], {"preview": "false"}),
        (["--no-preview"], {"preview": "false"}),
        (["--preview"], {"preview": "true"}),
        (["--preview", "--k", "3"], {"preview": "true", "k": "3"}),
        (["-k", "3"], {"k": "3"}),
        (["--sw-batch-size", "2"], {"sw_batch_size": "2"}),
        (["--sensitivity"], {"sensitivity": "true"}),
        (["--sensitivity", "0.9"], {"sensitivity": "0.9"}),
        (["--point", "10", "-20.5", "300"], {"point": "10,-20.5,300"}),
        (["--point", "-10,-20,300"], {"point": "-10,-20,300"}),
        (["--point=(1, 2, 3)"], {"point": "(1, 2, 3)"}),
        (["--classes", "liver", "spleen", "--k", "3"], {"classes": "liver,spleen", "k": "3"}),
    ],
)
def test_ways_to_type_an_option(words: list[str], expected: dict[str, str]) -> None:
    assert options(*words) == {"out": "out", **expected}


def test_values_end_where_a_scan_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p17").mkdir()
    for after in ("more.nii.gz", "scans/p1", "p17"):
        words = ["scan", "--classes", "liver", "spleen", after, "-o", "out"]
        positional, typed = parse(command, words, "ctfm command")
        assert (positional, typed["classes"]) == (["scan", after], "liver,spleen")
    words = ["--voxel", "1", "2", "3", "target", "-o", "out"]
    assert parse(command, words, "ctfm command") == (["target"], {"voxel": "1,2,3", "out": "out"})
    assert parse(command, ["-o", "x", "--", "--odd"], "ctfm command") == (["--odd"], {"out": "x"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--previw"], "there is no option --previw of ctfm command: did you mean --preview?"),
        (["--colour", "blue"], "there is no option --colour .*: choose from --scan, --out, --k,"),
        (["-x"], "there is no option -x of ctfm command: choose from"),
        (["-preview"], "there is no option -preview of ctfm command: did you mean --preview?"),
        (["--k"], "--k has no value: give --k VALUE"),
        (["--k", "--preview"], "--k has no value"),
        (["--k", "1", "--k", "2"], "--k is given twice"),
        (["--scan", "other"], "--scan is given twice: by its name and by its place"),
    ],
)
def test_what_cannot_be_meant_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        options(*words)


def test_too_many_and_too_few_arguments() -> None:
    with pytest.raises(UserError, match=r"^out is missing: add --out OUT; ctfm command --help"):
        parse(command, ["scan"], "ctfm command")
    with pytest.raises(UserError, match=r"^scan is missing"):
        parse(closed, [], "ctfm closed")
    with pytest.raises(UserError, match=r"^c is one argument too many for ctfm closed"):
        parse(closed, ["a", "b", "c"], "ctfm closed")


def test_keys_of_a_config_are_taken_where_a_command_takes_them() -> None:
    words = ["scan", "--network_def::init_filters", "8", "--train#x", "--class_ids=[1, 2]"]
    keys = {"network_def::init_filters": "8", "train#x": "true", "class_ids": "[1, 2]"}
    assert parse(free, words, "ctfm free") == (["scan"], keys)
    assert expand(["scan"], keys)[1] == "--network_def::init_filters=8"
    texts = ["8", "[1, 2]", "TRUE", "none", "0.5", "$@a + 1", "2026_x", "(1, 2)"]
    values = [8, [1, 2], True, None, 0.5, "$@a + 1", "2026_x", (1, 2)]
    assert [literal(text) for text in texts] == values


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("3", int, 3),
        ("3", int | None, 3),
        ("none", int | None, None),
        ("1e-3", float, 1e-3),
        ("5", float | None, 5.0),
        ("True", bool, True),
        ("off", bool, False),
        ("0", bool | None, False),
        ("true", float | bool | None, True),
        ("0.9", float | bool | None, 0.9),
        ("5", int | str | None, 5),
        ("liver", int | str | None, "liver"),
        ("1,2", tuple[int, ...] | str | None, (1, 2)),
        ("organs", tuple[int, ...] | str | None, "organs"),
        ("(12, 12, 12)", tuple[float, ...], (12.0, 12.0, 12.0)),
        ("[1.5,1.5,1.5]", tuple[float, ...] | None, (1.5, 1.5, 1.5)),
        ("'liver', spleen", tuple[str, ...], ("liver", "spleen")),
        ("warn", Literal["error", "warn"], "warn"),
        ("None", str | None, None),
    ],
)
def test_a_value_is_converted_by_the_annotation(text: str, annotation: Any, value: Any) -> None:
    converted = convert(text, annotation, "x")
    assert converted == value
    assert type(converted) is type(value)


@pytest.mark.parametrize(
    ("text", "annotation", "message"),
    [
        ("ten", int, "--x is 'ten': give a whole number"),
        ("1.5", int | None, "give a whole number"),
        ("nan", float, "give a number"),
        ("maybe", bool, "give true or false"),
        ("maybe", float | bool | None, "give a number or true or false"),
        ("1,a", tuple[float, ...], "give a number"),
        ("loud", Literal["error", "warn", "off"], "give error, warn, off"),
    ],
)
def test_a_value_of_another_kind_is_refused(text: str, annotation: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        convert(text, annotation, "x")

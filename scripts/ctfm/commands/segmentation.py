"""The command that segments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ctfm.base.errors import UserError

__all__ = ["segment"]


def segment(inputs: tuple[Any, ...], out: str | None, options: dict[str, Any]) -> str:
    """Sort out what was typed, and run `ctfm.inference.running.segment`.

    Args:
        inputs: paths; after ``--classes liver``, further names of classes come here too.
        out: folder of the results, if it was given by its long name.
        options: all the rest.
    """
    from ctfm.inference.running import segment as run

    folder = options.pop("o", out)  # fire leaves a single letter to **options
    if folder is None:
        raise UserError("no output folder is given: add -o FOLDER")
    paths = [str(one) for one in inputs]
    if "classes" in options:
        paths, options["classes"] = _sorted_out(paths, options["classes"])
    return run(paths, str(folder), **options)


def _sorted_out(paths: list[str], classes: Any) -> tuple[list[str], list[str]]:
    """Fire takes one value an option: the other class names were taken for inputs."""
    from ctfm.contract.classes import CLASS_GROUPS, TOTALSEGMENTATOR_V2

    names = classes.split(",") if isinstance(classes, str) else [str(one) for one in classes]
    known = {*TOTALSEGMENTATOR_V2.values(), *CLASS_GROUPS}
    more = [one for one in paths if one in known and not Path(one).exists()]
    return [one for one in paths if one not in more], [*names, *more]

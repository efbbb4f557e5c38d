"""Names of the classes in a label map, from the file that `ctfm segment` writes beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ctfm.base.errors import UserError

__all__ = ["class_id_of", "class_names", "spelled"]


def class_names(path: str | Path) -> dict[int, str]:
    """Id -> name; nothing where no names lie beside the file: ids alone do not tell.

    Args:
        path: ``NAME.nii.gz``, whose names are in ``NAME.json``.

    Raises:
        UserError: the file beside it holds something else.
    """
    file = Path(path)
    beside = file.with_name(f"{file.name.split('.nii')[0]}.json")
    if not beside.is_file():
        return {}
    try:
        written = json.loads(beside.read_text(encoding="utf-8"))["labels"]
        return {int(i): str(name) for i, name in written.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{beside}: no names of classes in it: move it away") from error


def spelled(class_id: int, names: Mapping[int, str]) -> str:
    """The name of a class, or "class 5" where none is known."""
    return names.get(class_id, f"class {class_id}")


def class_id_of(organ: Any, names: Mapping[int, str], path: str) -> int:
    """The id of a class by its name, or an id as it is.

    Args:
        organ: name, or id.
        names: of the label map.
        path: the scan, for messages.

    Raises:
        UserError: there is no such name, or none is known.
    """
    text = str(organ).strip()
    ids = {name: i for i, name in names.items()}
    if text in ids:
        return ids[text]
    if text.isdigit() and int(text) > 0:
        return int(text)
    if not names:
        raise UserError(
            f"{text!r}: no names of classes lie beside the labels of {path} (FILE.json for "
            "FILE.nii.gz, as `ctfm segment` writes it): give the id, such as 5"
        )
    close = get_close_matches(text, ids, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"the labels have {', '.join(ids)}"
    raise UserError(f"there is no class {text!r}: {hint[:300]} Ids such as 5 are taken too")

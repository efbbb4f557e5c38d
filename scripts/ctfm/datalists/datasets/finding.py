"""What in a folder may be a scan: files by their names, and folders of DICOM files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from ctfm.base.errors import UserError
from ctfm.base.files import walk_folders
from ctfm.datalists.selection import Exclusion, Reason
from ctfm.imaging.dicom.headers import is_series
from ctfm.imaging.file_names import SUFFIXES

__all__ = ["Candidate", "find_candidates"]


@dataclass(frozen=True, order=True)
class Candidate:
    """Something that may be a scan.

    Attributes:
        name: path below the root, with forward slashes.
        is_series: a folder of DICOM files; else a file.
    """

    name: str
    is_series: bool


def find_candidates(root: Path, pattern: str = "*") -> tuple[list[Candidate], list[Exclusion]]:
    """Walk once through a folder; hidden files and folders are passed over.

    A link to a folder of DICOM files counts; links are not followed any deeper, since they may
    lead in a circle.

    Args:
        root: the folder.
        pattern: only what is so called below `root`; "*" matches "/", too.

    Returns:
        What was found, sorted, and what could not be looked at.

    Raises:
        UserError: there is no such folder, nothing is found, or DICOM files lie in it directly.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder: give the folder of the archive")
    closed: list[OSError] = []
    found = sorted(set(_walk(root, closed)))
    if any(one.is_series and one.name == "." for one in found):
        raise UserError(
            f"{root}: DICOM files lie directly in it: give the folder above, or sort them into "
            "series by `ctfm dicom convert`"
        )
    matching = [one for one in found if fnmatchcase(one.name, pattern)]
    if not matching and not closed:
        formats = f"{', '.join(SUFFIXES)}, and folders with a DICOM series"
        hint = f" that matches {pattern}" if found else ""
        raise UserError(f"{root}: no scan in this folder{hint}: looked for {formats}")
    unread = [_unreadable(_name(root, str(e.filename)), e.strerror or "closed") for e in closed]
    unread += [
        _unreadable(one.name, "name is not UTF-8") for one in matching if not _is_utf8(one.name)
    ]
    return [one for one in matching if _is_utf8(one.name)], unread


def _walk(root: Path, closed: list[OSError]) -> Iterator[Candidate]:
    for place, files in walk_folders(root, closed.append):
        name = PurePosixPath(_name(root, str(place)))
        for file in files:
            if file.lower().endswith(SUFFIXES) and not file.startswith("."):
                yield Candidate(str(name / file), is_series=False)
        try:
            if is_series(place):
                yield Candidate(str(name), is_series=True)
        except OSError as error:
            closed.append(error)


def _name(root: Path, place: str) -> str:
    return Path(place).relative_to(root).as_posix()


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unreadable(name: str, detail: str) -> Exclusion:
    shown = name.encode("utf-8", "backslashreplace").decode()
    return Exclusion(shown, Reason.UNREADABLE, detail)

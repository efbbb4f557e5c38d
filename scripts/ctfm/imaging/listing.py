"""Which scans a user means, and what their results are called.

A result's name depends on its own scan alone, not on what else lies there: a scan found below a
given folder keeps its path below that folder, a file given by name is called after itself.
"""

from __future__ import annotations

import glob
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ctfm.base.errors import UserError
from ctfm.base.files import walk_folders
from ctfm.imaging.dicom.headers import is_series, looks_like_dicom
from ctfm.imaging.file_names import FORMATS, SUFFIXES

__all__ = ["REFUSED", "find_scans", "refuse_single_dicom", "result_name", "stem"]

#: Item of a row that says why its scan is not processed; `ScanDataset` makes a failure of it.
REFUSED = "refused"
Row = dict[str, str]


def find_scans(
    source: str | Sequence[str], key: str = "image", output_dir: str | None = None
) -> list[Row]:
    """List the scans that files, glob patterns and folders (with their subfolders) name.

    A folder that holds DICOM files is one scan. Links are followed.

    Args:
        source: path or pattern, or a list of them.
        key: name of the item in each row.
        output_dir: folder of the results; what lies there is not taken for input.

    Returns:
        One ``{key: path, "name": NAME}`` a scan, sorted by path, without repetitions. NAME is the
        path below the given folder (or below the fixed part of a pattern), without the suffix; of
        a file given by name it is the file's. Scans that would get one name have the item
        `REFUSED`.

    Raises:
        UserError: nothing is there, a folder holds no scan, all lie in `output_dir`, or a single
            DICOM file is named.
    """
    sources = [source] if isinstance(source, str) else list(source)
    names: dict[str, str] = {}
    for one in sources:
        for path, name in _expand(str(one)):
            names.setdefault(str(path), name)
    if output_dir is not None:
        results = Path(output_dir).resolve()
        outside = {p: n for p, n in names.items() if not Path(p).resolve().is_relative_to(results)}
        if names and not outside:
            raise UserError(f"{results}: the scans lie in the output folder: choose another one")
        names = outside
    return _rows(names, key)


def _rows(names: dict[str, str], key: str) -> list[Row]:
    called = defaultdict(list)
    for path, name in sorted(names.items()):
        called[name].append(path)
    rows = []
    for path, name in sorted(names.items()):
        row = {key: path, "name": name}
        others = [other for other in called[name] if other != path]
        if others:
            row[REFUSED] = (
                f"its results would be called {name}, as those of {others[0]}: segment them into "
                "folders of their own, or give the folder that both lie in"
            )
        rows.append(row)
    return rows


def stem(path: str) -> str:
    """File name without the suffix of its format (``.nii.gz`` is one), or the folder's name."""
    name = Path(path).name
    if Path(path).is_dir():
        return name
    suffix = next(
        (s for s in sorted(SUFFIXES, key=len, reverse=True) if name.lower().endswith(s)), ""
    )
    return name[: len(name) - len(suffix)] or name


def result_name(row: Any, image_key: str) -> str:
    """What results of this row are called: as `find_scans` named it, or after its file."""
    return str(row.get("name") or stem(str(row[image_key].meta["filename_or_obj"])))


def refuse_single_dicom(path: Path) -> None:
    """Raise a `UserError` for one DICOM file, which is not a scan."""
    if path.is_file() and not path.name.lower().endswith(SUFFIXES) and looks_like_dicom(path):
        raise UserError(f"{path}: one DICOM file, not a scan: give the folder {path.parent}")


def _expand(source: str) -> Iterator[tuple[Path, str]]:
    """Paths that a source names, each with the name of its results."""
    path = Path(source).expanduser()
    if not source:
        raise UserError("no input is given: pass --input FILE, FOLDER or 'PATTERN*.nii.gz'")
    if path.is_dir():
        if path.name in ("", ".."):  # as in "." and "..": a series is called as its folder is
            path = path.resolve()
        yield from ((found, _below(path, found)) for found in _search(path))
        return
    if path.exists():
        refuse_single_dicom(path)
        yield path, stem(str(path))
        return
    matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
    if not matches:
        raise UserError(f"{path}: no such file, folder or pattern: check the path")
    root = _fixed_part(path)
    for match in matches:
        refuse_single_dicom(match)
        yield match, _below(root, match)


def _below(root: Path, path: Path) -> str:
    """The path below a folder, without suffix; a series that is the folder is called as it is."""
    if path == root:
        return path.name
    return (path.parent.relative_to(root) / stem(str(path))).as_posix()


def _fixed_part(pattern: Path) -> Path:
    """The folder in which a pattern begins to vary."""
    parts = []
    for part in pattern.parts[:-1]:
        if re.search(r"[*?\[]", part):
            break
        parts.append(part)
    return Path(*parts)


def _search(folder: Path) -> list[Path]:
    """Every file of a format that is read, and every DICOM series, at or below a folder."""
    found = []
    for place, files in walk_folders(folder):
        found += [place / name for name in files if _is_scan(name)]
        if is_series(place):
            found.append(place)
    if not found:
        raise UserError(f"{folder}: no scan in this folder: looked for {FORMATS}")
    return sorted(found)


def _is_scan(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")

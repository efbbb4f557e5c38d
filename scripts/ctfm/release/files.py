"""A bundle's folder and zip: which files belong to it, and are they as the Model Zoo wants them.

Each check takes the bundle's folder, returns what it found, and raises `UserError` where that is
wrong. Nothing of the bundle is executed.
"""

from __future__ import annotations

import json
import re
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from ctfm.base.errors import UserError
from ctfm.base.files import sha256

__all__ = ["FILE_CHECKS", "check_archive", "large_files", "read_metadata", "shipped_files"]

Check = Callable[[Path], str]

#: Folders that are a bundle's own; models, eval, caches and data beside them are the user's.
FOLDERS = ("configs", "docs", "scripts")
REQUIRED_FILES = ("LICENSE", "docs/README.md", "docs/data_license.txt")
#: Model Zoo, CONTRIBUTING.md, "Model storage".
MAX_MEGABYTES = 25
VERSION = re.compile(r"\d+\.\d+\.\d+")
SHA256 = re.compile(r"[0-9a-f]{64}")
PERSONAL = re.compile(r"(?<![\w.])/(?:home|Users|root)/[\w.-]+|\b[A-Za-z]:\\{1,2}Users")
#: A value or literal that starts with a slash, but not one that is appended to another path.
ABSOLUTE = re.compile(r"""(?:(?<!\+ )["']|[:-]\s)/\w[^\s"']*""")


def read_metadata(root: Path) -> dict[str, Any]:
    """Content of configs/metadata.json.

    Raises:
        UserError: it is not there, or is no JSON object.
    """
    path = root / "configs" / "metadata.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{root} is no bundle: it has no readable configs/metadata.json") from error
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}; it should hold an object")
    return content


def read_version(root: Path) -> str:
    """The bundle's version, X.Y.Z.

    Raises:
        UserError: there is none, or it is spelled otherwise.
    """
    version = str(read_metadata(root).get("version"))
    if not VERSION.fullmatch(version):
        raise UserError(f"configs/metadata.json: version is {version!r}; write X.Y.Z")
    return version


def shipped_files(root: Path) -> list[Path]:
    """What a release of the bundle holds, relative to `root`, sorted; without weights."""
    found = [path for folder in FOLDERS for path in (root / folder).rglob("*")]
    found += [*root.glob("LICENSE*"), *root.glob("large_files.*")]
    names = [path.relative_to(root) for path in found if path.is_file()]
    return sorted((name for name in names if not _is_litter(name)), key=Path.as_posix)


def _is_litter(name: Path) -> bool:
    hidden = any(part.startswith(".") or part == "__pycache__" for part in name.parts)
    return hidden or name.suffix == ".pyc"


def large_files(root: Path) -> list[dict[str, Any]]:
    """Entries of large_files.yml (or .yaml, .json); none if there is no such file.

    Raises:
        UserError: the file is not what MONAI's `download_large_files` reads.
    """
    path = next((p for p in sorted(root.glob("large_files.*")) if p.is_file()), None)
    if path is None:
        return []
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))["large_files"]
    except (yaml.YAMLError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path.name} should hold a list under large_files: {error!r}") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path.name} should hold a list of entries with path and url")
    return entries


def leaves(name: str) -> bool:
    """Whether a path leads out of the folder that it is relative to."""
    path = PurePosixPath(name)
    return not name or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name


def check_metadata(root: Path) -> str:
    """The version is in the changelog, and the versions it was made with are stated."""
    metadata, version = read_metadata(root), read_version(root)
    if version not in (metadata.get("changelog") or {}):
        raise UserError(f"configs/metadata.json: version {version} is not in the changelog")
    stated = ("monai_version", "pytorch_version", "numpy_version")
    if missing := [key for key in stated if not metadata.get(key)]:
        raise UserError(f"configs/metadata.json lacks {', '.join(missing)}")
    return f"version {version} is in the changelog"


def check_documents(root: Path) -> str:
    """Licences and README are there."""
    there = [name for name in REQUIRED_FILES if (root / name).is_file()]
    empty = [name for name in there if not (root / name).stat().st_size]
    if missing := [*(set(REQUIRED_FILES) - set(there)), *empty]:
        raise UserError(f"missing or empty: {', '.join(sorted(missing))}")
    return ", ".join(REQUIRED_FILES)


def check_large_files(root: Path) -> str:
    """What `monai.bundle download_large_files` reads; a hash that is stated is a sha256."""
    wrong, unhashed, entries = [], [], large_files(root)
    for entry in entries:
        name = str(entry.get("path", ""))
        digest = entry.get("hash_val") or ""
        if leaves(name):
            wrong.append(f"path {name!r} leaves the bundle")
        if not re.match(r"https?://\w", str(entry.get("url", ""))):
            wrong.append(f"{name}: url {entry.get('url')!r} cannot be downloaded")
        if not digest:
            unhashed.append(name)
        elif entry.get("hash_type") != "sha256" or not SHA256.fullmatch(str(digest)):
            wrong.append(f"{name}: write hash_type sha256 and hash_val as 64 hexadecimal digits")
    if wrong:
        raise UserError("; ".join(wrong))
    without = f", without a hash: {', '.join(unhashed)}" if unhashed else ""
    return f"{len(entries)} entries{without}"


def check_sizes(root: Path) -> str:
    """No file is larger than the Model Zoo takes, but those that large_files.yml lists."""
    listed = {str(entry.get("path")) for entry in large_files(root)}
    files = [name for name in shipped_files(root) if name.as_posix() not in listed]
    large = [f"{n} ({_megabytes(root / n):.0f} MB)" for n in files if _too_large(root / n)]
    if large:
        raise UserError(
            f"larger than {MAX_MEGABYTES} MB: {', '.join(large)}; put them into large_files.yml"
        )
    return f"{len(files)} files, none above {MAX_MEGABYTES} MB"


def _megabytes(path: Path) -> float:
    return path.stat().st_size / 2**20


def _too_large(path: Path) -> bool:
    return _megabytes(path) > MAX_MEGABYTES


def check_portable(root: Path) -> str:
    """No paths of one person's machine; no lambda, which cannot be pickled, in a config."""
    wrong, names = [], shipped_files(root)
    for name in names:
        text = (root / name).read_text(encoding="utf-8", errors="replace")
        is_config = name.parts[0] == "configs"
        patterns = [PERSONAL, *([ABSOLUTE, re.compile(r"\blambda\b")] if is_config else [])]
        found = (pattern.search(text) for pattern in patterns)
        wrong += [f"{name}: {match.group()}" for match in found if match]
    if wrong:
        raise UserError(f"works on one machine, or cannot be pickled: {'; '.join(wrong)}")
    return f"{len(names)} files without absolute paths and lambda"


def check_archive(path: Path) -> str:
    """A zip is whole, holds one folder named like itself, and unpacks into nothing else.

    Raises:
        UserError: it is not, or differs from the .sha256 beside it.
    """
    stated = path.with_name(f"{path.name}.sha256")
    if stated.is_file() and stated.read_text().split()[:1] != [sha256(path)]:
        raise UserError(f"{path.name} is not the file that {stated.name} was written for")
    try:
        with zipfile.ZipFile(path) as archive:
            entries, broken = archive.infolist(), archive.testzip()
    except (OSError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is no readable zip: {error}; download or pack it again") from error
    if broken:
        raise UserError(f"{path.name}: {broken} is damaged; download or pack it again")
    if outside := [e.filename for e in entries if leaves(e.filename) or _is_link(e)]:
        raise UserError(f"{path.name} has entries that lead out of its folder: {outside[:3]}")
    folders = {PurePosixPath(e.filename).parts[0] for e in entries}
    if len(folders) != 1 or not re.fullmatch(f"{re.escape(min(folders))}(_v.*)?", path.stem):
        raise UserError(f"{path.name} should hold one folder of its name, and holds {folders}")
    return f"{len(entries)} files in {min(folders)}/"


def _is_link(entry: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(entry.external_attr >> 16)


FILE_CHECKS: dict[str, Check] = {
    "metadata": check_metadata,
    "documents": check_documents,
    "large files": check_large_files,
    "sizes": check_sizes,
    "portable": check_portable,
}

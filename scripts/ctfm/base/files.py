"""Files appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ctfm.base.errors import UserError

__all__ = ["atomic_path", "run_folder", "sha256", "walk_folders"]

#: Seconds after which a temporary file is taken for one that a killed process left.
ABANDONED = 3600


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends well.

    The temporary name keeps the full suffix (``.nii.gz``), because writers choose the format by
    it, and starts with a dot, so that globs over results do not see it. One that a ``kill -9`` left
    over an hour ago is removed when the same file is written again.

    Raises:
        UserError: the disk is full, or the folder cannot be written to.
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        suffix = "".join(target.suffixes[-2:])
        prefix = f".{target.name[:40]}."
        _remove_abandoned(target.parent, prefix)
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write {target}: {reason}; no partial file was left") from error
    finally:
        if temporary is not None:
            with suppress(FileNotFoundError):
                temporary.unlink()


def run_folder(parts: Sequence[str], fold: int | None = None) -> str:
    """Where a run lies below a folder of runs, so that none goes on with the weights of another.

    Args:
        parts: what sets the run apart, such as "pancreas" or "from_scratch"; "" adds nothing.
        fold: that validates; None and 0, the published one, add nothing.

    Returns:
        "" for the plain run, else such as "/pancreas/from_scratch/fold1".
    """
    named = [part for part in (*parts, f"fold{fold}" if fold else "") if part]
    return "".join(f"/{part}" for part in named)


def sha256(path: str | os.PathLike[str]) -> str:
    """Hexadecimal SHA-256 of a file, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def walk_folders(
    root: str | os.PathLike[str], closed: Callable[[OSError], object] | None = None
) -> Iterator[tuple[Path, list[str]]]:
    """A folder and those below it, sorted, hidden ones left out; linked folders are followed.

    A folder that several paths lead to, or that holds a link to a folder above it, comes once, by
    the path without a link where there is one.

    Args:
        root: where to begin.
        closed: called for each folder that cannot be looked into; None: they are passed over.

    Yields:
        A folder, by the path that leads to it, and the names of the files in it.
    """
    seen = set()
    for name, subfolders, files in os.walk(root, onerror=closed, followlinks=True):
        folder = Path(name)
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            subfolders[:] = []
            continue
        seen.add((status.st_dev, status.st_ino))
        shown = [name for name in subfolders if not name.startswith(".")]
        subfolders[:] = sorted(shown, key=lambda name: ((folder / name).is_symlink(), name))
        yield folder, sorted(files)


def _remove_abandoned(folder: Path, prefix: str) -> None:
    for path in folder.iterdir():
        if path.name.startswith(prefix):
            with suppress(OSError):  # another process may be faster
                if time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

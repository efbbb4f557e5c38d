"""Files of a store: compressed in small blocks, so that a region is read without the rest.

Blosc2's NDArray: measured against raw .npy and Zarr in ``benchmarks/store_format``.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from ctfm.base.errors import UserError
from ctfm.base.files import atomic_path
from ctfm.base.optional import require
from ctfm.base.types import Array

__all__ = [
    "DamagedFileError",
    "close_files",
    "read_array",
    "read_meta",
    "read_region",
    "voxel_digest",
    "write_array",
]

#: A block is what is decompressed at once, a chunk what is found at once (voxels, D, H, W).
BLOCK, CHUNK = (8, 32, 32), (32, 128, 128)
#: Open files kept by each thread.
OPEN_FILES = 64


class DamagedFileError(UserError):
    """A file of a store that is missing or cannot be read.

    Args:
        path: of the file.
        message: what is wrong with it, and what to do.
    """

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        """Also from worker processes."""
        return DamagedFileError, (self.path, str(self))


_open = threading.local()  # Blosc2's decompression context is not to be shared between threads


def write_array(path: Path, voxels: Array, meta: dict[str, Any]) -> None:
    """Write (D, H, W) voxels with their metadata; the file appears whole or not at all.

    Args:
        path: ends in ``.b2nd``.
        voxels: an integer type.
        meta: values that msgpack knows: numbers, strings, bytes, lists, dicts with such keys.

    Raises:
        UserError: the file cannot be written.
    """
    blosc2 = _blosc2()
    # images are noise in their low bits, labels are runs, which the codec alone decodes fastest
    kind = blosc2.Filter.NOFILTER if voxels.dtype.kind == "u" else blosc2.Filter.BITSHUFFLE
    packed = blosc2.asarray(
        np.ascontiguousarray(voxels),
        chunks=tuple(min(c, n) for c, n in zip(CHUNK, voxels.shape, strict=True)),
        blocks=tuple(min(b, n) for b, n in zip(BLOCK, voxels.shape, strict=True)),
        cparams=blosc2.CParams(codec=blosc2.Codec.LZ4HC, clevel=3, filters=[kind], nthreads=1),
        contiguous=True,
    )
    packed.schunk.vlmeta["ctfm"] = meta
    with atomic_path(path) as temporary:
        temporary.write_bytes(packed.to_cframe())


def read_array(path: str | Path) -> tuple[Array, dict[str, Any]]:
    """All voxels of a file, and its metadata.

    Raises:
        DamagedFileError: missing or damaged.
    """
    shape = _opened(str(path)).shape
    return read_region(path, (0, 0, 0), shape), read_meta(path)


def read_meta(path: str | Path) -> dict[str, Any]:
    """Metadata of a file, without its voxels.

    Raises:
        DamagedFileError: missing or damaged.
    """
    array = _opened(str(path))
    try:
        return dict(array.schunk.vlmeta["ctfm"])
    except Exception as error:
        raise _damaged(path, error) from error


def read_region(
    path: str | Path, start: tuple[int, ...], size: tuple[int, ...], fill: int = 0
) -> Array:
    """Read a box; what lies outside the volume is `fill`.

    Args:
        path: file of `write_array`.
        start: first voxel along each axis, may be negative.
        size: (D, H, W) of the result.
        fill: value outside.

    Raises:
        DamagedFileError: missing or damaged.
    """
    array = _opened(str(path))
    low = [max(0, a) for a in start]
    high = [min(n, a + s) for n, a, s in zip(array.shape, start, size, strict=True)]
    inside = tuple(slice(a, max(a, b)) for a, b in zip(low, high, strict=True))
    try:
        found: Array = array[inside]
    except Exception as error:
        raise _damaged(path, error) from error
    if found.shape == tuple(size):
        return found
    region = np.full(size, fill, array.dtype)
    at = tuple(slice(a - s, a - s + n) for a, s, n in zip(low, start, found.shape, strict=True))
    region[at] = found
    return region


def close_files() -> None:
    """Close the files that this thread keeps open for reading."""
    _open.__dict__.pop("files", None)


def voxel_digest(voxels: Array) -> str:
    """SHA-256 of type, shape and voxels."""
    digest = hashlib.sha256(f"{voxels.dtype.str} {voxels.shape}".encode())
    digest.update(np.ascontiguousarray(voxels).data)
    return digest.hexdigest()


def _opened(path: str) -> Any:
    """The file, open for reading; each thread keeps some, the least used one goes first."""
    files: OrderedDict[str, Any] = _open.__dict__.setdefault("files", OrderedDict())
    if path not in files:
        try:
            files[path] = _blosc2().open(path, mode="r", mmap_mode="r", dparams={"nthreads": 1})
        except Exception as error:
            raise _damaged(path, error) from error
        while len(files) > OPEN_FILES:
            files.popitem(last=False)
    files.move_to_end(path)
    return files[path]


def _damaged(path: str | Path, error: Exception) -> DamagedFileError:
    if not Path(path).is_file():
        message = f"{path}: no such file in the store: run `ctfm store build` again"
        return DamagedFileError(Path(path), message)
    reason = " ".join(str(error).split())[:150]
    return DamagedFileError(
        Path(path),
        f"{path}: damaged ({type(error).__name__}: {reason}): delete it and run `ctfm store build`",
    )


def _blosc2() -> Any:
    logging.getLogger("numexpr").setLevel(logging.WARNING)  # Blosc2 imports it; it greets
    return require("blosc2", purpose="read and write stores", extra="store")

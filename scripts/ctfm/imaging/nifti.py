"""The reader of NIfTI files, as a whole or slice by slice, and their writer.

A compressed scan has to be decompressed whole, to the checksum at its end; ISA-L does it in about
0.65 of zlib's time. Most of the rest goes into pages of memory that are written once and read once,
so slice by slice one slice's memory is used again and again, and what is needed of it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal import igzip

from ctfm.base.files import atomic_path
from ctfm.base.types import Array
from ctfm.imaging.nifti_headers import check_compression, check_values, header_conflict, is_oriented

__all__ = [
    "NiftiVolume",
    "open_nifti",
    "open_stream",
    "opened_image",
    "read_on",
    "write_image",
    "write_nifti",
]

#: Bytes read at once of what is only checked.
BLOCK = 1 << 20


@dataclass(frozen=True)
class NiftiVolume:
    """One volume in a NIfTI file, not read yet.

    Attributes:
        path: the file, compressed or not.
        shape: voxels (X, Y, Z).
        dtype: type of the stored numbers, byte order included.
        slope: values are ``slope * stored + intercept``.
        intercept: see above.
        affine: (4, 4), voxel index to RAS+ in mm.
        oriented: the header says how the patient lies.
        offset: byte of the first voxel.
        conflict: what `header_conflict` says.
    """

    path: Path
    shape: tuple[int, int, int]
    dtype: npt.DTypeLike
    slope: float
    intercept: float
    affine: Array
    oriented: bool
    offset: int
    conflict: str = ""

    def pick(self, indices: Sequence[Array]) -> Array:
        """The stored numbers at the crossings of some indices.

        Args:
            indices: for each axis, the wanted ones, increasing.

        Returns:
            As many along each axis, X fastest in memory, in the file's own type.

        Raises:
            Exception: what gzip or the operating system says; EOFError where the file is cut off.
        """
        wanted = [np.asarray(one, dtype=np.intp) for one in indices]
        if not self._compressed:
            whole: Array = np.memmap(self.path, self.dtype, "r", self.offset, self.shape, "F")
            return np.asarray(whole[np.ix_(*wanted)])
        rows, columns, slices = wanted
        grid = np.ix_(columns, rows)  # in memory, a file's last axis comes first
        found = np.empty((slices.size, columns.size, rows.size), self.dtype)
        place = {int(number): i for i, number in enumerate(slices)}
        for number, one in enumerate(self._slices()):
            if number in place:
                found[place[number]] = one[grid]
        return np.asarray(found.T)

    @property
    def _compressed(self) -> bool:
        return _is_compressed(self.path)

    def _slices(self) -> Iterator[Array]:
        """Each slice (Y, X) of a compressed file, in the same memory as the one before."""
        x, y, z = self.shape
        memory = np.empty(x * y * np.dtype(self.dtype).itemsize, np.uint8)
        with open_stream(self.path) as file:
            _fill(file, np.empty(self.offset, np.uint8))
            for _ in range(z):
                _fill(file, memory)
                yield memory.view(self.dtype).reshape(y, x)
            read_on(file)


@contextmanager
def opened_image(path: str | PathLike[str]) -> Iterator[Any]:
    """A nibabel image of any NIfTI file; its voxels can be read until the block ends.

    Values (``numpy.asanyarray(image.dataobj)``) and affine are nibabel's. At the block's end the
    rest of a compressed file is read, so that its checksum is compared.

    Args:
        path: ``.nii`` or ``.nii.gz``.

    Raises:
        UserError: the file's name belies its compression, or its voxels are no numbers.
        Exception: what nibabel, gzip, ISA-L or the operating system says of a damaged file.
    """
    check_compression(path)
    image: Any = nib.load(path)
    check_values(image, path)
    if not _is_compressed(path):
        yield image
        return
    kind = type(image)
    with open_stream(path) as stream:
        yield kind.from_file_map(kind.make_file_map({"image": stream}), mmap=False)
        read_on(stream)


def open_stream(path: str | PathLike[str]) -> BinaryIO:
    """Open a file for its bytes, decompressed where the name ends in ``.gz``.

    Raises:
        OSError: as the operating system says.
    """
    opened: Any = cast(Any, igzip).open if _is_compressed(path) else open
    return cast(BinaryIO, opened(path, "rb"))


def read_on(stream: BinaryIO) -> None:
    """Read to the end, where the checksum of a compressed file is compared.

    Raises:
        EOFError: the file is cut off.
        OSError: the checksum differs (`gzip.BadGzipFile`).
    """
    while stream.read(BLOCK):
        pass


def _is_compressed(path: str | PathLike[str]) -> bool:
    return fspath(path).lower().endswith(".gz")


def open_nifti(path: Path) -> NiftiVolume:
    """Look at a file's header.

    Args:
        path: ``.nii`` or ``.nii.gz``.

    Raises:
        ValueError: it is not one volume of numbers.
        Exception: what nibabel says of a file that it cannot read.
    """
    check_compression(path)
    image: Any = nib.load(path)
    header, proxy = image.header, image.dataobj
    if len(image.shape) != 3 or header.get_data_dtype().kind not in "iuf":
        raise ValueError(f"{path}: not one volume of numbers")
    return NiftiVolume(
        path=path,
        shape=tuple(image.shape),
        dtype=proxy.dtype,
        slope=float(proxy.slope),
        intercept=float(proxy.inter),
        affine=np.asarray(image.affine, dtype=float),
        oriented=is_oriented(header),
        offset=int(proxy.offset),
        conflict=header_conflict(header),
    )


def _fill(file: Any, memory: Array) -> None:
    """Read exactly as many bytes as fit."""
    left = memoryview(cast(Any, memory))
    while left:
        count = file.readinto(left)
        if not count:
            raise EOFError("the file ends before its last voxel")
        left = left[count:]


def write_nifti(
    values: Array,
    affine: Array,
    path: str | PathLike[str],
    intent: tuple[str, str] | None = None,
    ready: Callable[[], object] | None = None,
) -> None:
    """Write a volume in mm with its orientation stated; the same volume gives the same bytes.

    Args:
        values: (X, Y, Z), of a type that NIfTI has.
        affine: (4, 4), voxel to RAS+ in mm.
        path: ends in .nii.gz or .nii.
        intent: what the values are, as a NIfTI intent and its name.
        ready: called once all bytes are on disk, before the file appears.

    Raises:
        UserError: it cannot be written.
    """
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm")
    if intent is not None:
        image.header.set_intent(intent[0], name=intent[1])
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    write_image(image, path, ready)


def write_image(
    image: nib.Nifti1Image, path: str | PathLike[str], ready: Callable[[], object] | None = None
) -> None:
    """Write an image with the header that it has; the file appears whole or not at all.

    ISA-L takes a sixth of the time that nibabel's zlib does, and less space (label maps of 38 and
    210 million voxels).

    Args:
        image: with its voxels.
        path: ends in .nii.gz, which is compressed, or .nii.
        ready: called once all bytes are on disk, before the file appears.

    Raises:
        UserError: it cannot be written.
    """
    options: dict[str, Any] = {"filename": "", "mode": "wb", "compresslevel": 1, "mtime": 0}
    with atomic_path(path) as temporary:
        with temporary.open("wb") as file:
            if _is_compressed(path):
                with igzip.IGzipFile(fileobj=file, **options) as stream:  # type: ignore[no-untyped-call]
                    image.to_stream(stream)
            else:
                image.to_stream(file)
        if ready is not None:
            ready()

"""DICOM series, one a folder: what the headers of all their images say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ctfm.base.errors import UserError
from ctfm.datalists.selection import Exclusion, Reason, Selection
from ctfm.imaging.dicom.headers import NoImageError, Slice, check_series, read_headers

__all__ = ["exclude_images", "inspect_series"]


def inspect_series(root: Path, name: str, selection: Selection) -> tuple[str, Exclusion | None]:
    """Read the headers of a folder's images.

    Args:
        root: folder of the archive.
        name: the series' folder below it.
        selection: what is asked of a scan.

    Returns:
        PatientID, which may be empty, and why the series is left out; None: it is taken.
    """
    folder = root / name
    try:
        slices = read_headers(folder)
    except NoImageError:
        return "", Exclusion(name, Reason.NOT_CT, "DICOM without an image, such as a report")
    except UserError as error:
        return "", Exclusion(name, Reason.UNREADABLE, _without(folder, error))
    return slices[0].patient, exclude_images(name, folder, slices, selection)


def exclude_images(
    name: str, folder: Path, slices: Sequence[Slice], selection: Selection
) -> Exclusion | None:
    """Judge a series by its headers.

    Args:
        name: of the series.
        folder: of its files.
        slices: the headers.
        selection: what is asked of a scan.
    """
    return (
        _exclude_kind(name, slices)
        or selection.exclude_slices(name, len(slices))
        or _exclude_thickness(name, slices, selection)
        or _exclude_positions(name, slices)
        or _exclude_geometry(name, folder, slices)
    )


def _exclude_kind(name: str, slices: Sequence[Slice]) -> Exclusion | None:
    count = len({one.series[0] for one in slices})
    if count > 1:
        return Exclusion(
            name, Reason.SEVERAL, f"{count} series: `ctfm dicom convert` gives each a file"
        )
    others = sorted({one.modality or "missing" for one in slices} - {"CT"})
    if others:
        return Exclusion(name, Reason.NOT_CT, f"modality {', '.join(others)}")
    scouts = sum(one.localizer for one in slices)
    if scouts:
        found = f"ImageType of {scouts} of {len(slices)} images"
        return Exclusion(name, Reason.LOCALIZER, found)
    return None


def _exclude_thickness(
    name: str, slices: Sequence[Slice], selection: Selection
) -> Exclusion | None:
    known = [one.thickness for one in slices if one.thickness is not None]
    if len(known) < len(slices):
        found = f"no SliceThickness in {len(slices) - len(known)} of {len(slices)} images"
        return Exclusion(name, Reason.THICKNESS, found)
    return selection.exclude_thickness(name, known, "SliceThickness")


def _exclude_positions(name: str, slices: Sequence[Slice]) -> Exclusion | None:
    positions = {one.position for one in slices if one.position is not None}
    if len(positions) == len(slices):
        return None
    found = f"{len(positions)} positions of {len(slices)} images"
    return Exclusion(name, Reason.POSITIONS, found)


def _exclude_geometry(name: str, folder: Path, slices: Sequence[Slice]) -> Exclusion | None:
    """What the query did not ask, and reading the series as a volume needs."""
    try:
        check_series(folder, slices)
    except UserError as error:
        return Exclusion(name, Reason.GEOMETRY, _without(folder, error))
    return None


def _without(folder: Path, error: UserError) -> str:
    """A message that does not repeat the folder, which the table names."""
    return str(error).removeprefix(f"{folder}: ")

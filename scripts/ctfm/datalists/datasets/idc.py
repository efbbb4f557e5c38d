"""CT-FM's selection over the Imaging Data Commons: what to download, and from where.

The index knows sizes, licences and versions. It knows neither slice thickness nor image type nor
positions; these are read off descriptions where they stand there, and off the headers of what was
downloaded by `ctfm datalist ct`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ctfm.base.errors import UserError
from ctfm.datalists.datalist import nested_subset
from ctfm.datalists.datasets.idc_index import Series, index_file, read_index
from ctfm.datalists.datasets.idc_output import write_all
from ctfm.datalists.datasets.series_descriptions import described_as_localizer, described_thickness
from ctfm.datalists.selection import Exclusion, Reason, Selection, in_words

__all__ = ["idc"]

AnyPath = str | os.PathLike[str]
LeftOut = list[tuple[Series, Exclusion]]

#: The version whose series CT-FM was pretrained on.
PUBLISHED_VERSION = 14
#: Others are colour captures, nearly all: PET laid over CT, and pictures of surfaces.
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
#: Licences that allow commercial use; any other, or none, is taken not to.
COMMERCIAL = re.compile(r"CC0( 1\.0)?|CC BY(-SA)? \d\.\d")


def idc(
    out: AnyPath,
    *,
    commercial: bool = False,
    idc_version: int = PUBLISHED_VERSION,
    collections: str | Sequence[str] | None = None,
    limit: int | None = None,
    min_thickness: float = 1.0,
    max_thickness: float = 5.0,
    min_slices: int = 51,
    seed: int = 0,
    index: str | None = None,
) -> Path:
    """Write what to download of the Imaging Data Commons; nothing touches the network.

    ``manifest.s5cmd`` copies each series into ``dicom/COLLECTION/PATIENT/SERIES``, ``series.csv``
    lists the series with their licences, ``excluded.csv`` those that are left out with the reason,
    and ``summary.json`` holds the counts, sizes, licences, sources to cite, and what the index
    cannot say.

    Args:
        out: folder to write.
        commercial: only licences that allow commercial use.
        idc_version: series that appeared up to this version of the Imaging Data Commons.
        collections: names of collections, separated by commas; None: all.
        limit: draw so many series, for a trial; smaller draws lie within larger ones.
        min_thickness: mm, where a description states the thickness.
        max_thickness: mm, likewise.
        min_slices: fewest images.
        seed: of the draw.
        index: Parquet file with the columns of idc-index-data's; None: the installed package's.

    Returns:
        ``summary.json``.

    Raises:
        UserError: the index cannot be read, nothing is selected, or an argument is out of range.
    """
    selection = Selection(min_thickness, max_thickness, min_slices)
    _check_number("idc_version", idc_version)
    path, source = index_file(index)
    listed = _of_collections(read_index(path), collections)
    taken: list[Series] = []
    left_out: LeftOut = []
    for one in listed:
        exclusion = _exclude(one, selection, idc_version, bool(commercial))
        if exclusion is None:
            taken.append(one)
        else:
            left_out.append((one, exclusion))
    if not taken:
        raise UserError(
            f"none of {len(listed)} CT series of {source} is selected "
            f"({in_words(exclusion for _, exclusion in left_out)}): ask for less"
        )
    drawn, rest = _draw(taken, limit, seed)
    options = {
        **{"index": source, "idc_version": idc_version, "commercial": bool(commercial)},
        "only_collections": sorted({one.collection for one in listed}) if collections else None,
        **{"limit": limit, "seed": seed, **asdict(selection)},
    }
    return write_all(Path(out), drawn, left_out + rest, options)


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{name} is {value!r}: give a whole number from 1")


def _of_collections(listed: list[Series], collections: str | Sequence[str] | None) -> list[Series]:
    if collections is None:
        return listed
    names = collections.split(",") if isinstance(collections, str) else map(str, collections)
    wanted = {name.strip() for name in names} - {""}
    there = {one.collection for one in listed}
    if unknown := sorted(wanted - there):
        known = ", ".join(sorted(there))
        raise UserError(f"no CT in a collection {', '.join(unknown)}: choose from {known}")
    return [one for one in listed if one.collection in wanted]


def _exclude(
    one: Series, selection: Selection, idc_version: int, commercial: bool
) -> Exclusion | None:
    """Leave out a series by what the index says; what it does not say leaves out nothing."""
    if one.version > idc_version:
        return Exclusion(one.uid, Reason.VERSION, f"{one.version}, later than {idc_version}")
    if one.sop_class != CT_IMAGE:
        return Exclusion(one.uid, Reason.NOT_CT, f"SOPClassUID {one.sop_class}")
    if described_as_localizer(one.description):
        return Exclusion(one.uid, Reason.LOCALIZER, "SeriesDescription")
    thickness = described_thickness(one.description)
    known = [] if thickness is None else [thickness]
    excluded = selection.exclude_slices(one.uid, one.images)
    if excluded is None and known:
        excluded = selection.exclude_thickness(one.uid, known, "SeriesDescription")
    if excluded is None and commercial and not COMMERCIAL.fullmatch(one.licence):
        excluded = Exclusion(one.uid, Reason.LICENCE, one.licence or "none stated")
    return excluded


def _draw(taken: list[Series], limit: int | None, seed: int) -> tuple[list[Series], LeftOut]:
    if limit is None:
        return taken, []
    _check_number("limit", limit)
    if limit > len(taken):
        raise UserError(f"limit is {limit}: {len(taken)} series are selected; leave it out for all")
    drawn = set(nested_subset([one.uid for one in taken], scans=limit, seed=seed))
    rest = [one for one in taken if one.uid not in drawn]
    reason = Exclusion("", Reason.NOT_DRAWN, f"limit {limit}")
    return [one for one in taken if one.uid in drawn], [(one, reason) for one in rest]

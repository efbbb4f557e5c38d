"""The files of a selection of the Imaging Data Commons: manifest, tables, summary."""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctfm import __version__
from ctfm.base.files import atomic_path
from ctfm.base.tables import write_table
from ctfm.datalists.datasets.idc_index import Series
from ctfm.datalists.datasets.series_descriptions import described_thickness
from ctfm.datalists.selection import Exclusion, count_reasons

__all__ = ["write_all"]

MANIFEST, SUMMARY, TABLE, EXCLUDED = "manifest.s5cmd", "summary.json", "series.csv", "excluded.csv"
#: Files that are there in full are passed over, so that the same command goes on after a stop.
COPY = "cp --if-size-differ"
DOWNLOAD = f"s5cmd --no-sign-request --endpoint-url https://s3.amazonaws.com run {MANIFEST}"
CHECK = "ctfm datalist ct --root dicom --out cts.json"
NOT_IN_THE_INDEX = (
    "SliceThickness: known only where SeriesDescription states it",
    "ImageType, so localizers: known only where SeriesDescription names them",
    "ImagePositionPatient, so whether each image has a position of its own",
    "series that the version had and that were withdrawn or replaced since",
)
#: Columns of both tables, and the attribute that each holds.
COLUMNS = {
    "SeriesInstanceUID": "uid",
    "PatientID": "patient",
    "collection": "collection",
    "licence": "licence",
    "megabytes": "megabytes",
    "images": "images",
    "SeriesDescription": "description",
}
#: Further columns of the series to download.
MORE_COLUMNS = (
    "described_thickness_mm",
    "idc_version",
    "StudyInstanceUID",
    "source_DOI",
    "url",
    "folder",
)


def write_all(
    out: Path,
    taken: Sequence[Series],
    left_out: Iterable[tuple[Series, Exclusion]],
    options: Mapping[str, Any],
) -> Path:
    """Write all files, and print the summary in a line.

    Args:
        out: folder, made where it is missing.
        taken: series to download, in the order of the index.
        left_out: the other CT series, each with the reason.
        options: what was asked for, for the record.

    Returns:
        The summary.

    Raises:
        UserError: a file cannot be written.
    """
    left_out = sorted(left_out, key=lambda pair: (pair[1].reason, *_place(pair[0])))
    write_table(
        out / EXCLUDED,
        (*COLUMNS, "reason", "detail"),
        [(*_values(one), why.reason, why.detail) for one, why in left_out],
    )
    write_table(out / TABLE, (*COLUMNS, *MORE_COLUMNS), [_row(one) for one in taken])
    _write_text(out / MANIFEST, "".join(f"{COPY} {one.url} {_folder(one)}/\n" for one in taken))
    summary = _summary(taken, count_reasons(why for _, why in left_out), options)
    _write_text(out / SUMMARY, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    licences = "; ".join(f"{name}: {_told(one)}" for name, one in summary["licences"].items())
    print(f"{out}: {_told(summary['selected'])} ({licences}). Next: {DOWNLOAD}", file=sys.stderr)
    return out / SUMMARY


def _place(one: Series) -> tuple[str, str, str]:
    return one.collection, one.patient, one.uid


def _folder(one: Series) -> str:
    """Where a series goes, in characters that every shell and file system takes as they are."""
    return "/".join(["dicom", *(re.sub(r"[^\w.-]", "_", part, flags=re.A) for part in _place(one))])


def _values(one: Series) -> list[Any]:
    return [getattr(one, attribute) for attribute in COLUMNS.values()]


def _row(one: Series) -> list[Any]:
    thickness = described_thickness(one.description)
    return [*_values(one), thickness, one.version, one.study, one.doi, one.url, _folder(one)]


def _write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _summary(
    taken: Sequence[Series], reasons: Mapping[str, int], options: Mapping[str, Any]
) -> dict[str, Any]:
    licences, collections = defaultdict(list), defaultdict(list)
    for one in taken:
        licences[one.licence or "none stated"].append(one)
        collections[one.collection].append(one)
    return {
        "tool": "ctfm datalist idc",
        "version": __version__,
        **options,
        "selected": {"patients": len({_place(one)[:2] for one in taken}), **_sizes(taken)},
        "left_out": dict(reasons),
        "licences": {name: _sizes(some) for name, some in sorted(licences.items())},
        "not_in_the_index": list(NOT_IN_THE_INDEX),
        "download": f"{DOWNLOAD}  (in this folder)",
        "then": f"{CHECK}  (applies the rest of the selection, by the headers)",
        "collections": {name: _sources(some) for name, some in sorted(collections.items())},
    }


def _sizes(some: Iterable[Series]) -> dict[str, Any]:
    sizes = [one.megabytes for one in some]
    return {"series": len(sizes), "terabytes": round(sum(sizes) / 1e6, 6)}


def _sources(some: Sequence[Series]) -> dict[str, Any]:
    """Size, licences, and publications to cite: attribution is a condition of CC BY."""
    return {
        **_sizes(some),
        "licences": sorted({one.licence for one in some}),
        "cite": sorted({f"https://doi.org/{one.doi}" for one in some if one.doi}),
    }


def _told(sizes: Mapping[str, Any]) -> str:
    return f"{sizes['series']} series, {sizes['terabytes']:.3g} TB"

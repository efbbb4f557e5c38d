"""Commands that search: in an index of embeddings, in another scan, in the browser."""

from __future__ import annotations

from glob import glob
from typing import Literal

from ctfm.base.errors import UserError
from ctfm.commands.calling import report

__all__ = ["locate", "search", "view"]

InputCheck = Literal["error", "warn", "off"]
Numbers = tuple[float, ...]
Integers = tuple[int, ...]


def search(
    query: str,
    *,
    index: str,
    k: int = 10,
    where: str | None = None,
    point: Numbers | None = None,
    voxel: Integers | None = None,
    checkpoint: str | None = None,
    scans: str | None = None,
    out: str = "search",
    same_scan: bool = False,
    device: str | None = None,
    input_check: InputCheck = "error",
) -> None:
    """Find scans similar to a scan, or locations similar to a location.

    Args:
        query: a scan, or the name of one that is in the index
        index: its folder; several with commas, or a pattern in quotes, are searched as one
        k: number of hits
        where: SQL condition on the columns of the index, such as "age > 60"
        point: search for locations like this one of the scan: x,y,z in mm, RAS+
        voxel: the same, as i,j,k of the stored array, from 0
        checkpoint: encoder that made the index, for a query that is a file
        scans: folder of the scans in the index, for pictures of the hits
        out: folder for hits.csv, hits.json and hits.png
        same_scan: count hits in the query's own scan, where it is in the index
    """
    typed = locals() | {"index": folders(index)}
    report("ctfm.search:search_scan", **typed)


def locate(
    query: str,
    target: str,
    *,
    point: Numbers | None = None,
    voxel: Integers | None = None,
    organ: int | str | None = None,
    labels_query: str | None = None,
    labels_target: str | None = None,
    checkpoint: str | None = None,
    out: str = "locate",
    work: float = 0.3,
    exhaustive: bool = False,
    spacing: Numbers | None = None,
    patch: Integers | None = None,
    overlap: float | None = None,
    sw_batch_size: int = 16,
    device: str | None = None,
    amp: bool = True,
    input_check: InputCheck = "error",
    progress: bool = True,
) -> None:
    """Find a location of one scan in another scan.

    Args:
        query: scan that shows the location: NIfTI, NRRD, MHA/MHD, or a DICOM series
        target: scan in which it is looked for
        point: the location: x,y,z in mm, RAS+
        voxel: the same, as i,j,k of the stored array, from 0
        organ: the centre of this class (name or id) of --labels_query
        labels_query: label map of the query
        labels_target: label map of the target, which the answer is compared with
        checkpoint: encoder whose embeddings are compared
        out: folder for locate.json, locate.png and similarity.nii.gz
        work: share of the work of looking at every window in full, above 0.125
        exhaustive: look at every window in full
        spacing: voxel size in mm, axes SPL; default: 1,1,1, as published
        overlap: share of a window that neighbours have in common; default: 0.625, as published
        sw_batch_size: windows that pass the encoder together
    """
    report("ctfm.search:locate", **locals())


def view(
    scan: str | None = None,
    *,
    labels: str | None = None,
    heat: str | None = None,
    index: str | None = None,
    checkpoint: str | None = None,
    scans: str | None = None,
    k: int = 10,
    port: int = 8765,
    browser: bool = False,
    install: bool = False,
    device: str | None = None,
    input_check: InputCheck = "error",
) -> None:
    """Look at a scan in the browser, and at similar locations in other scans.

    Args:
        scan: NIfTI, NRRD, MHA/MHD, or the folder of a DICOM series
        labels: label map of it
        heat: map that lies over it, such as similarity.nii.gz of ctfm locate
        index: folder (or folders with commas) of an index with patches: a click then finds
            locations like the one clicked
        checkpoint: encoder that made the index
        scans: folder of the scans in the index, to look at what was found
        k: number of hits
        port: port of the page; 0: any that is free
        browser: open the page
        install: fetch NiiVue, which draws the scans, once; nothing else uses the network
    """
    typed = locals() | {"index": None if index is None else folders(index)}
    report("ctfm.search:open_view", **typed)


def folders(typed: str) -> list[str]:
    """Folders of indexes as they are typed: one, several with commas, or a pattern each."""
    parts = [part.strip() for part in typed.split(",") if part.strip()]
    if not parts:
        raise UserError("--index is empty: give the folder of an index")
    return [folder for part in parts for folder in sorted(glob(part)) or [part]]

"""`ctfm view`: make the scene, open the index, serve the page until Ctrl-C."""

from __future__ import annotations

import secrets
import webbrowser
from collections.abc import Sequence
from typing import Any

from ctfm.base.errors import UserError
from ctfm.base.options import is_on
from ctfm.search.options import SearchEncoder
from ctfm.search.viewing.neighbours import Neighbours
from ctfm.search.viewing.niivue import find_niivue, install_niivue
from ctfm.search.viewing.scene import make_scene
from ctfm.search.viewing.server import LOOPBACK, Site, make_server

__all__ = ["open_view"]

PORT = 8765
CHECKS = ("error", "warn", "off")
ENCODER = SearchEncoder()


def open_view(
    scan: str | None = None,
    labels: str | None = None,
    heat: str | None = None,
    index: str | Sequence[str] | None = None,
    encoder: SearchEncoder = ENCODER,
    scans: str | None = None,
    k: int = 10,
    port: int = PORT,
    browser: bool = False,
    install: bool = False,
) -> str:
    """Serve one page, to this machine alone: a scan, and places in other scans that are like one.

    Args:
        scan: NIfTI, NRRD, MHA/MHD, or the folder of a DICOM series.
        labels: label map of it.
        heat: map to lie over it, such as ``similarity.nii.gz`` of `ctfm locate`.
        index: folder of an index with patches, or of several made alike: a click then finds places
            like the one clicked.
        encoder: the index's.
        scans: folder of the scans in the index, to look at what was found.
        k: hits.
        port: of the page; 0: any that is free.
        browser: open the page.
        install: fetch NiiVue, which draws the scans, once; nothing else uses the network.

    Returns:
        What was done, in a line, once it was stopped.

    Raises:
        UserError: a file, the index or an option is not usable.
    """
    if is_on("install", install):
        path = install_niivue()
        if scan is None:
            return f"NiiVue -> {path}"
    if scan is None:
        raise UserError("no scan is given: ctfm view SCAN.nii.gz --labels FILE")
    if (index is None) != (encoder.checkpoint is None):
        raise UserError("a search needs both --index DIR and --checkpoint FILE, its encoder")
    _check_whole("k", k, 1)
    _check_whole("port", port, 0, 65535)
    if encoder.input_check not in CHECKS:  # the first click would tell
        raise UserError(f"input_check is {encoder.input_check!r}: choose error, warn or off")
    opens = is_on("browser", browser)
    niivue = find_niivue()
    scene = make_scene(scan, labels, heat, scans)
    neighbours = None
    if index is not None:
        folders = [index] if isinstance(index, str) else list(index)
        neighbours = Neighbours(scene, folders, encoder, k)
    site = Site(scene, niivue, secrets.token_urlsafe(12), neighbours)
    with make_server(site, port) as server:
        address = f"http://{LOOPBACK}:{server.server_address[1]}/{site.token}/"
        try:
            print(f"{address} (Ctrl-C ends it)", flush=True)
            if opens:
                webbrowser.open(address)
            server.serve_forever()
        except KeyboardInterrupt:
            return "stopped"
    return "stopped"


def _check_whole(name: str, value: Any, low: int, high: int | None = None) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        to = "" if high is None else f" to {high}"
        raise UserError(f"{name} is {value!r}: give a whole number from {low}{to}")

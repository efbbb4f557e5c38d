"""`ctfm view`: make the scene, open the index, serve the page until Ctrl-C."""

from __future__ import annotations

import secrets
import webbrowser

from ctfm.errors import UserError
from ctfm.viewing.neighbours import Neighbours
from ctfm.viewing.niivue import find_niivue, install_niivue
from ctfm.viewing.scene import make_scene
from ctfm.viewing.server import LOOPBACK, Site, make_server

__all__ = ["view"]

PORT = 8765


def view(
    scan: str | None = None,
    labels: str | None = None,
    heat: str | None = None,
    index: str | None = None,
    checkpoint: str | None = None,
    scans: str | None = None,
    k: int = 10,
    port: int = PORT,
    browser: bool = False,
    install: bool = False,
    device: str | None = None,
    input_check: str = "error",
) -> str:
    """Serve one page, to this machine alone: a scan, and places in other scans that are like one.

    Args:
        scan: NIfTI, NRRD, MHA/MHD, or the folder of a DICOM series.
        labels: label map of it.
        heat: map to lie over it, such as ``similarity.nii.gz`` of `ctfm locate`.
        index: folder of an index with patches: a click then finds places like the one clicked.
        checkpoint: the index's encoder.
        scans: folder of the scans in the index, to look at what was found.
        k: hits.
        port: of the page; 0: any that is free.
        browser: open the page.
        install: fetch NiiVue, which draws the scans, once; nothing else uses the network.
        device: such as cuda:0; None: a GPU if there is one.
        input_check: what to do about values that are no CT's: error, warn or off.

    Returns:
        What was done, in a line, once it was stopped.

    Raises:
        UserError: a file, the index or an option is not usable.
    """
    if install:
        path = install_niivue()
        if scan is None:
            return f"NiiVue -> {path}"
    if scan is None:
        raise UserError("no scan is given: ctfm view SCAN.nii.gz --labels FILE")
    if (index is None) != (checkpoint is None):
        raise UserError("a search needs both --index DIR and --checkpoint FILE, its encoder")
    niivue = find_niivue()
    scene = make_scene(scan, labels, heat, scans)
    neighbours = None
    if index is not None and checkpoint is not None:
        neighbours = Neighbours(scene, index, str(checkpoint), k, device, input_check)
    site = Site(scene, niivue, secrets.token_urlsafe(12), neighbours)
    with make_server(site, port) as server:
        address = f"http://{LOOPBACK}:{server.server_address[1]}/{site.token}/"
        try:
            print(f"{address} (Ctrl-C ends it)", flush=True)
            if browser:
                webbrowser.open(address)
            server.serve_forever()
        except KeyboardInterrupt:
            return "stopped"
    return "stopped"

"""The page in a browser: drawn, clicked, moved by keys; nothing leaves for another address.

Needs NiiVue (`ctfm view --install`), playwright, and a Chromium named by ``CTFM_CHROMIUM``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch

from ctfm.base.errors import UserError
from ctfm.embedding.embedder import Embedder
from ctfm.embedding.recipes import make_recipe
from ctfm.embedding.table import EmbeddingTable
from ctfm.networks.encoders import PooledEncoder
from ctfm.search.options import SearchEncoder
from ctfm.search.viewing.neighbours import Neighbours
from ctfm.search.viewing.niivue import find_niivue
from ctfm.search.viewing.scene import make_scene
from ctfm.search.viewing.server import Site, make_server
from support import make_ct, save

pytestmark = pytest.mark.doors

#: As most files converted from DICOM have it.
AFFINE = np.array([[-3.0, 0, 0, 90], [0, 3.0, 0, -60], [0, 0, 3.0, -40], [0, 0, 0, 1]])
CHROMIUM = os.environ.get("CTFM_CHROMIUM", "")
#: WebGL 2 without a graphics card.
SOFTWARE = [
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--no-sandbox",
]


@pytest.fixture(scope="module")
def niivue() -> Path:
    try:
        return find_niivue()
    except UserError:
        pytest.skip("needs NiiVue: ctfm view --install")


@pytest.fixture(scope="module")
def address(niivue: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("lancedb", reason="needs the extra index")
    from ctfm.search.index.adding import add_embeddings

    root = tmp_path_factory.mktemp("page")
    hu, label = make_ct(0)
    torch.manual_seed(0)
    network = PooledEncoder(spatial_dims=3, in_channels=1, init_filters=4, blocks_down=(1, 1, 1))
    torch.save(network.state_dict(), root / "encoder.pt")
    recipe = make_recipe("semantic_search", spacing=[3, 3, 3], patch=[16, 16, 16], overlap=0.25)
    embedder = Embedder.load(str(root / "encoder.pt"), {**recipe, "amp": False}, "cpu")
    table = EmbeddingTable(str(root / "embedded"), embedder.network, embedder.recipe)
    table.start()
    for name in ("a", "b"):
        save(hu.astype(np.int16), root / "scans" / f"{name}.nii.gz", AFFINE)
        image = embedder.read(str(root / "scans" / f"{name}.nii.gz"), "off")
        table.write({"image": image, "pred": embedder.window_map(image), "name": name})
    save(label.astype(np.uint8), root / "labels.nii.gz", AFFINE)
    (root / "labels.json").write_text(json.dumps({"labels": {"1": "spleen", "5": "liver"}}))
    add_embeddings([str(root / "embedded")], str(root / "index"))
    scene = make_scene(
        str(root / "scans" / "a.nii.gz"), str(root / "labels.nii.gz"), scans=str(root / "scans")
    )
    checkpoint = str(root / "encoder.pt")
    encoder = SearchEncoder(checkpoint=checkpoint, device="cpu", input_check="off")
    search = Neighbours(scene, [str(root / "index")], encoder, 3)
    with make_server(Site(scene, niivue, "secret", search), 0) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/secret/"
        server.shutdown()


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if not Path(CHROMIUM).is_file():
        pytest.skip("needs a Chromium: CTFM_CHROMIUM names its file")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SOFTWARE)
        opened = browser.new_page(viewport={"width": 1200, "height": 700})
        opened.errors = []
        opened.asked = []
        opened.on("pageerror", lambda error: opened.errors.append(str(error)))
        opened.on("console", lambda m: m.type == "error" and opened.errors.append(m.text))
        opened.on("request", lambda request: opened.asked.append(request.url))
        opened.goto(address)
        opened.wait_for_selector("body[data-ready]", timeout=60_000)
        yield opened
        browser.close()


def test_scan_is_drawn_clicked_and_moved(page: Any, address: str) -> None:
    assert page.inner_text("#name") == "a.nii.gz"
    shown = page.locator("#canvas").bounding_box()
    pixels = page.screenshot(clip=shown)
    assert len(pixels) > 10_000, "black planes would be smaller"
    assert "liver" in page.inner_text("#legend")

    # the voxel is that of the file, which runs to the left
    told = page.inner_text("#place").split("\u00b7")
    mm, voxel = ([float(n) for n in re.findall(r"-?[0-9.]+", part)] for part in told[:2])
    np.testing.assert_allclose(np.linalg.solve(AFFINE, [*mm, 1])[:3], voxel, atol=0.51)

    # a click finds places of the other scan
    page.mouse.click(shown["x"] + shown["width"] * 0.2, shown["y"] + shown["height"] * 0.25)
    page.wait_for_selector("#hits li")
    assert page.inner_text("#status").startswith("3 places like")
    assert page.locator("#hits b").all_inner_texts() == ["b"] * 3

    # which can be clicked through to, and left
    place = page.locator("#hits small").first.inner_text()
    page.locator("#hits button").first.click()
    page.get_by_role("heading", name="b", exact=True).wait_for()
    page.locator("#place", has_text="HU").wait_for()  # the heading comes before the scan
    x_shown, x_asked = (float(t.split(",")[0]) for t in (page.inner_text("#place"), place))
    assert abs(x_shown - x_asked) < 3, "the crosshair stands at the place"
    page.keyboard.press("Escape")
    page.get_by_role("heading", name="a.nii.gz", exact=True).wait_for()
    page.locator("#place", has_text="HU").wait_for()

    # keys move the crosshair, and search
    page.locator("#canvas").focus()
    before = page.inner_text("#place")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("PageUp")
    assert page.inner_text("#place") != before
    page.evaluate("document.getElementById('hits').replaceChildren()")
    page.keyboard.press("Enter")
    page.wait_for_selector("#hits li")

    assert page.errors == []
    outside = [url for url in page.asked if not url.startswith((address, "data:", "blob:"))]
    assert outside == [], "everything comes from this machine"


def test_a_scan_that_cannot_be_shown_can_be_left_by_keys(page: Any) -> None:
    page.route("**/volume/3/*", lambda route: route.fulfill(status=422, json={"error": "broken"}))
    page.locator("#canvas").focus()
    page.keyboard.press("Enter")
    page.locator("#hits button").first.click()
    page.locator("#place", has_text="b cannot be shown: broken").wait_for()
    page.errors.clear()  # the browser tells of the answer 422
    page.locator("#canvas").focus()
    page.keyboard.press("ArrowLeft")
    assert "Escape goes back" in page.inner_text("#status")
    page.keyboard.press("Escape")
    page.locator("#place", has_text="HU").wait_for()
    assert page.inner_text("#name") == "a.nii.gz"
    assert page.errors == []


def test_maps_of_whole_numbers_are_shown_by_their_values(page: Any) -> None:
    header = "hdr: {scl_slope: 1 / 65535, scl_inter: 0.5}"
    stored = "img: new Int16Array([-32768, -32768, 0, 32767])"
    assert page.evaluate(f"quantile({{{header}, {stored}}}, 1)") == pytest.approx(1, abs=1e-4)
    assert page.evaluate(f"quantile({{{header}, {stored}}}, 0)") == pytest.approx(0.5, abs=1e-4)

"""The page's server: what it serves, what it refuses, and places found by a click."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from ctfm.base.errors import UserError
from ctfm.commands.calling import call
from ctfm.embedding.embedder import Embedder
from ctfm.embedding.recipes import make_recipe
from ctfm.embedding.table import EmbeddingTable
from ctfm.networks.encoders import PooledEncoder
from ctfm.search.options import SearchEncoder
from ctfm.search.viewing import niivue
from ctfm.search.viewing.neighbours import Neighbours
from ctfm.search.viewing.scene import Scene, make_scene
from ctfm.search.viewing.server import Site, make_server
from ctfm.search.viewing.view import open_view
from support import make_ct, save

pytestmark = pytest.mark.usefixtures("one_thread")

TOKEN = "secret"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans of one body, its labels, an encoder; a file that nobody may see."""
    root = tmp_path_factory.mktemp("viewing")
    hu, label = make_ct(0)
    save(hu.astype(np.int16), root / "scans" / "a.nii.gz")
    save((hu + 3).astype(np.int16), root / "scans" / "b.nii.gz")
    save(label.astype(np.float32), root / "labels.nii.gz")
    (root / "labels.json").write_text(json.dumps({"labels": {"5": "liver"}}))
    (root / "niivue.js").write_text("// NiiVue")
    (root / "private.txt").write_text("private")
    torch.manual_seed(0)
    network = PooledEncoder(spatial_dims=3, in_channels=1, init_filters=4, blocks_down=(1, 1, 1))
    torch.save(network.state_dict(), root / "encoder.pt")
    return root


@pytest.fixture(scope="module")
def scene(folder: Path) -> Scene:
    return make_scene(
        str(folder / "scans" / "a.nii.gz"),
        labels=str(folder / "labels.nii.gz"),
        scans=str(folder / "scans"),
    )


@pytest.fixture(scope="module")
def index(folder: Path) -> str:
    pytest.importorskip("lancedb", reason="needs the extra index")
    from ctfm.search.index.adding import add_embeddings

    recipe = make_recipe("semantic_search", spacing=[3, 3, 3], patch=[16, 16, 16], overlap=0.25)
    embedder = Embedder.load(str(folder / "encoder.pt"), {**recipe, "amp": False}, "cpu")
    table = EmbeddingTable(str(folder / "embedded"), embedder.network, embedder.recipe)
    table.start()
    for name in ("a", "b"):
        image = embedder.read(str(folder / "scans" / f"{name}.nii.gz"), "off")
        table.write({"image": image, "pred": embedder.window_map(image), "name": name})
    add_embeddings([str(folder / "embedded")], str(folder / "index"))
    return str(folder / "index")


@pytest.fixture(scope="module")
def port(folder: Path, scene: Scene, index: str) -> Iterator[int]:
    checkpoint = str(folder / "encoder.pt")
    encoder = SearchEncoder(checkpoint=checkpoint, device="cpu", input_check="off")
    search = Neighbours(scene, [index], encoder, 3)
    with make_server(Site(scene, folder / "niivue.js", TOKEN, search), 0) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()


def ask(
    port: int, path: str, method: str = "GET", body: Any = None, **headers: str
) -> tuple[int, bytes, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content, response.headers


class TestServed:
    def test_page_and_its_parts(self, port: int) -> None:
        for path, kind in (
            ("", "text/html"),
            ("view.js", "text/javascript"),
            ("view.css", "text/css"),
            ("niivue.js", "text/javascript"),
        ):
            status, content, headers = ask(port, f"/{TOKEN}/{path}")
            assert (status, headers["Content-Type"].split(";")[0]) == (200, kind)
            assert content
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            assert headers["Cache-Control"] == "no-store"

    def test_scene_names_what_is_there(self, port: int, folder: Path) -> None:
        _, content, _ = ask(port, f"/{TOKEN}/scene.json")
        found = json.loads(content)
        assert (found["name"], found["url"]) == ("a.nii.gz", "volume/0/volume.nii")
        assert found["search"] is True
        names = {one["name"] for one in found["overlay"]["classes"].values()}
        assert names == {"liver", "class 1", "class 3"}, "no name is guessed"
        assert str(folder) not in content.decode()

    def test_volumes_are_the_files(self, port: int, folder: Path) -> None:
        _, content, _ = ask(port, f"/{TOKEN}/volume/0/volume.nii")
        scan, stored = nib.Nifti1Image.from_bytes(content), nib.load(folder / "scans" / "a.nii.gz")
        np.testing.assert_array_equal(scan.get_fdata(), stored.get_fdata())
        np.testing.assert_allclose(scan.affine, stored.affine)
        _, content, _ = ask(port, f"/{TOKEN}/volume/1/volume.nii")
        labels = nib.Nifti1Image.from_bytes(content)
        assert labels.get_data_dtype() == np.int16, "NiiVue colours whole numbers alone"
        assert int(labels.header["intent_code"]) == 1002
        stored = nib.load(folder / "labels.nii.gz")
        np.testing.assert_array_equal(labels.get_fdata(), stored.get_fdata())
        np.testing.assert_allclose(labels.affine, stored.affine)

    def test_places_like_one(self, port: int, folder: Path) -> None:
        affine = nib.load(folder / "scans" / "a.nii.gz").affine
        middle = nib.affines.apply_affine(affine, np.array(make_ct(0)[0].shape) / 2)
        status, content, _ = ask(
            port,
            f"/{TOKEN}/nearest",
            "POST",
            json.dumps({"volume": 0, "point_mm": middle.tolist()}),
            Origin=f"http://127.0.0.1:{port}",
        )
        assert status == 200, content
        hits = json.loads(content)["hits"]
        assert len(hits) == 3
        assert {hit["scan"] for hit in hits} == {"b"}, "a scan does not find itself"
        assert {hit["url"] for hit in hits} == {"volume/3/volume.nii"}
        distance = np.linalg.norm(np.array(hits[0]["point_mm"]) - middle)
        assert distance < 3 * 16, "the other scan is the same body"
        assert hits[0]["similarity"] > 0.9

    def test_places_that_make_no_sense_are_one_line(self, port: int) -> None:
        for body in (
            '{"volume": 0, "point_mm": [9e9, 0, 0]}',
            '{"volume": 99}',
            "no json",
            "[]",
            '{"volume": 0, "point_mm": [NaN, 0, 0]}',
            "[" * 4000,
            '{"volume": 1e999, "point_mm": [0, 0, 0]}',
        ):
            status, content, _ = ask(
                port, f"/{TOKEN}/nearest", "POST", body, Origin=f"http://localhost:{port}"
            )
            assert status == 422, body
            assert "\n" not in json.loads(content)["error"]


def test_the_page_goes_by_the_affine_of_the_package(tmp_path: Path) -> None:
    """Where a header's two forms differ, viewers choose by rules of their own."""
    values = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    image = nib.Nifti1Image(values, None)
    image.set_sform(np.diag([-2.0, 2, 3, 1]), code=1)
    image.set_qform(np.diag([2.0, 2, 3, 1]), code=3)
    nib.save(image, tmp_path / "two.nii")
    content = make_scene(str(tmp_path / "two.nii")).content(0)
    served = nib.Nifti1Image.from_bytes(bytes(content))
    assert (int(served.header["sform_code"]), int(served.header["qform_code"])) == (2, 0)
    np.testing.assert_allclose(served.affine, nib.load(tmp_path / "two.nii").affine)
    np.testing.assert_array_equal(served.get_fdata(), values)


class TestRefused:
    @pytest.mark.parametrize(
        "path",
        [
            "/",
            "/secret",
            "/other/",
            "/other/scene.json",
            "/secret/private.txt",
            "/secret/../private.txt",
            "/secret/volume/../../private.txt",
            "/secret/volume/%2e%2e/private.txt",
            "/secret/volume/9/volume.nii.gz",
            "/secret/volume/-1/volume.nii.gz",
            "/secret/volume/0",
            "/secret/volume/²/volume.nii",
            "/secret//etc/passwd",
            "/secret/%2fetc%2fpasswd",
            "/secret/assets/view.js",
            "http://127.0.0.1/secret/",
        ],
    )
    def test_what_is_not_on_the_list(self, port: int, path: str) -> None:
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
            raw.sendall(request.encode("latin-1"))
            answer = b"".join(iter(lambda: raw.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 404"), answer[:80]
        assert b"private" not in answer.split(b"\r\n\r\n", 1)[1]
        assert b"root:" not in answer

    @pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "", "127.0.0.1"])
    def test_other_names_for_this_machine(self, port: int, host: str) -> None:
        assert ask(port, f"/{TOKEN}/scene.json", Host=host)[0] == 403

    def test_questions_of_other_pages(self, port: int) -> None:
        body = '{"volume": 0, "point_mm": [0, 0, 0]}'
        for origin in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {}):
            assert ask(port, f"/{TOKEN}/nearest", "POST", body, **origin)[0] == 403
        mine = {"Origin": f"http://127.0.0.1:{port}"}
        assert ask(port, f"/{TOKEN}/nearest", "POST", "x" * 5000, **mine)[0] == 400
        assert ask(port, f"/{TOKEN}/scene.json", "POST", body, **mine)[0] == 404

    def test_other_machines(self, folder: Path, scene: Scene) -> None:
        with make_server(Site(scene, folder / "niivue.js", TOKEN), 0) as server:
            assert server.server_address[0] == "127.0.0.1"


class TestNiivue:
    def test_another_package_is_not_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CTFM_CACHE", str(tmp_path))
        with pytest.raises(UserError, match="digest is not that of NiiVue"):
            niivue.unpack_niivue(b"other", "there")
        assert not any(tmp_path.iterdir())
        with pytest.raises(UserError, match="ctfm view --install fetches it once"):
            niivue.find_niivue()

    def test_one_file_of_the_package_is_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        buffer = BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name, content in ((niivue.MEMBER, b"// here"), ("../../escaped.js", b"no")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, BytesIO(content))
        package = buffer.getvalue()
        digest = niivue.digest_of(package)
        monkeypatch.setattr(niivue, "INTEGRITY", digest)
        monkeypatch.setenv("CTFM_CACHE", str(tmp_path / "cache"))
        path = niivue.unpack_niivue(package, "there")
        assert path.read_bytes() == b"// here"
        assert niivue.find_niivue() == path
        assert [one.name for one in tmp_path.rglob("*.js")] == [path.name]

    def test_no_network_is_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9")
        with pytest.raises(UserError, match="cannot be fetched"):
            call(open_view, install=True)
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", "file:///etc")
        with pytest.raises(UserError, match="begins with http"):
            call(open_view, install=True)


def test_what_makes_no_sense_is_one_line(
    folder: Path, index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CTFM_CACHE", str(tmp_path))
    scan, labels = str(folder / "scans" / "a.nii.gz"), str(folder / "labels.nii.gz")
    with pytest.raises(UserError, match="no scan is given"):
        call(open_view)
    with pytest.raises(UserError, match="NiiVue is not installed"):
        call(open_view, scan)
    (tmp_path / f"niivue-{niivue.VERSION}.js").write_text("//")
    with pytest.raises(UserError, match="both --index DIR and --checkpoint"):
        call(open_view, scan, index=index)
    with pytest.raises(UserError, match="choose one to lie over"):
        call(open_view, scan, labels=labels, heat=labels)
    torch.manual_seed(1)
    other = PooledEncoder(spatial_dims=3, in_channels=1, init_filters=4, blocks_down=(1, 1, 1))
    torch.save(other.state_dict(), tmp_path / "other.pt")
    with pytest.raises(UserError, match="two kinds cannot be compared"):
        call(open_view, scan, index=index, checkpoint=str(tmp_path / "other.pt"), device="cpu")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="choose another --port"):
            call(open_view, scan, port=taken.getsockname()[1])
    with pytest.raises(UserError, match="port is 99999: give a whole number from 0 to 65535"):
        call(open_view, scan, port=99999)
    with pytest.raises(UserError, match="choose error, warn or off"):
        call(open_view, "nowhere.nii.gz", input_check="loud")
    with pytest.raises(UserError, match="k is 0: give a whole number from 1"):
        call(open_view, scan, k=0)


def test_ctrl_c_ends_it(folder: Path, tmp_path: Path) -> None:
    (tmp_path / f"niivue-{niivue.VERSION}.js").write_text("//")
    command = [sys.executable, "-m", "ctfm", "view", str(folder / "scans" / "a.nii.gz"), "--port=0"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CTFM_CACHE": str(tmp_path)},
        # a shell that started the tests in the background would have it ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("http://127.0.0.1:")
            process.send_signal(signal.SIGINT)
            rest, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, rest.strip()) == (0, "stopped")
    assert "Traceback" not in errors

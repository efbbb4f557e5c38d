"""The page's server: this machine alone, a secret in its address, files by number only."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ctfm.base.errors import UserError
from ctfm.imaging.scans import describe
from ctfm.search.viewing.neighbours import Neighbours, check_location
from ctfm.search.viewing.scene import Scene

__all__ = ["Site", "make_server"]

logger = logging.getLogger(__name__)

ASSETS = Path(__file__).parent / "assets"
PAGES = {
    "": ("index.html", "text/html; charset=utf-8"),
    "view.css": ("view.css", "text/css; charset=utf-8"),
    "view.js": ("view.js", "text/javascript; charset=utf-8"),
}
#: NiiVue reads compressed scans in workers made of blobs, and its font from data in its own code.
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self' data: blob:; worker-src blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
#: Bytes of a question; a place takes 100.
LONGEST = 4096
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Site:
    """What is served.

    Attributes:
        scene: the volumes.
        niivue: NiiVue's file.
        token: first part of every address; others get nothing.
        neighbours: the search; None: there is none.
    """

    scene: Scene
    niivue: Path
    token: str
    neighbours: Neighbours | None = None


def _is_short(text: str) -> bool:
    """A whole number of so few digits that Python reads it."""
    return text.isascii() and text.isdecimal() and len(text) < 10


def make_server(site: Site, port: int) -> ThreadingHTTPServer:
    """A server on this machine's loopback address; `serve_forever` runs it.

    Args:
        site: what is served.
        port: 0: any that is free.

    Raises:
        UserError: the port cannot be had.
    """

    class Handler(_Handler):
        served = site

    try:
        return ThreadingHTTPServer((LOOPBACK, port), Handler)
    except (OSError, OverflowError) as error:
        raise UserError(f"port {port}: cannot be used ({error}): choose another --port") from error


class _Handler(BaseHTTPRequestHandler):
    served: Site
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """The page, its parts, and volumes by their numbers."""
        parts = self._parts()
        if parts is None:
            return
        kind, *rest = parts
        if not rest and kind in PAGES:
            name, mime = PAGES[kind]
            self._send((ASSETS / name).read_bytes(), mime)
        elif parts == ["niivue.js"]:
            self._send(self.served.niivue.read_bytes(), "text/javascript; charset=utf-8")
        elif parts == ["scene.json"]:
            self._answer(lambda: self.served.scene.describe(self.served.neighbours is not None))
        elif kind == "volume" and len(rest) == 2 and self._is_number(rest[0]):
            self._send_volume(int(rest[0]))
        else:
            self._refuse(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        """Places like the one that was clicked."""
        parts = self._parts()
        if parts is None:
            return
        length = self.headers.get("Content-Length", "")
        if parts != ["nearest"] or self.served.neighbours is None:
            self._refuse(HTTPStatus.NOT_FOUND)
        elif self.headers.get("Origin") not in {f"http://{host}" for host in self._hosts()}:
            self._refuse(HTTPStatus.FORBIDDEN)
        elif not _is_short(length) or int(length) > LONGEST:
            self._refuse(HTTPStatus.BAD_REQUEST)
        else:
            body = self.rfile.read(int(length))
            self._answer(lambda: {"hits": self._nearest(body)})

    def log_message(self, format: str, *args: Any) -> None:
        """Each request is of no interest."""
        logger.debug(format, *args)

    def _nearest(self, body: bytes) -> list[dict[str, Any]]:
        assert self.served.neighbours is not None
        try:
            document = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise UserError("the question is no JSON") from error
        return self.served.neighbours.nearest(
            *check_location(document, len(self.served.scene.files))
        )

    def _parts(self) -> list[str] | None:
        """The address below the secret; None: it was refused.

        A page of another site may lead a browser here by a name that it points to this machine:
        the name that was asked for gives it away.
        """
        if self.headers.get("Host") not in self._hosts():
            self._refuse(HTTPStatus.FORBIDDEN)
            return None
        parts = self.path.split("?", 1)[0].split("/")
        if len(parts) < 3 or parts[0] or parts[1] != self.served.token:
            self._refuse(HTTPStatus.NOT_FOUND)
            return None
        return parts[2:]

    def _hosts(self) -> set[str]:
        assert isinstance(self.server, ThreadingHTTPServer)
        port = self.server.server_port
        return {f"{name}:{port}" for name in (LOOPBACK, "localhost")}

    def _is_number(self, text: str) -> bool:
        return _is_short(text) and int(text) < len(self.served.scene.files)

    def _send_volume(self, number: int) -> None:
        try:
            content = self.served.scene.content(number)
        except Exception as error:
            self._send_json({"error": describe(error)}, HTTPStatus.UNPROCESSABLE_ENTITY)
            return
        self._send(content, "application/octet-stream")

    def _answer(self, make: Callable[[], Any]) -> None:
        try:
            document = make()
        except UserError as error:
            self._send_json({"error": describe(error)}, HTTPStatus.UNPROCESSABLE_ENTITY)
        except Exception as error:
            logger.exception("the search failed")
            self._send_json({"error": describe(error)}, HTTPStatus.INTERNAL_SERVER_ERROR)
        else:
            self._send_json(document)

    def _send_json(self, document: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(json.dumps(document).encode(), "application/json", status)

    def _refuse(self, status: HTTPStatus) -> None:
        self.close_connection = True  # its body was not read
        self._send(status.phrase.encode(), "text/plain; charset=utf-8", status)

    def _send(
        self, content: bytes | bytearray, mime: str, status: HTTPStatus = HTTPStatus.OK
    ) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", mime)
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        try:
            self.wfile.write(content)
        except ConnectionError:  # the page was closed meanwhile
            self.close_connection = True

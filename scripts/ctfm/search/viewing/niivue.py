"""NiiVue, which draws the scans: one file of one version, fetched once, when it is asked for."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

from ctfm.base.errors import UserError
from ctfm.base.files import atomic_path

__all__ = ["find_niivue", "install_niivue"]

#: BSD-2-Clause. The build holds all it needs; the digest is npm's own for the package.
VERSION = "0.69.0"
REGISTRY = "https://registry.npmjs.org"
INTEGRITY = (
    "sha512-YMjQvJgD1W2b7DuoxkwlC4VxbrgIePRJ5qyQzXKxi2v2"
    "MBVg285P/CIQyg46oDDGDIcaNlbd+MhtO/edMbXJkA=="
)
MEMBER = "package/dist/niivue.umd.js"
TIMEOUT_S = 60


def cache_folder() -> Path:
    """Where fetched files stay: ``CTFM_CACHE``, else the user's cache."""
    given = os.environ.get("CTFM_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ctfm"


def find_niivue() -> Path:
    """The installed file.

    Raises:
        UserError: it is not installed.
    """
    path = cache_folder() / f"niivue-{VERSION}.js"
    if not path.is_file():
        raise UserError(f"{path}: NiiVue is not installed: ctfm view --install fetches it once")
    return path


def install_niivue() -> Path:
    """Fetch the package from npm, or from ``NPM_CONFIG_REGISTRY``, check it, keep the one file.

    Raises:
        UserError: it cannot be had, or is not what it should be.
    """
    names = "NPM_CONFIG_REGISTRY", "npm_config_registry"  # npm takes both
    registry = next((os.environ[one] for one in names if os.environ.get(one)), REGISTRY)
    url = f"{registry.rstrip('/')}/@niivue/niivue/-/niivue-{VERSION}.tgz"
    if not url.startswith(("https://", "http://")):
        raise UserError(f"NPM_CONFIG_REGISTRY is {registry}: give an address that begins with http")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            content = response.read()
    except (urllib.error.URLError, OSError) as error:
        raise UserError(f"{url}: cannot be fetched ({error}): is there a network?") from error
    return unpack_niivue(content, url)


def unpack_niivue(content: bytes, source: str) -> Path:
    """Check a package by its digest, and keep the one file.

    Raises:
        UserError: it is another package.
    """
    if digest_of(content) != INTEGRITY:
        raise UserError(f"{source}: its digest is not that of NiiVue {VERSION}: nothing was kept")
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        member = archive.extractfile(MEMBER)
        assert member is not None  # the digest is that of a package which has it
        script = member.read()
    path = cache_folder() / f"niivue-{VERSION}.js"
    with atomic_path(path) as temporary:
        temporary.write_bytes(script)
    return path


def digest_of(content: bytes) -> str:
    """As npm writes it."""
    return "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode()

"""Release a bundle: pack it with a copy of this package, as the Model Zoo serves it; verify it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ctfm.base.errors import UserError
from ctfm.base.files import atomic_path, sha256
from ctfm.release.files import (
    FILE_CHECKS,
    Check,
    check_archive,
    large_files,
    leaves,
    read_version,
    shipped_files,
)
from ctfm.release.overlays import applied, packed_name

__all__ = ["Outcome", "Packed", "pack", "verify_bundle"]

PACKAGE = Path(__file__).parents[1]
#: The earliest date that a zip can state; the same for every file, so that bytes do not change.
TIMESTAMP = (1980, 1, 1, 0, 0, 0)
MODE = 0o100644
NAME = re.compile(r"[A-Za-z0-9_]+")
MODEL = "models/model.pt"

#: A file of a release: where it lies, or what it holds.
Content = Path | bytes


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A release.

    Attributes:
        path: the zip.
        sha256: of the zip.
        source: what model_info.json names as its address.
        files: number of files in it.
        left_out: what stands in the bundle's folder and is not in the zip.
    """

    path: Path
    sha256: str
    source: str
    files: int
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        """What a user wants to know after packing."""
        lines = [f"{self.path}: {self.files} files, sha256 {self.sha256}"]
        if self.left_out:
            lines.append(f"left out: {', '.join(self.left_out)}")
        if self.source == self.path.name:
            lines.append("model_info.json has the file's name for an address: pass url_base=https…")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a check found.

    Attributes:
        name: of the check.
        ok: whether it passed.
        reason: what was found, or what is wrong.
    """

    name: str
    ok: bool
    reason: str

    def __str__(self) -> str:
        """One line."""
        return f"{'ok' if self.ok else 'FAILED':7}{self.name:12} {' '.join(self.reason.split())}"


def pack(
    bundle: str | Path,
    out: str | Path = "dist",
    *,
    url_base: str | None = None,
    with_weights: bool = False,
    overlay: str | None = None,
) -> Packed:
    """Zip a bundle with a copy of this package, so that it runs where the package is not installed.

    Writes NAME_vX.Y.Z.zip, its .sha256, and its entry in model_info.json. The same files give the
    same bytes.

    Args:
        bundle: the bundle's folder; its name is the bundle's name.
        out: folder to write to.
        url_base: address that the zip will be found under; None: model_info.json gets the file's
            name alone, as the address is not known.
        with_weights: add models/model.pt, and the files of large_files.yml that are there.
        overlay: pack the bundle of one task: this overlay is applied to its configs and metadata,
            and the zip is called after both. Its weights are models/OVERLAY/model.pt.

    Raises:
        UserError: no bundle, no version, no licence, a name MONAI takes apart, no weights, or no
            such overlay of a task.
    """
    root = Path(bundle).expanduser().resolve()
    name, version = root.name, read_version(root)
    if not NAME.fullmatch(name) or "_v" in name:
        raise UserError(
            f"a bundle may not be called {name!r}: use letters, digits and _, and no _v, where "
            "MONAI takes name and version apart"
        )
    if url_base is not None and not re.match(r"https?://\w", url_base):
        raise UserError(f"url_base is {url_base!r}; it should start with https://")
    members = _members(root, with_weights, overlay)
    name = name if overlay is None else packed_name(name, overlay)
    if "LICENSE" not in members:
        raise UserError(f"{root} has no LICENSE: a release has to state one")
    path = Path(out).expanduser() / f"{name}_v{version}.zip"
    with atomic_path(path) as temporary:
        _write(temporary, {f"{name}/{inside}": file for inside, file in members.items()})
    source = path.name if url_base is None else f"{url_base.rstrip('/')}/{path.name}"
    digest = _describe(path, source)
    top = {PurePosixPath(inside).parts[0] for inside in members}
    left = sorted(p.name for p in root.iterdir() if p.name not in top)
    return Packed(path=path, sha256=digest, source=source, files=len(members), left_out=tuple(left))


def verify_bundle(path: str | Path) -> list[Outcome]:
    """Check a bundle's folder or zip, and print one line a check.

    Nothing of the bundle is executed; what its configs name is looked up in this environment.

    Args:
        path: folder, or zip as `pack` writes it.

    Raises:
        UserError: a check failed; the message names all that did.
    """
    # MONAI takes seconds to import, and packing does not need it
    from ctfm.release.configs import CONFIG_CHECKS

    given = Path(path).expanduser().resolve()
    outcomes = [] if given.is_dir() else [_outcome("archive", check_archive, given)]
    if all(outcome.ok for outcome in outcomes):
        with _unpacked(given) as root:
            for name, check in {**FILE_CHECKS, **CONFIG_CHECKS}.items():
                outcomes.append(_outcome(name, check, root))
    failed = [f"{outcome.name}: {outcome.reason}" for outcome in outcomes if not outcome.ok]
    if failed:
        raise UserError(
            f"{given.name}: {len(failed)} of {len(outcomes)} checks failed; {'; '.join(failed)}"
        )
    return outcomes


def _outcome(name: str, check: Check, path: Path) -> Outcome:
    try:
        outcome = Outcome(name=name, ok=True, reason=check(path))
    except UserError as error:
        outcome = Outcome(name=name, ok=False, reason=str(error))
    print(outcome, flush=True)
    return outcome


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The bundle's folder; of a zip, in a temporary place."""
    if path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
        yield next(Path(folder).iterdir())


def _members(root: Path, with_weights: bool, overlay: str | None) -> dict[str, Content]:
    """Files of a release by their path inside it: the bundle's, the package's, weights."""
    members: dict[str, Content] = {name.as_posix(): root / name for name in shipped_files(root)}
    changed = {} if overlay is None else applied(root, overlay)
    kept = {name: content for name, content in changed.items() if content is not None}
    members = {name: path for name, path in members.items() if name not in changed}
    members.update(kept)
    code = {".py", ".pyi", ".html", ".css", ".js"}
    sources = (p for p in PACKAGE.rglob("*") if p.suffix in code or p.name == "py.typed")
    members |= {f"{PACKAGE.name}/{p.relative_to(PACKAGE).as_posix()}": p for p in sources}
    if with_weights:
        weights = {n: path for n, path in _weights(root, overlay).items() if path.is_file()}
        if not weights:
            names = [path.relative_to(root).as_posix() for path in _weights(root, overlay).values()]
            raise UserError(
                f"with_weights, but none of {', '.join(names)} is in {root}: fetch them with "
                f"python -m monai.bundle download_large_files --bundle_path {root}"
            )
        members |= weights
    return members


def _weights(root: Path, overlay: str | None) -> dict[str, Path]:
    """Where the files of weights may lie, by their path inside the release."""
    model = MODEL if overlay is None else f"models/{overlay}/model.pt"
    listed = [str(entry.get("path", "")) for entry in large_files(root)]
    return {MODEL: root / model, **{name: root / name for name in listed if not leaves(name)}}


def _write(path: Path, members: dict[str, Content]) -> None:
    """Write a zip whose bytes depend on names and contents alone."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(members):
            entry = zipfile.ZipInfo(name, TIMESTAMP)
            entry.create_system = 3  # Unix, whatever this system is: permissions are read by it
            entry.external_attr = MODE << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            content = members[name]
            if isinstance(content, bytes):
                archive.writestr(entry, content)
                continue
            entry.file_size = content.stat().st_size  # files above 2 GiB need a wider header
            with content.open("rb") as source, archive.open(entry, "w") as target:
                shutil.copyfileobj(source, target, 1 << 20)


def _describe(path: Path, source: str) -> str:
    """Write what stands beside a zip: its .sha256, and its entry in model_info.json."""
    digest = sha256(path)
    with atomic_path(path.with_name(f"{path.name}.sha256")) as temporary:
        temporary.write_text(f"{digest}  {path.name}\n")
    info = path.with_name("model_info.json")
    try:
        entries = json.loads(info.read_text()) if info.exists() else {}
        # the Model Zoo's tools compare SHA-1
        checksum = hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
        entries[path.stem] = {"checksum": checksum, "source": source}
    except (ValueError, TypeError) as error:
        raise UserError(f"{info} is no table of releases ({error}): move it away") from error
    with atomic_path(info) as temporary:
        temporary.write_text(json.dumps(entries, indent=4, sort_keys=True) + "\n")
    return digest

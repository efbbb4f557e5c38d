"""Where weights come from: a file, a folder, or a repository on the Hugging Face hub."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ctfm.base.errors import UserError
from ctfm.base.optional import require
from ctfm.weights.shards import INDEX_SUFFIX

__all__ = ["KNOWN_REPOSITORIES", "KnownRepository", "Source", "StrPath", "find_weights", "resolve"]

logger = logging.getLogger(__name__)

StrPath = str | os.PathLike[str]

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
DEFAULT_FILENAME = "model.safetensors"
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class KnownRepository:
    """Published CT-FM weights.

    Attributes:
        repo_id: repository on the Hugging Face hub.
        kind: what its file holds, "encoder" or "segresnet".
        filename: the file inside the repository.
        revision: branch, tag or commit that is fetched unless another one is asked for.
    """

    repo_id: str
    kind: str
    filename: str = DEFAULT_FILENAME
    revision: str = "main"


KNOWN_REPOSITORIES = (
    KnownRepository("project-lighter/ct_fm_feature_extractor", "encoder"),
    KnownRepository("project-lighter/ct_fm_segresnet", "segresnet"),
    KnownRepository("project-lighter/whole_body_segmentation", "segresnet"),
)


@dataclass(frozen=True)
class Source:
    """A checkpoint on this machine, and where it came from.

    Attributes:
        name: repository id, or the file's name without its folder.
        path: the file.
        revision: commit hash of the repository; None for a local file.
        kind: what the repository is known to hold; None: look into the file.
    """

    name: str
    path: Path
    revision: str | None = None
    kind: str | None = None

    def __str__(self) -> str:
        """For a repository its id and commit, for a local file its path."""
        return str(self.path) if self.revision is None else f"{self.name}@{self.revision}"


def resolve(
    source: StrPath | None,
    *,
    revision: str | None = None,
    offline: bool = False,
    filename: str | None = None,
) -> Source:
    """Find a checkpoint; a repository is downloaded into the hub's own cache.

    Args:
        source: file, folder, or repository id such as "project-lighter/ct_fm_feature_extractor".
            What exists on this machine goes before a repository of the same name.
        revision: branch, tag or commit; None: the known repository's, else "main".
        offline: look into the cache alone. The environment's HF_HUB_OFFLINE has the same effect.
        filename: file inside the folder or repository; None: the one that holds the weights.

    Raises:
        UserError: nothing there, more than one candidate, or the hub cannot be reached.
    """
    if source is None or not str(source).strip():
        raise UserError(
            "no checkpoint given: pass a file, a folder or a Hugging Face repository id, or add "
            "the overlay configs/from_scratch.yaml to start from random weights"
        )
    path = Path(source).expanduser()
    if path.exists():
        if revision is not None:
            raise UserError(
                f"revision {revision!r} belongs to a Hugging Face repository, but {path} is a "
                "local path; leave the revision out"
            )
        found = _file_in(path, filename) if path.is_dir() else path
        return Source(name=found.name, path=found)
    text = str(source)
    if not REPOSITORY.fullmatch(text) or text.endswith(SUFFIXES):
        raise UserError(
            f"checkpoint {text} does not exist; pass a file, a folder, or a Hugging Face "
            f"repository id such as {KNOWN_REPOSITORIES[0].repo_id}"
        )
    return _download(text, revision=revision, offline=offline, filename=filename)


def find_weights(
    folder: StrPath,
    names: Sequence[str],
    advice: str | None = None,
    left_by_training: str | None = None,
) -> str:
    """The first of some files that is in a bundle's folder of weights: a `_target_` for configs.

    Args:
        folder: a bundle's ``models``.
        names: file names, the preferred one first. Taking another one is said aloud. A file of 0
            bytes is what a download that failed left, and counts as absent.
        advice: what to do where none is there; None: how to fetch CT-FM's published weights.
        left_by_training: file that a training leaves in the folder. Where it is there, the model is
            that training's own product, and only the preferred file is taken. None: any is taken.

    Raises:
        UserError: none of them is there.
    """
    if left_by_training is not None and (Path(folder) / left_by_training).exists():
        names = names[:1]
    paths = {name: Path(folder) / name for name in names}
    found = [name for name, path in paths.items() if path.is_file() and path.stat().st_size]
    if not found and advice is not None:
        raise UserError(f"no weights in {folder} (looked for {', '.join(names)}): {advice}")
    if not found:
        encoder, whole_body = KNOWN_REPOSITORIES[0].repo_id, KNOWN_REPOSITORIES[2].repo_id
        raise UserError(
            f"no weights in {folder} (looked for {', '.join(names)}): `ctfm weights fetch "
            f"{encoder} --out {Path(folder) / 'ct_fm_encoder.safetensors'}` fetches the encoder, "
            f"`ctfm weights fetch {whole_body} --out {Path(folder) / 'model.pt'}` the whole-body "
            "network; or pass the path of your own"
        )
    if found[0] != names[0]:
        logger.warning("%s has no %s: taking %s", folder, names[0], found[0])
    return str(Path(folder) / found[0])


def _file_in(folder: Path, filename: str | None) -> Path:
    wanted = folder / (filename or DEFAULT_FILENAME)
    if wanted.is_file():
        return wanted
    indexes = sorted(folder.glob(f"*{INDEX_SUFFIX}"))
    if filename is None and len(indexes) == 1:
        return indexes[0]
    if filename is not None:
        raise UserError(f"folder {folder} has no file {filename}")
    found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if len(found) == 1:
        return found[0]
    names = ", ".join(path.name for path in found[:4]) or "none"
    raise UserError(
        f"folder {folder} should hold {DEFAULT_FILENAME} or exactly one checkpoint "
        f"({', '.join(SUFFIXES)}), but holds {len(found)} ({names}); pass the file itself"
    )


def _download(repo_id: str, *, revision: str | None, offline: bool, filename: str | None) -> Source:
    known = next((known for known in KNOWN_REPOSITORIES if known.repo_id == repo_id), None)
    filename = filename or (known.filename if known else DEFAULT_FILENAME)
    revision = revision or (known.revision if known else "main")
    hub = require("huggingface_hub", purpose=f"fetch {repo_id}")
    errors = require("huggingface_hub.utils", purpose=f"fetch {repo_id}")
    remedy = f"or download {filename} of {repo_id} elsewhere and pass its path"
    try:
        found = hub.hf_hub_download(repo_id, filename, revision=revision, local_files_only=offline)
    except errors.LocalEntryNotFoundError as error:
        raise UserError(
            f"{repo_id} ({filename}, revision {revision}) is not in the local cache and the "
            f"Hugging Face hub cannot be reached or offline mode is on, and there is no local file "
            f"of that name; connect, {remedy}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{repo_id} is neither a path on this machine nor a public Hugging Face repository; "
            "check the spelling, or log in with `hf auth login` if it is private"
        ) from error
    except (errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        raise UserError(f"{repo_id} has no file {filename} at revision {revision}") from error
    except Exception as error:  # the HTTP libraries behind the hub raise their own kinds
        raise UserError(f"cannot fetch {repo_id}: {error}; try again, {remedy}") from error
    path = Path(found)
    # the cache is laid out as …/snapshots/<commit hash>/<filename>
    commit = path.parents[len(Path(filename).parts) - 1].name
    return Source(name=repo_id, path=path, revision=commit, kind=known.kind if known else None)

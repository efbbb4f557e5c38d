"""Open a checkpoint file: safetensors, or a torch pickle under `weights_only=True` alone."""

from __future__ import annotations

import logging
import pickle
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ctfm.base.errors import UserError
from ctfm.base.files import sha256
from ctfm.weights.containers import state_dict_in
from ctfm.weights.shards import is_index, read_shards
from ctfm.weights.sources import Source, StrPath, resolve

__all__ = ["Checkpoint", "open_checkpoint", "read_metadata"]

logger = logging.getLogger("ctfm.weights")

DAMAGED = "it is truncated or damaged; copy or download it again"


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one file, under the names they have in it.

    Attributes:
        source: the file and where it came from.
        sha256: hash of the file.
        tensors: name to tensor, on the CPU.
        metadata: the strings of a safetensors header; empty for a pickle.
    """

    source: Source
    sha256: str
    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)


def open_checkpoint(
    source: StrPath | None,
    *,
    revision: str | None = None,
    offline: bool = False,
    key: str | None = None,
) -> Checkpoint:
    """Read every tensor of a checkpoint; arguments as for `ctfm.weights.sources.resolve`.

    Args:
        source: file, folder or repository id.
        revision: branch, tag or commit of the repository.
        offline: use the hub's cache alone.
        key: entry of a pickle that holds the network; None: the only one that does.

    Raises:
        UserError: the file cannot be found, read, or understood as a state dict.
    """
    return read_checkpoint(resolve(source, revision=revision, offline=offline), key)


def read_checkpoint(source: Source, key: str | None = None) -> Checkpoint:
    """Read every tensor of a checkpoint that is on this machine; half precision as float32.

    Args:
        source: the file, or the index of a sharded one.
        key: as for `open_checkpoint`.

    Raises:
        UserError: the file cannot be read, or is not a state dict.
    """
    path = source.path
    metadata: dict[str, str] = {}
    digest = sha256(path)
    if is_index(path):
        tensors, digest = read_shards(path, lambda shard: _read_safetensors(shard)[0])
    elif _is_safetensors(path):
        tensors, metadata = _read_safetensors(path)
    else:
        tensors = state_dict_in(_read_pickle(path), path, key)
    return Checkpoint(source, digest, _in_float32(tensors, path), metadata)


def _in_float32(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Half precision as float32, which holds each of its values exactly."""
    half = [name for name, t in tensors.items() if t.dtype in (torch.float16, torch.bfloat16)]
    if half:
        kinds = sorted({str(tensors[name].dtype).removeprefix("torch.") for name in half})
        logger.info("%s: %d tensors of %s read as float32", path, len(half), " and ".join(kinds))
    return {name: t.float() if name in half else t for name, t in tensors.items()}


def read_metadata(file: StrPath) -> dict[str, str]:
    """The strings in a safetensors header, without reading any tensor; {} for other files.

    Raises:
        UserError: the file cannot be read.
    """
    path = Path(file)
    if not _is_safetensors(path):
        return {}
    try:
        with safe_open(path, framework="pt") as opened:
            return dict(opened.metadata() or {})
    except SafetensorError as error:
        raise UserError(f"cannot read {path}: {DAMAGED} ({error})") from error


def _is_safetensors(path: Path) -> bool:
    """Tell the format by its first bytes, because suffixes are renamed.

    Raises:
        UserError: the file is unreadable or of a kind that holds no tensors.
    """
    try:
        with path.open("rb") as file:
            head = file.read(32)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if not head:
        raise UserError(f"checkpoint {path} is empty (0 bytes); copy or download it again")
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a Git LFS pointer, not the weights; run `git lfs pull`")
    if head.lstrip().startswith(b"<"):
        raise UserError(f"{path} is a web page, not a checkpoint; download the file itself")
    if head[8:9] == b"{":  # eight bytes of header length, then the JSON header
        return True
    if head.startswith((b"PK", b"\x80")):  # torch's zip archive, or a bare pickle
        return False
    raise UserError(
        f"{path} is not a checkpoint: neither safetensors nor a torch pickle "
        f"(first bytes {head[:8]!r})"
    )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except SafetensorError as error:
        raise UserError(f"cannot read {path}: {DAMAGED} ({error})") from error
    if not tensors:
        raise UserError(f"checkpoint {path} holds no tensors")
    return tensors, metadata


def _read_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():  # an error is one line; torch's remarks come before it
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        needed = re.search(r"GLOBAL (\S+)", str(error))
        if needed is None:
            raise UserError(f"cannot read {path} as weights: {DAMAGED}") from error
        raise UserError(
            f"refused to open {path}: besides tensors it needs Python code ({needed[1]}), which "
            "a pickle would run; where you trust it, load it with the code that wrote it and save "
            "the state dict alone: torch.save(model.state_dict(), 'weights.pt')"
        ) from error
    except Exception as error:  # a damaged archive can fail in any way
        if "TorchScript" in str(error):
            raise UserError(
                f"{path} is a TorchScript archive; pass the checkpoint that it was made from"
            ) from error
        raise UserError(f"cannot read {path}: {DAMAGED} ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]

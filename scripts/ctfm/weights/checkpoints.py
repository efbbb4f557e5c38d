"""Open a checkpoint file: safetensors, or a torch pickle under `weights_only=True` alone."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ctfm.base.errors import UserError
from ctfm.base.files import sha256
from ctfm.weights.sources import Source, StrPath, resolve

__all__ = ["Checkpoint", "open_checkpoint", "read_metadata"]

# Where trainers keep the network's state dict inside what they save: Lightning, lighter and
# Auto3DSeg; MONAI's CheckpointSaver; torch tutorials; nnU-Net.
CONTAINERS = ("state_dict", "model", "network", "net", "model_state_dict", "network_weights")

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
) -> Checkpoint:
    """Read every tensor of a checkpoint; arguments as for `ctfm.weights.sources.resolve`.

    Raises:
        UserError: the file cannot be found, read, or understood as a state dict.
    """
    return read_checkpoint(resolve(source, revision=revision, offline=offline))


def read_checkpoint(source: Source) -> Checkpoint:
    """Read every tensor of a checkpoint that is on this machine.

    Raises:
        UserError: the file cannot be read, or is not a state dict.
    """
    path = source.path
    metadata: dict[str, str] = {}
    if _is_safetensors(path):
        tensors, metadata = _read_safetensors(path)
    else:
        tensors = _state_dict(_read_pickle(path), path)
    return Checkpoint(source, sha256(path), tensors, metadata)


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


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The name-to-tensor mapping inside whatever a trainer saved."""
    while isinstance(content, Mapping):
        others = [name for name, value in content.items() if not isinstance(value, Tensor)]
        if content and not others:
            return {str(name): tensor.detach() for name, tensor in content.items()}
        inner = (content.get(name) for name in CONTAINERS)
        found = next((value for value in inner if isinstance(value, Mapping)), None)
        if found is None:
            raise UserError(f"checkpoint {path} holds no state dict: {_what_is(content, others)}")
        content = found
    raise UserError(
        f"checkpoint {path} holds a {type(content).__name__}, not a state dict of tensors"
    )


def _what_is(content: Mapping[Any, Any], others: list[Any]) -> str:
    if "param_groups" in content:
        return "it looks like an optimizer state; pass the file of the network"
    if not content:
        return "it is empty"
    names = ", ".join(str(name) for name in others[:4])
    if len(others) < len(content):
        return f"it mixes tensors with other entries ({names}); save the state dict alone"
    return f"it has the entries {names}; expected one of {', '.join(CONTAINERS)}"

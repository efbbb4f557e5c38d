"""Weights in several safetensors files, which an index lists: Hugging Face's layout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from ctfm.base.errors import UserError
from ctfm.base.files import sha256

__all__ = ["INDEX_SUFFIX", "is_index", "read_shards"]

INDEX_SUFFIX = ".safetensors.index.json"


def is_index(path: Path) -> bool:
    """Whether a file is the index of weights in several files, by its name."""
    return path.name.endswith(INDEX_SUFFIX)


def read_shards(
    index: Path, read: Callable[[Path], dict[str, Tensor]]
) -> tuple[dict[str, Tensor], str]:
    """Read all files of an index, each tensor from the file that the index says.

    Args:
        index: ``model.safetensors.index.json``.
        read: reads one file.

    Returns:
        The tensors, and the sha256 of the files' sha256 in the order of their names.

    Raises:
        UserError: the index is damaged, a file is missing, or a tensor is missing or left over.
    """
    places = _weight_map(index)
    tensors: dict[str, Tensor] = {}
    digest = hashlib.sha256()
    for name in sorted(set(places.values())):
        shard = index.parent / name
        if not shard.is_file():
            raise UserError(f"{index}: its part {name} is missing: copy or download all parts")
        held = read(shard)
        expected = {tensor for tensor, place in places.items() if place == name}
        wrong = sorted(expected ^ held.keys())
        if wrong:
            raise UserError(
                f"{shard}: {len(wrong)} tensors are missing or left over by {index.name} (first: "
                f"{wrong[0]}): download all parts of one version"
            )
        tensors |= held
        digest.update(sha256(shard).encode())
    return tensors, digest.hexdigest()


def _weight_map(index: Path) -> dict[str, str]:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        sound = bool(places) and all(Path(name).name == name for name in places.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: not an index of weights ({error}): download it again") from error
    if not sound:
        raise UserError(f"{index}: names files outside of its folder, or none: download it again")
    return {str(tensor): str(name) for tensor, name in places.items()}

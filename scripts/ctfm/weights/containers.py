"""The network inside what a trainer saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ctfm.base.errors import UserError

__all__ = ["state_dict_in"]

# Where trainers keep the network's state dict inside what they save: Lightning, lighter and
# Auto3DSeg; MONAI's CheckpointSaver; torch tutorials; nnU-Net.
CONTAINERS = ("state_dict", "model", "network", "net", "model_state_dict", "network_weights")


def state_dict_in(content: Any, path: Path, key: str | None = None) -> dict[str, Tensor]:
    """The name-to-tensor mapping inside whatever a trainer saved.

    Args:
        content: of the file.
        path: for messages.
        key: entry that holds the network; None: the only one that does.

    Raises:
        UserError: there is none, or there are two networks and no `key`.
    """
    if key is not None:
        if not isinstance(content, Mapping) or not isinstance(content.get(key), Mapping):
            names = ", ".join(map(str, content)) if isinstance(content, Mapping) else "none"
            raise UserError(f"checkpoint {path} has no network under {key!r}: its keys are {names}")
        content = content[key]
    while isinstance(content, Mapping):
        others = [name for name, value in content.items() if not isinstance(value, Tensor)]
        if content and not others:
            return {str(name): tensor.detach() for name, tensor in content.items()}
        found = next((n for n in CONTAINERS if isinstance(content.get(n), Mapping)), None)
        if found is None:
            raise UserError(f"checkpoint {path} holds no state dict: {_what_is(content, others)}")
        _refuse_twins(content, found, path)
        content = content[found]
    raise UserError(
        f"checkpoint {path} holds a {type(content).__name__}, not a state dict of tensors"
    )


def _refuse_twins(content: Mapping[Any, Any], found: str, path: Path) -> None:
    """Two networks of one kind, such as a model and its moving average: nobody said which."""
    names = _tensor_names(content[found])
    others = {str(key): _tensor_names(value) for key, value in content.items() if key != found}
    twins = [key for key, held in others.items() if 2 * len(names & held) > len(names)]
    if twins:
        raise UserError(
            f"checkpoint {path} holds several networks, {', '.join([found, *twins])}: take one by "
            f"`ctfm weights convert {path} --key {twins[0]} --out FILE`"
        )


def _tensor_names(content: Any) -> set[str]:
    """Names of tensors, without what parallel training puts before them."""
    if not isinstance(content, Mapping):
        return set()
    inner = next((content[n] for n in CONTAINERS if isinstance(content.get(n), Mapping)), content)
    return {str(n).removeprefix("module.") for n, t in inner.items() if isinstance(t, Tensor)}


def _what_is(content: Mapping[Any, Any], others: list[Any]) -> str:
    if "param_groups" in content:
        return "it looks like an optimizer state; pass the file of the network"
    if not content:
        return "it is empty"
    names = ", ".join(str(name) for name in others[:4])
    if len(others) < len(content):
        return f"it mixes tensors with other entries ({names}); save the state dict alone"
    return f"it has the entries {names}; expected one of {', '.join(CONTAINERS)}"

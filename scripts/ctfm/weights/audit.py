"""Compare two state dicts tensor by tensor, and copy only after all of them agree."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ctfm.base.errors import UserError
from ctfm.contract.tasks import ENCODER
from ctfm.weights.layouts import Architecture, looks_like

__all__ = ["check_same", "check_values", "copy_verified", "dtype_name", "fingerprint"]

SHOWN = 3  # tensors named of each kind of difference


def check_same(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], *, what: str, where: str
) -> None:
    """Hold names, shapes and types of a file against those of a network.

    Args:
        expected: the network's state dict.
        found: the file's, under canonical names.
        what: what is loaded, for the message, e.g. "encoder checkpoint".
        where: the file, for the message.

    Raises:
        UserError: they differ; says how many agree, the first that do not, and what the file is.
    """
    missing = [f"{name} {_spell(tensor)}" for name, tensor in expected.items() if name not in found]
    extra = [f"{name} {_spell(tensor)}" for name, tensor in found.items() if name not in expected]
    differing = [
        f"{name} is {_spell(found[name])} in the file, {_spell(tensor)} in the network"
        for name, tensor in expected.items()
        if name in found and _spell(found[name]) != _spell(tensor)
    ]
    if not (missing or extra or differing):
        return
    agreeing = len(expected) - len(missing) - len(differing)
    parts = [
        f"{what} {where}: {agreeing} of {len(expected)} tensors match",
        *_count(missing, "missing in the file"),
        *_count(extra, "unknown to the network"),
        *_count(differing, "different"),
        f"the file {looks_like(found)}",
        _expectation(expected, found),
    ]
    raise UserError("; ".join(parts))


def check_values(tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Refuse values that no sound checkpoint holds.

    Raises:
        UserError: a tensor has a value that is not finite, or a running variance is negative.
    """
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        values = sum(int((~torch.isfinite(tensors[name])).sum()) for name in broken)
        raise UserError(
            f"{where}: {values} values in {len(broken)} of {len(tensors)} tensors are not finite "
            f"(first: {broken[0]}); the training that wrote it diverged, or the file is damaged"
        )
    negative = [n for n, t in tensors.items() if n.endswith("running_var") and (t < 0).any()]
    if negative:
        raise UserError(
            f"{where}: {len(negative)} running variances are negative (first: {negative[0]}); "
            "the file is damaged"
        )


def copy_verified(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy a state dict into a module, then hold what is in the module against it, bit by bit.

    The caller has checked that they agree; a difference after that is a defect of the program.

    Raises:
        RuntimeError: the module does not hold what was copied.
    """
    module.load_state_dict(tensors)
    inside = module.state_dict()
    wrong = [n for n, tensor in tensors.items() if not torch.equal(inside[n].cpu(), tensor)]
    if wrong:
        raise RuntimeError(f"{len(wrong)} tensors differ after the copy (first: {wrong[0]})")


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Hexadecimal SHA-256 of names, types, shapes and values.

    The same for the same weights in whatever file, order or device they are, unlike that of a file.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {_spell(tensor)}\n".encode())
        values = tensor.detach().cpu().contiguous(memory_format=torch.contiguous_format)
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def dtype_name(dtype: torch.dtype) -> str:
    """For example "float32"."""
    return str(dtype).removeprefix("torch.")


def _spell(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {dtype_name(tensor.dtype)}"


def _count(items: Sequence[str], what: str) -> list[str]:
    if not items:
        return []
    dots = ", …" if len(items) > SHOWN else ""
    return [f"{len(items)} {what} ({', '.join(items[:SHOWN])}{dots})"]


def _expectation(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    same_shapes = {n: t.shape for n, t in expected.items()} == {
        n: t.shape for n, t in found.items()
    }
    if same_shapes:
        return "only types differ: `ctfm weights convert --dtype float32` makes a float32 file"
    architecture = Architecture.of(expected)
    if architecture is None:
        return "nothing was loaded"
    text = f"expected {architecture}"
    if architecture.published:
        text += f": its encoder is CT-FM's, of {ENCODER.tensors} tensors"
    return text

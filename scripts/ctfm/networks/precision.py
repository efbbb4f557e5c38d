"""Which number format a device computes in, and a way round a defect of one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["fast_dtype", "sound_convolutions"]


def fast_dtype(device_type: str) -> torch.dtype:
    """The number format in which this kind of device convolves fastest."""
    if device_type == "cuda":
        return torch.float16
    if device_type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        supported = torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return torch.bfloat16 if supported else torch.float32
    return torch.float32


def sound_convolutions(device_type: str) -> AbstractContextManager[Any]:
    """Within it, convolutions in bfloat16 on a CPU have the gradients that they should have.

    oneDNN (torch 2.13, AVX-512) returns values from uninitialised memory, up to 1e37 and NaN, for
    the weights' gradient of a 3x3x3 convolution of maps with a depth of exactly 2. CT-FM's last
    level has such maps in pretraining: 2x8x8 of patches of 32x128x128. With height or width of 2
    it is sound; so such convolutions are computed with their axes exchanged.
    """
    return _SoundConvolutions() if device_type == "cpu" else nullcontext()


class _SoundConvolutions(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv3d and not kwargs and _is_unsound(*args):
            return _convolved(*args)
        return func(*args, **(kwargs or {}))


def _is_unsound(image: Tensor, weight: Tensor, *_: Any) -> bool:
    in_bfloat16 = torch.is_autocast_enabled("cpu") or image.dtype == torch.bfloat16
    return (
        in_bfloat16
        and torch.is_grad_enabled()
        and weight.requires_grad
        and image.shape[-3] == 2
        and weight.shape[-3] > 1
    )


def _convolved(
    image: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, *rest: Any
) -> Tensor:
    """The same convolution with depth and the larger other axis exchanged, or in float32."""
    uniform = all(len({*value}) == 1 for value in (stride, padding, rest[0]))
    axis = -2 if image.shape[-2] >= image.shape[-1] else -1
    if image.shape[axis] > 2 and uniform:
        turned, kernel = image.transpose(-3, axis), weight.transpose(-3, axis)
        return torch.conv3d(turned, kernel, bias, stride, padding, *rest).transpose(-3, axis)
    with torch.autocast("cpu", enabled=False):
        single = None if bias is None else bias.float()
        found = torch.conv3d(image.float(), weight.float(), single, stride, padding, *rest)
    return found.to(torch.bfloat16)

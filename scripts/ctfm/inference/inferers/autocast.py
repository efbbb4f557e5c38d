"""The network in the number format that the device computes fastest in."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer

from ctfm.networks.precision import fast_dtype, sound_convolutions

__all__ = ["AutocastInferer"]


class AutocastInferer(Inferer):
    """Run the network in the fast number format of the device, and return float32.

    MONAI's engines autocast for CUDA alone. On two cores a training step of a narrow SegResNetDS
    takes about a quarter of the time in bfloat16.

    Args:
        inferer: how the network is applied; None: `SimpleInferer`.
        enabled: False computes in float32.

    The format is float16 on CUDA, bfloat16 on CPUs with instructions for it, and float32 elsewhere.
    """

    def __init__(self, inferer: Inferer | None = None, enabled: bool = True) -> None:
        super().__init__()
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.enabled = enabled

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Apply `network` to `inputs` (B, C, D, H, W); outputs are float32."""
        return self.inferer(inputs, partial(self._forward, network), *args, **kwargs)

    def _forward(self, network: Callable[..., Any], inputs: torch.Tensor, *args: Any) -> Any:
        dtype = fast_dtype(inputs.device.type) if self.enabled else torch.float32
        kind = inputs.device.type
        with sound_convolutions(kind), torch.autocast(kind, dtype, enabled=dtype != torch.float32):
            outputs = network(inputs, *args)
        if isinstance(outputs, torch.Tensor):
            return outputs.float()
        return [output.float() for output in outputs]

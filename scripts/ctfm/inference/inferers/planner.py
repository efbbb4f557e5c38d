"""How much memory a label map will take, known before it is begun."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch

from ctfm.base.errors import UserError
from ctfm.inference.inferers.labels import CHUNK, CHUNK_ELSEWHERE, label_dtype
from ctfm.inference.inferers.linear import planes_bytes
from ctfm.inference.inferers.memory import available_bytes
from ctfm.inference.inferers.network_probe import Probe
from ctfm.inference.inferers.slabs import SlabSettings
from ctfm.inference.inferers.windows import WindowLayout

__all__ = ["MemoryPlan", "affordable", "plan_memory"]

#: What convolutions take inside, on top of the tensors of the network that are alive.
INSIDE_CONVOLUTIONS = 1.3
#: Windows that pass a GPU together where the number is left to the planner; more gain little.
MOST_WINDOWS = 4


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes at the peak, in excess of input and network, which are there already.

    Attributes:
        sw_batch_size: windows that pass the network together.
        network: where it runs: windows and activations.
        sums: accumulator and weights of the slices that windows still touch.
        chunk: head and largest logit of some voxels.
        planes: probabilities of the slices that labels are interpolated between.
        labels: the result.
        sw_device: where the network runs.
        device: where the rest lies.
    """

    sw_batch_size: int
    network: int
    sums: int
    chunk: int
    planes: int
    labels: int
    sw_device: torch.device
    device: torch.device

    @property
    def needed(self) -> dict[torch.device, int]:
        """Bytes on each device."""
        stitching = self.sums + self.chunk + self.planes + self.labels
        if self.device == self.sw_device:
            return {self.device: stitching + self.network}
        return {self.sw_device: self.network, self.device: stitching}


def plan_memory(
    layout: WindowLayout,
    probe: Probe,
    settings: SlabSettings,
    devices: tuple[torch.device, torch.device],
    channels: int = 1,
    confidence: bool = False,
    target: Sequence[int] | None = None,
) -> MemoryPlan:
    """Predict the peak.

    Activations are measured by `probe_network` on a small part of a window, and grow with its
    voxels; the rest is arithmetic.

    Args:
        layout: windows over a volume.
        probe: what is known of the network.
        settings: how it is run.
        devices: where the network runs, and where windows are summed.
        channels: of the volume.
        confidence: whether probabilities are computed.
        target: voxels of the grid that probabilities are interpolated to; None: they are not.
    """
    sw_device, device = devices
    window, (depth, height, width) = prod(layout.roi), layout.shape
    size = settings.sum_dtype(sw_device).itemsize
    slices = min(layout.roi[0], depth)
    sums = slices * height * width * (probe.channels * size + 4)
    sums += window * 8  # importance, and its copy in the type of the sums
    sums += prod(layout.roi[1:]) * probe.channels * size  # a slice on its way into them
    chunk = CHUNK.get(device.type, CHUNK_ELSEWHERE)
    # features, logits, ids; exponentials
    chunk *= 4 * (probe.channels + (3 if confidence else 1) * probe.classes + 4)
    planes = 0 if target is None else planes_bytes(target, (height, width), probe.classes, device)
    activations = probe.bytes_per_voxel * INSIDE_CONVOLUTIONS
    network = settings.sw_batch_size * window * (activations + 4 * channels)
    labels = prod(target or layout.shape) * label_dtype(probe.classes).itemsize
    return MemoryPlan(
        settings.sw_batch_size, int(network), sums, chunk, planes, labels, sw_device, device
    )


def affordable(
    plan: Callable[[int], MemoryPlan],
    sw_batch_size: int | None,
    available: Callable[[torch.device], int | None] = available_bytes,
) -> MemoryPlan:
    """The plan with as many windows at a time as there is memory for.

    Args:
        plan: makes a plan for a number of windows at a time.
        sw_batch_size: at most; None: one on a CPU, where more gain nothing, else a few.
        available: bytes that are there on a device; None: unknown.

    Raises:
        UserError: there is not enough memory for one window at a time.
    """
    smallest = plan(1)
    there = {device: available(device) for device in smallest.needed}
    most = sw_batch_size or (1 if smallest.sw_device.type == "cpu" else MOST_WINDOWS)
    for number in range(most, 0, -1):
        tried = plan(number)
        if all(_fits(need, there[device]) for device, need in tried.needed.items()):
            return tried
    raise UserError(_refusal(smallest, there))


def _fits(needed: int, there: int | None) -> bool:
    return there is None or needed <= there


def _refusal(plan: MemoryPlan, there: dict[torch.device, int | None]) -> str:
    device = next(d for d, needed in plan.needed.items() if not _fits(needed, there[d]))
    parts = {"network": plan.network} if device == plan.sw_device else {}
    if device == plan.device:
        parts |= {"accumulator": plan.sums, "labels": plan.labels, "head": plan.chunk}
        parts |= {"linear inversion": plan.planes} if plan.planes else {}
    listed = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items())
    knobs = ["low_res.yaml", "a smaller cross-section", "a smaller patch", "fewer classes"]
    if device.type != "cpu" and device == plan.device:
        knobs.insert(0, "--stitch_device cpu")
    if device == plan.device and plan.planes:
        knobs.insert(0, "--inversion nearest")
    return (
        f"segmenting needs {plan.needed[device] / 1e9:.2f} GB of memory on {device} ({listed}), "
        f"{(there[device] or 0) / 1e9:.2f} GB are there: try {', '.join(knobs[:-1])} or {knobs[-1]}"
    )

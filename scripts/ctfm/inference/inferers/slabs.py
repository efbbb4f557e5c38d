"""Sliding windows that hand over finished slabs, in memory that does not grow with the scan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ctfm.base.errors import UserError
from ctfm.inference.inferers.heads import LinearHead, first_output, without_head
from ctfm.inference.inferers.network_probe import Probe, probe_network
from ctfm.inference.inferers.ring import SliceRing
from ctfm.inference.inferers.windows import Window, WindowLayout
from ctfm.networks.precision import fast_dtype

__all__ = ["UNSEEN_LOGIT", "Slab", "SlabSettings", "finished_slabs", "network_in", "plain_volume"]

#: Logit of everything but background where no window was run: finite, so that it can be blended.
UNSEEN_LOGIT = -1e4


@dataclass(frozen=True)
class SlabSettings:
    """How windows are laid, run and blended; the names are those of MONAI's inferer.

    Attributes:
        roi_size: voxels of a window (D, H, W); where not positive, the whole axis.
        overlap: share of a window that neighbours have in common.
        mode: how windows are blended, "gaussian" or "constant".
        sigma_scale: of the Gaussian, in sides of a window.
        padding_mode: how volumes smaller than a window are padded.
        cval: what with, if by a constant.
        sw_batch_size: windows that pass the network together.
        sw_device: where the network runs; None: where the volume lies.
        device: where windows are summed; None: where the volume lies.
        amp: run the network in the fast number format of the device, as `AutocastInferer`.
        accumulate: type of the sums, "float32" or "autocast", that is, the network's.
        split_head: sum what a last 1x1x1 convolution takes, not what it gives.
        air: leave out windows with no value above this one; None: run all of them.

    Raises:
        UserError: accumulate or sw_batch_size make no sense.
    """

    roi_size: Sequence[int] | int
    overlap: Sequence[float] | float = 0.25
    mode: str = "constant"
    sigma_scale: float = 0.125
    padding_mode: str = "constant"
    cval: float = 0.0
    sw_batch_size: int = 1
    sw_device: torch.device | str | None = None
    device: torch.device | str | None = None
    amp: bool = True
    accumulate: str = "float32"
    split_head: bool = True
    air: float | None = None

    def __post_init__(self) -> None:
        if self.accumulate not in ("float32", "autocast"):
            raise UserError(f"accumulate is {self.accumulate}: give float32 or autocast")
        if self.sw_batch_size < 1:
            raise UserError(f"sw_batch_size is {self.sw_batch_size}: give a number from 1")

    def devices(self, volume: Tensor) -> tuple[torch.device, torch.device]:
        """Where the network runs, and where windows are summed."""
        return (
            torch.device(self.sw_device or volume.device),
            torch.device(self.device or volume.device),
        )

    def compute_dtype(self, device: torch.device) -> torch.dtype:
        """The number format that the network runs in."""
        return fast_dtype(device.type) if self.amp else torch.float32

    def sum_dtype(self, device: torch.device) -> torch.dtype:
        """The type of the sums, when the network runs on `device`."""
        return torch.float32 if self.accumulate == "float32" else self.compute_dtype(device)


@dataclass(frozen=True)
class Slab:
    """Slices that no further window touches. Its arrays are reused: they hold until the next slab.

    Attributes:
        start, stop: its slices in the volume, along the first axis.
        features: weighted sums (stop - start, H, W, C): of what the head takes, or of logits.
        weights: what they were summed with (stop - start, H, W), float32; 0 where no window ran.
        head: gives logits; None: the features are logits.
    """

    start: int
    stop: int
    features: Tensor
    weights: Tensor
    head: LinearHead | None

    @property
    def classes(self) -> int:
        """K, the number of classes."""
        return self.features.shape[-1] if self.head is None else self.head.classes

    def logits(self, start: int | None = None, stop: int | None = None) -> Tensor:
        """Logits of some slices, as MONAI's sliding window gives them.

        Args:
            start: first slice, of the volume, within the slab; None: the slab's.
            stop: the slice after the last; None: the slab's. Logits take 4 K H W bytes a slice.

        Returns:
            (stop - start, H, W, K), float32. Where no window ran, background is certain.
        """
        first, last = (
            (self.start if start is None else start),
            (self.stop if stop is None else stop),
        )
        rows = slice(first - self.start, last - self.start)
        weights = self.weights[rows][..., None]
        means = self.features[rows] / weights.clamp(min=torch.finfo(torch.float32).tiny)
        if self.head is not None:
            matrix = self.head.matrix
            means = torch.addmm(matrix[-1], means.flatten(0, 2), matrix[:-1])
        logits = means.reshape(*self.weights[rows].shape, -1)
        unseen = self.weights[rows] == 0
        if unseen.any():
            logits[unseen] = UNSEEN_LOGIT
            logits[..., 0][unseen] = 0.0
        return logits


@torch.no_grad()
def finished_slabs(
    volume: Tensor,
    network: Callable[..., Any],
    settings: SlabSettings,
    probe: Probe | None = None,
    advance: Callable[[int], None] | None = None,
    ran: Callable[[Sequence[Window]], None] | None = None,
) -> Iterator[Slab]:
    """Run a network over a volume, and yield each slab as soon as it is finished.

    The sums take roi_size[0] x H x W x channels, however many slices there are.

    Args:
        volume: (C, D, H, W).
        network: windows (N, C, *roi) to logits (N, K, *roi), or to a list of which they are first.
        settings: see there.
        probe: what is known of the network; None: it is found out on a small part of the volume.
        advance: told how many voxels more are done, after each run of the network.
        ran: told which windows were run.

    Yields:
        Slabs in the order of their slices; together they are the whole volume. A slab's arrays
        hold until the next one is asked for.

    Raises:
        UserError: the shapes of volume, windows and outputs do not fit each other.
    """
    volume = plain_volume(volume)
    sw_device, device = settings.devices(volume)
    layout = WindowLayout.over(volume.shape[1:], settings.roi_size, settings.overlap)
    apply = network_in(settings.compute_dtype(sw_device), network, sw_device)
    if probe is None:
        probe = probe_network(apply, volume, layout, settings.split_head)
    dtype = settings.sum_dtype(sw_device)
    depth, height, width = layout.shape
    sums = partial(
        SliceRing, min(layout.roi[0], depth), (height, width), probe.channels, dtype, device
    )
    ring: SliceRing | None = None
    head = None if probe.head is None else LinearHead.of(probe.head, device)
    importance = layout.importance(settings.mode, settings.sigma_scale, device).to(dtype)
    done = 0
    for window, features in _outputs(
        volume, layout, settings, partial(_run, apply, probe), advance, ran
    ):
        if ring is None:
            ring = sums(features.stride(0) == 1)
        yield from _finish(ring, done, window.inside[0].start, head)
        done = max(done, window.inside[0].start)
        ring.add(window, features, importance)
        del features  # memory of the next window
    yield from _finish(ring or sums(), done, depth, head)


def _finish(ring: SliceRing, start: int, stop: int, head: LinearHead | None) -> Iterator[Slab]:
    for first, place in ring.pieces(start, stop):
        length = place.stop - place.start
        yield Slab(first, first + length, ring.features[place], ring.weights[place], head)
        ring.clear(place)


def _outputs(
    volume: Tensor,
    layout: WindowLayout,
    settings: SlabSettings,
    run: Callable[[Tensor], Tensor],
    advance: Callable[[int], None] | None,
    ran: Callable[[Sequence[Window]], None] | None,
) -> Iterator[tuple[Window, Tensor]]:
    """Each window that is run, with its features (C, *roi)."""
    total, told, passed = volume[0].numel(), 0, 0

    def kept() -> Iterator[tuple[int, Window, Tensor]]:
        for number, window in enumerate(layout.windows, start=1):
            patch = layout.cut(volume, window, settings.padding_mode, settings.cval)
            if settings.air is None or bool((patch > settings.air).any()):
                yield number, window, patch

    waiting = kept()
    while batch := list(islice(waiting, settings.sw_batch_size)):
        outputs = run(torch.stack([patch for _, _, patch in batch]))
        passed = batch[-1][0]
        if ran is not None:
            ran([window for _, window, _ in batch])
        if advance is not None:
            advance(total * passed // len(layout.windows) - told)
            told = total * passed // len(layout.windows)
        for index, (_, window, _) in enumerate(batch):
            yield window, outputs[index]
        del outputs
    if advance is not None:
        advance(total - told)


def _run(apply: Callable[[Tensor], Any], probe: Probe, patches: Tensor) -> Tensor:
    with without_head(probe.head) as seen:
        output = first_output(apply(patches))
    if probe.head is not None and not any(features is output for features in seen):
        raise RuntimeError(
            "the network's output is not always that of its last 1x1x1 convolution: set "
            "split_head to false"
        )
    expected = (len(patches), probe.channels, *patches.shape[2:])
    if tuple(output.shape) != expected:
        raise UserError(
            f"the network gives {tuple(output.shape)} for windows of {tuple(patches.shape)}: "
            "a label map needs logits for each of their voxels"
        )
    return output


def plain_volume(volume: Tensor) -> Tensor:
    """A volume as a plain tensor of floating point numbers, without a copy where it is one."""
    plain = volume.as_subclass(Tensor)
    return plain if plain.is_floating_point() else plain.float()


def network_in(
    dtype: torch.dtype, network: Callable[..., Any], device: torch.device
) -> Callable[[Tensor], Any]:
    """The network as a function of windows on any device, computed in `dtype` on `device`."""

    def apply(patches: Tensor) -> Any:
        # oneDNN's fast layout on CPUs; on a GPU the network's own decides
        layout = torch.channels_last_3d if device.type == "cpu" else torch.preserve_format
        patches = patches.to(device, memory_format=layout)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return network(patches)

    return apply

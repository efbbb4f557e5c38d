"""A sliding window that returns the label map, not the logits of every class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor
from tqdm import tqdm

from ctfm.base.errors import UserError
from ctfm.contract.tasks import HU_WINDOW
from ctfm.imaging.hounsfield import AIR_HU
from ctfm.inference.inferers.features import EncoderFeatures
from ctfm.inference.inferers.labels import ClassChoice, Labeller, label_dtype
from ctfm.inference.inferers.linear import LinearLabeller
from ctfm.inference.inferers.network_probe import Probe, probe_network
from ctfm.inference.inferers.planner import affordable, plan_memory
from ctfm.inference.inferers.slabs import (
    Slab,
    SlabSettings,
    finished_slabs,
    network_in,
    plain_volume,
)
from ctfm.inference.inferers.targets import on_targets, targets_of
from ctfm.inference.inferers.windows import WindowLayout

__all__ = ["LabelMapInferer"]

#: What `AIR_HU` is after scaling to 0..1.
AIR = (AIR_HU - HU_WINDOW[0]) / (HU_WINDOW[1] - HU_WINDOW[0])


class LabelMapInferer(Inferer):
    """`SlidingWindowInferer` and argmax in one, in memory that does not grow with the scan.

    MONAI keeps the logits of all classes for the whole volume. Here the windows' sums are kept for
    as many slices as a window has. Slices that no later window touches become labels at once. If
    the network ends in a 1x1x1 convolution to more channels than it takes, as SegResNetDS for a
    whole body does, it is applied then, to the blended features. In float32 the labels are
    MONAI's, except for ties.

    The network is first run on a small part of the volume, to see how it ends and what memory it
    needs. It should be in evaluation mode, and no other thread may use it meanwhile.

    Args:
        roi_size: voxels of a window (D, H, W); where it is not positive, the whole axis.
        sw_batch_size: most windows that pass the network together; None: what fits and helps.
        overlap: share of a window that neighbours have in common.
        mode: "gaussian" or "constant".
        sigma_scale: of the Gaussian, in sides of a window.
        padding_mode: how volumes smaller than a window are padded.
        cval: what with, if by a constant.
        sw_device: where the network runs; None: where the inputs lie.
        device: where windows are summed and the labels are; None: where the inputs lie.
        progress: show a bar with voxels/s and the time that is left, on a terminal.
        amp: as `AutocastInferer`: float16 on CUDA, bfloat16 on CPUs that have it.
        accumulate: type of the sums, "float32", or "autocast" for the network's, half the memory.
        split_head: apply a last 1x1x1 convolution to the sums where it gives more channels than it
            takes; False: sum logits.
        class_subset: class ids that are wanted, others become background; None: all.
        compare_with: what wanted classes compete with: "all" others, which gives the labels that
            there are without a subset; or one another and background ("subset"), for which only
            their rows of the head are computed. Probabilities are over the same classes.
        confidence: add `meta["confidence"]` (B, K) to the result: for each class, over its voxels,
            the mean difference of the largest and the second largest softmax probability; nan for
            classes that are not there.
        skip_air: do not run windows without a value above `air`, whose voxels become background
            unless other windows see them. It may change labels where a network finds something
            in air, or near it, where fewer windows are blended.
        air: largest value of air in the scaled inputs; the default is -500 HU scaled to 0..1 as
            CT-FM does.
        check_memory: refuse what the memory is not enough for.
        embed: add ``meta["embeddings"]`` (B, N, F) and ``meta["centres_mm"]`` (B, N, 3): the last
            level of the network's encoder, averaged over each of the N windows, and where they
            lie. The inputs must be MetaTensors, the network a SegResNetDS or alike.
        inversion: "nearest": the labels lie on the inputs' grid, and `InvertLabelsd` looks up the
            nearest ones. "linear": they lie on the grid that the scan had before it was last
            resampled, and are the largest of the softmax probabilities that were interpolated to
            it, as after `Invertd(nearest_interp=False)`; `InvertLabelsd` inverts what remains. It
            takes the memory of two slices of probabilities. The inputs must be MetaTensors.

    Raises:
        UserError: an argument makes no sense.
    """

    def __init__(
        self,
        roi_size: Sequence[int] | int,
        sw_batch_size: int | None = 1,
        overlap: Sequence[float] | float = 0.25,
        mode: str = "constant",
        sigma_scale: float = 0.125,
        padding_mode: str = "constant",
        cval: float = 0.0,
        sw_device: torch.device | str | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
        amp: bool = True,
        accumulate: str = "float32",
        split_head: bool = True,
        class_subset: Sequence[int] | None = None,
        compare_with: str = "all",
        confidence: bool = False,
        skip_air: bool = False,
        air: float = AIR,
        check_memory: bool = True,
        embed: bool = False,
        inversion: str = "nearest",
    ) -> None:
        super().__init__()
        if inversion not in ("nearest", "linear"):
            raise UserError(f"inversion is {inversion}: give nearest or linear")
        self.inversion = inversion
        self.embed = embed
        self.settings = SlabSettings(
            roi_size=roi_size,
            overlap=overlap,
            mode=mode,
            sigma_scale=sigma_scale,
            padding_mode=padding_mode,
            cval=cval,
            sw_device=sw_device,
            device=device,
            amp=amp,
            sw_batch_size=1 if sw_batch_size is None else sw_batch_size,
            accumulate=accumulate,
            split_head=split_head,
            air=air if skip_air else None,
        )
        subset = None if class_subset is None else tuple(class_subset)
        self.choice = ClassChoice(subset, compare_with)
        self.sw_batch_size = sw_batch_size
        self.progress = progress
        self.confidence = confidence
        self.check_memory = check_memory

    def __call__(
        self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Segment volumes.

        Args:
            inputs: (B, C, D, H, W).
            network: windows (N, C, *roi) to logits (N, K, *roi), or to a list of which they are
                the first, as in deep supervision.
            args: given to the network after the windows.
            kwargs: given to the network.

        Returns:
            Class ids (B, 1, D, H, W), uint8, or int16 above 255 classes, on `device`: the inputs'
            kind of tensor with their metadata; a MetaTensor where confidence is asked for. If
            inversion is linear, their shape, affine and `applied_operations` are those from before
            the scans were resampled.

        Raises:
            UserError: shapes do not fit each other, the memory is not enough, or the network's
                output is not finite; or, for linear inversion, what `targets_of` raises.
        """
        if inputs.ndim != 5:
            raise UserError(f"inputs are {tuple(inputs.shape)}: expected (B, C, D, H, W)")
        if self.embed and not isinstance(inputs, MetaTensor):
            raise UserError("embed needs a MetaTensor, which knows where its windows lie")
        applied = partial(_called, network, args, kwargs) if args or kwargs else network
        targets = targets_of(inputs) if self.inversion == "linear" else []
        shape = targets[0].shape if targets else tuple(inputs.shape[2:])
        settings, probe = self._planned(inputs[0], applied, shape)
        device = settings.devices(inputs)[1]
        labels = torch.zeros(
            (len(inputs), 1, *shape), dtype=label_dtype(probe.classes), device=device
        )
        notes = []
        for number, found in enumerate(labels):
            labeller = Labeller(self.choice, self.confidence)
            if targets:
                labeller = LinearLabeller(self.choice, self.confidence, targets[number].axes)
            with self._features(network) as features:
                for slab in self._slabs(inputs[number], applied, settings, probe, features):
                    labeller.label(slab, found[0])
            notes.append(self._noted(inputs[number], labeller, features, probe.classes))
        result = on_targets(labels, inputs, targets) if targets else _with_meta(labels, inputs)
        if notes[0]:
            result = result if isinstance(result, MetaTensor) else MetaTensor(result)
            result.meta.update({key: torch.stack([n[key] for n in notes]) for key in notes[0]})
        return result

    def _features(self, network: Any) -> AbstractContextManager[EncoderFeatures | None]:
        return EncoderFeatures(network) if self.embed else nullcontext()

    def _noted(
        self, volume: Tensor, labeller: Labeller, features: EncoderFeatures | None, classes: int
    ) -> dict[str, Tensor]:
        """What the result's metadata say beside the labels."""
        notes = {"confidence": labeller.confidence(classes)} if self.confidence else {}
        if features is not None:
            layout = WindowLayout.over(
                volume.shape[1:], self.settings.roi_size, self.settings.overlap
            )
            notes["embeddings"] = features.embeddings()
            notes["centres_mm"] = features.centres(layout.roi, volume.affine)  # type: ignore[attr-defined]
        return notes

    def slabs(self, volume: Tensor, network: Callable[..., Any]) -> Iterator[Slab]:
        """What the labels are made of, for consumers that want logits.

        Args:
            volume: (C, D, H, W).
            network: as for the call.

        Yields:
            Slabs in the order of their slices. Each holds until the next one is asked for.

        Raises:
            UserError: as for the call.
        """
        settings, probe = self._planned(volume, network)
        yield from self._slabs(volume, network, settings, probe)

    def _slabs(
        self,
        volume: Tensor,
        network: Callable[..., Any],
        settings: SlabSettings,
        probe: Probe,
        features: EncoderFeatures | None = None,
    ) -> Iterator[Slab]:
        ran = None if features is None else features.ran
        hidden = None if self.progress else True  # None: unless on a terminal
        with tqdm(total=volume[0].numel(), unit="voxel", unit_scale=True, disable=hidden) as bar:
            yield from finished_slabs(volume, network, settings, probe, bar.update, ran)

    def _planned(
        self,
        volume: Tensor,
        network: Callable[..., Any],
        shape: tuple[int, ...] | None = None,
    ) -> tuple[SlabSettings, Probe]:
        """The settings with as many windows at a time as fit, and what the network is like.

        `shape` is that of the labels, None if there are none, or the volume's.
        """
        volume, settings = plain_volume(volume), self.settings
        devices = settings.devices(volume)
        layout = WindowLayout.over(volume.shape[1:], settings.roi_size, settings.overlap)
        apply = network_in(settings.compute_dtype(devices[0]), network, devices[0])
        probe = probe_network(apply, volume, layout, settings.split_head)
        self.choice.wanted(probe.classes)  # refuses wrong ids before the network runs

        def plan(number: int) -> Any:
            return plan_memory(
                layout,
                probe,
                replace(settings, sw_batch_size=number),
                devices,
                len(volume),
                self.confidence,
                shape if self.inversion == "linear" else None,
            )

        if self.check_memory:
            chosen = affordable(plan, self.sw_batch_size)
            settings = replace(settings, sw_batch_size=chosen.sw_batch_size)
        return settings, probe


def _called(network: Callable[..., Any], args: Any, kwargs: Any, patches: Tensor) -> Any:
    return network(patches, *args, **kwargs)


def _with_meta(labels: Tensor, inputs: Tensor) -> Tensor:
    if not isinstance(inputs, MetaTensor):
        return labels
    result = MetaTensor(labels)
    result.copy_meta_from(inputs, copy_attr=False)
    result.meta = dict(result.meta)
    with_meta: Tensor = result
    return with_meta

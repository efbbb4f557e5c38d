"""DALI between the store and the batches: what it is made for happens on the GPU."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import Transform
from torch import Tensor

from ctfm.base.errors import UserError
from ctfm.base.optional import require
from ctfm.base.types import Array
from ctfm.loading.augmentation.pipeline import Drawn
from ctfm.loading.augmentation.steps import Affine, Flip, Resize, Step
from ctfm.loading.dali.graph import make_pipeline
from ctfm.loading.finishing import Finisher, Unfinished
from ctfm.loading.loader import AHEAD, StoreLoader
from ctfm.loading.store.boxes import Box, Samples
from ctfm.loading.store.volumes import DamagedFileError

__all__ = ["DaliLoader"]


@dataclass
class _Batch:
    """What belongs to one batch from reading to delivery.

    Attributes:
        number: in the epoch.
        boxes: of all its samples.
        drawn: parameters of each box's augmentation.
        voxels: image, and label or None, of each box, once read.
        inputs: what DALI was given; it does not copy, so that this has to outlive its run.
    """

    number: int
    boxes: list[Box]
    drawn: list[Drawn]
    voxels: list[Future[tuple[Array, Array | None]]]
    inputs: dict[str, list[Any]] = field(default_factory=dict)


class DaliLoader(StoreLoader):
    """`ctfm.loading.loader.StoreLoader` for a device: the same batches, there.

    Threads read regions from the store; DALI brings them to the device, resizes, flips and
    resamples them; the other transforms follow on the device. Nothing returns to the host.

    On a CPU the same operators work, but take eight times as long to resize as the compiled
    kernels; there, voxels pass through DALI only with ``resampling="dali"``.

    Args:
        samples: which boxes of which scans.
        transforms: dictionary transforms of ``image`` and ``label``, as configs list them.
        batch_size: samples of a batch, in each process.
        device: of the batches; on "cpu" DALI's CPU operators work.
        num_workers: threads that read, and as many for DALI; None: as many as there are cores.
        drop_last: leave out a last batch that is not full.
        resampling: who resizes and resamples, "dali" or "kernels"; None: DALI on a GPU, kernels on
            a CPU.

    Raises:
        UserError: DALI is not installed, an argument is out of range, or there is no batch.
    """

    def __init__(
        self,
        samples: Samples,
        transforms: Sequence[Transform] = (),
        batch_size: int = 1,
        device: torch.device | str = "cpu",
        num_workers: int | None = None,
        drop_last: bool = False,
        resampling: str | None = None,
    ) -> None:
        require("nvidia.dali", purpose="load by DALI", extra="dali")
        if resampling not in (None, "dali", "kernels"):
            raise UserError(f"resampling is {resampling!r}: choose dali or kernels")
        super().__init__(samples, transforms, batch_size, num_workers, drop_last)
        self.device = torch.device(device)
        steps: list[Step | None] = [*self.augmentation.steps, None, None, None]
        on_gpu = self.device.type != "cpu"
        by_dali = resampling == "dali" or (resampling is None and on_gpu)
        self.resize = by_dali and isinstance(steps[0], Resize)
        # a box is flipped while it is resized; labels are not resized
        self.flip = self.resize and isinstance(steps[1], Flip) and not samples.labelled
        self.done = self.resize + self.flip
        affine, moving = steps[self.done], {"image", "label"} if samples.labelled else {"image"}
        self.warp = by_dali and isinstance(affine, Affine) and moving <= {*affine.transform.keys}
        self.done += self.warp
        self.through_dali = on_gpu or resampling == "dali"
        self.finisher = Finisher(samples, self.augmentation, self.device, self.done)
        self._pipeline: Any = None

    def batches(
        self, pool: ThreadPoolExecutor, epoch: int, numbers: range
    ) -> Iterator[dict[str, Any]]:
        """Batches are read, then in DALI, then finished, while the trainer has another one."""
        if not self.through_dali:
            yield from super().batches(pool, epoch, numbers)
            return
        # a pass that is abandoned keeps its pipeline: the next one must not get its batches
        pipeline, self._pipeline = self._pipeline or self._built(), None
        left, reading, finishing = iter(numbers), deque[_Batch](), deque[Unfinished]()

        def run_next() -> _Batch | None:
            for number in islice(left, 1 + AHEAD - len(reading)):
                reading.append(self._read(pool, epoch, number))
            if not reading:
                return None
            batch = self._readable(pool, epoch, reading.popleft())
            self._feed(pipeline, batch)
            return batch

        running = run_next()
        while running or finishing:
            while running and len(finishing) < AHEAD:
                finishing.append(self._take(pool, pipeline, running))
                running = run_next()
            if not running:
                self._pipeline = pipeline  # nothing is left in it
            yield self.finisher.deliver(finishing.popleft())

    def _built(self) -> Any:
        first = self.augmentation.steps[0] if self.resize else None
        return make_pipeline(
            batch_size=self.batch_size * max(1, math.prod(self.samples.shape)),
            threads=self.num_workers,
            device_id=None if self.device.type == "cpu" else self.device.index or 0,
            size=first.size if isinstance(first, Resize) else None,
            warp=self.warp,
            labelled=self.samples.labelled,
            air=float(self.samples.recipe.hu_window[0]),
        )

    def _readable(self, pool: ThreadPoolExecutor, epoch: int, batch: _Batch) -> _Batch:
        """Wait for the voxels; a batch with a damaged scan is read again without it."""
        while True:
            try:
                for future in batch.voxels:
                    future.result()
                return batch
            except DamagedFileError as error:
                self.samples.skip(error)
            batch = self._read(pool, epoch, batch.number)

    def _read(self, pool: ThreadPoolExecutor, epoch: int, number: int) -> _Batch:
        def voxels(box: Box) -> tuple[Array, Array | None]:
            label = self.samples.classes(box.label())[..., None] if self.samples.labelled else None
            return box.image()[..., None], label

        boxes, drawn = self.draw(epoch, number)
        return _Batch(number, boxes, drawn, [pool.submit(voxels, box) for box in boxes])

    def _feed(self, pipeline: Any, batch: _Batch) -> None:
        """Hand the voxels and the geometry to DALI, and start it."""
        voxels = [future.result() for future in batch.voxels]
        inputs = batch.inputs
        inputs["image"] = [image for image, _ in voxels]
        if self.samples.labelled:
            inputs["label"] = [label for _, label in voxels]
        if self.resize:
            rois = [self._roi(b, d) for b, d in zip(batch.boxes, batch.drawn, strict=True)]
            inputs["roi_start"] = [start for start, _ in rois]
            inputs["roi_end"] = [end for _, end in rois]
        if self.warp:
            affines = [self._affine(b, d) for b, d in zip(batch.boxes, batch.drawn, strict=True)]
            inputs["warp"] = [np.array(affine is not None) for affine in affines]
            inputs["matrix"] = [_for_dali(affine) for affine in affines]
        for name, arrays in inputs.items():
            pipeline.feed_input(name, arrays)
        pipeline.schedule_run()

    def _roi(self, box: Box, drawn: Drawn) -> tuple[Array, Array]:
        """Start and end of the box along each axis, exchanged where it is flipped."""
        start, end = np.zeros(3, np.float32), np.array(box.size, np.float32)
        for axis in (drawn[1] or ()) if self.flip else ():
            start[axis], end[axis] = end[axis], start[axis]
        return start, end

    def _affine(self, box: Box, drawn: Drawn) -> Tensor | None:
        """Output voxel index to input voxel index, as the box comes to be resampled."""
        step, matrix = self.augmentation.steps[self.done - 1], drawn[self.done - 1]
        if matrix is None:
            return None
        assert isinstance(step, Affine)
        return step.indices(matrix, drawn[0] if self.resize else box.size)

    def _take(self, pool: ThreadPoolExecutor, pipeline: Any, batch: _Batch) -> Unfinished:
        """Wait for DALI's next batch, and start what follows."""
        outputs = pipeline.share_outputs()
        try:
            images = self._tensors(outputs[0])
            labels = self._tensors(outputs[1]) if self.samples.labelled else [None] * len(images)
            return self.finisher.take(pool, images, labels, batch.boxes, batch.drawn)
        finally:
            pipeline.release_outputs()

    def _tensors(self, output: Any) -> list[Tensor]:
        """Each volume (D, H, W) of a DALI output; on a CPU without a copy."""
        if self.device.type == "cpu":
            return [torch.utils.dlpack.from_dlpack(output[i])[..., 0] for i in range(len(output))]
        plugin = require("nvidia.dali.plugin.pytorch", purpose="load by DALI", extra="dali")
        dense = output.as_tensor()
        kind = plugin.torch_utils.to_torch_type[dense.dtype]
        target = torch.empty(dense.shape(), dtype=kind, device=self.device)
        plugin.feed_ndarray(dense, target, cuda_stream=torch.cuda.current_stream(self.device))
        return list(target[..., 0])


def _for_dali(matrix: Tensor | None) -> npt.NDArray[np.float32]:
    """From voxel indices in the order D, H, W to DALI's: W, H, D, and voxel centres at halves."""
    if matrix is None:
        return np.eye(3, 4, dtype=np.float32)
    steps, shift = matrix[:, :3], matrix[:, 3]
    shift = shift + 0.5 - steps.sum(1) / 2
    flipped = torch.cat([steps.flip(0, 1), shift.flip(0)[:, None]], dim=1)
    return flipped.numpy().astype(np.float32)

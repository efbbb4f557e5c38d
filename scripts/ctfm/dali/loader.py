"""DALI in place of torch's loader: same samples, same augmentation, without a process a worker."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import ignite.distributed as idist
import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import Transform
from torch import Tensor

from ctfm import require
from ctfm.augmentation.pipeline import Augmentation, Drawn
from ctfm.augmentation.steps import Affine, Flip, Resize, Step
from ctfm.dali.finishing import Finisher, Unfinished
from ctfm.dali.graph import make_pipeline
from ctfm.errors import UserError
from ctfm.store.sampling import Box, Samples

__all__ = ["DaliLoader"]

Array = npt.NDArray[Any]

#: Batches that are being read, and finished, beside DALI's one and the trainer's.
READING, FINISHING = 2, 2


@dataclass
class _Batch:
    """What belongs to one batch from reading to delivery.

    Attributes:
        boxes: of all its samples.
        drawn: parameters of each box's augmentation.
        voxels: image, and label or None, of each box, once read.
        inputs: what DALI was given; it does not copy, so that this has to outlive its run.
    """

    boxes: list[Box]
    drawn: list[Drawn]
    voxels: list[Future[tuple[Array, Array | None]]]
    inputs: dict[str, list[Any]] = field(default_factory=dict)


class DaliLoader:
    """Batches of a store's samples, augmented, on a device: what MONAI's trainers iterate over.

    A batch is a dict: ``image`` float32 in 0..1, (B, 1, D, H, W), or (B, crops, views, 1, D, H, W)
    for `Views`; ``label`` uint8, (B, 1, D, H, W), where there are labels; ``id``, the scans'
    names. Threads read regions from the store and draw; DALI brings them to the device, resizes,
    flips and, on a GPU, resamples; the other transforms follow on the device. Nothing returns to
    the host.

    Every sample is a function of seed, epoch and index. With several processes (torchrun), each
    takes its share of every batch's worth of samples; all deliver the same number of batches, but
    for `Volumes`, each of which is delivered once.

    Args:
        samples: which boxes of which scans.
        transforms: dictionary transforms of ``image`` and ``label``, as configs list them.
        batch_size: samples of a batch, in each process.
        device: of the batches; on "cpu" DALI's CPU operators work.
        num_workers: threads that read, and as many for DALI; None: as many as there are cores.
        drop_last: leave out a last batch that is not full.
        warp: resample affine transforms by "dali" or "torch"; None: DALI on a GPU, torch on a CPU,
            where it takes a fifth of the time.

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
        warp: str | None = None,
    ) -> None:
        require("nvidia.dali", purpose="load by DALI", extra="dali")
        if warp not in (None, "dali", "torch"):
            raise UserError(f"warp is {warp!r}: choose dali or torch")
        self.samples = samples
        self.dataset = samples  # what torch's loader calls it
        self.augmentation = Augmentation(transforms)
        self.batch_size = batch_size
        self.device = torch.device(device)
        self.num_workers = num_workers or os.cpu_count() or 1
        self.drop_last = drop_last
        steps: list[Step | None] = [*self.augmentation.steps, None, None, None]
        by_dali = warp == "dali" or (warp is None and self.device.type == "cuda")
        self.resize = by_dali and isinstance(steps[0], Resize)
        # a box is flipped while it is resized; labels are not resized
        self.flip = self.resize and isinstance(steps[1], Flip) and not samples.labelled
        self.done = self.resize + self.flip
        affine, moving = steps[self.done], {"image", "label"} if samples.labelled else {"image"}
        self.warp = by_dali and isinstance(affine, Affine) and moving <= {*affine.transform.keys}
        self.done += self.warp
        self.finisher = Finisher(samples, self.augmentation, self.done, self.device)
        self.epoch = 1
        self.start = 0
        self._pipeline: Any = None
        if not len(self):
            raise UserError(
                f"{len(samples)} samples make no batch of {batch_size} in each of "
                f"{idist.get_world_size()} processes"
            )

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose what the next pass draws.

        Args:
            epoch: counted from 1.
            start: batches of it to leave out, when a training resumes within an epoch.
        """
        self.epoch = epoch
        self.start = start

    def __len__(self) -> int:
        """Batches of an epoch, in each process."""
        share = full = self.batch_size * idist.get_world_size()
        left = len(self.samples)
        if self.samples.once:
            left, full = left - self.batch_size * idist.get_rank(), self.batch_size
        return int(max(0, left + share - (full if self.drop_last else 1)) // share)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The batches of the epoch that `set_epoch` chose."""
        epoch, start, self.start = self.epoch, self.start, 0
        # a pass that is abandoned keeps its pipeline: the next one must not get its batches
        pipeline, self._pipeline = self._pipeline or self._built(), None
        with ThreadPoolExecutor(self.num_workers) as pool:
            try:
                yield from self._batches(pool, pipeline, epoch, start)
            finally:
                pool.shutdown(cancel_futures=True)

    def _batches(
        self, pool: ThreadPoolExecutor, pipeline: Any, epoch: int, start: int
    ) -> Iterator[dict[str, Any]]:
        """Batches on their way: read, then in DALI, then finished; the trainer waits for the last.

        Each stage works on batches of its own while the trainer works on the one it has.
        """
        numbers = iter(range(start, len(self)))
        reading, finishing = deque[_Batch](), deque[Unfinished]()

        def run_next() -> _Batch | None:
            for number in islice(numbers, READING + 1 - len(reading)):
                reading.append(self._read(pool, epoch, number))
            if reading:
                self._feed(pipeline, reading[0])
            return reading.popleft() if reading else None

        running = run_next()
        while running or finishing:
            while running and len(finishing) < FINISHING:
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

    def _read(self, pool: ThreadPoolExecutor, epoch: int, number: int) -> _Batch:
        """Draw a batch, and let the threads read it."""
        rank, world = idist.get_rank(), idist.get_world_size()
        first = (number * world + rank) * self.batch_size
        total = len(self.samples)
        last = first + self.batch_size
        # several processes need equal batches: past the end they take from the beginning, as
        # torch's DistributedSampler does
        wanted = range(first, min(last, total) if world == 1 or self.samples.once else last)
        boxes = [box for i in wanted for box in self.samples.boxes(epoch, i % total)]
        drawn = [self.augmentation.draw(box.seed) for box in boxes]
        return _Batch(boxes, drawn, [pool.submit(self._voxels, box) for box in boxes])

    def _voxels(self, box: Box) -> tuple[Array, Array | None]:
        label = self.samples.classes(box.label())[..., None] if self.samples.labelled else None
        return box.image()[..., None], label

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
            return self.finisher.start(pool, images, labels, batch.boxes, batch.drawn)
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

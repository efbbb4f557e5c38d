"""The part of the work that DALI does: regions to the device, resampling and flipping there."""

from __future__ import annotations

from typing import Any

from ctfm.base.optional import require

__all__ = ["make_pipeline"]


def make_pipeline(
    batch_size: int,
    threads: int,
    device_id: int | None,
    size: tuple[int, ...] | None,
    warp: bool,
    labelled: bool,
    air: float,
) -> Any:
    """A pipeline whose inputs are fed by name: ``image`` and what the options call for.

    Inputs and outputs have a channel axis at the end. Without `size` and `warp` the pipeline moves
    voxels to the device and does nothing else.

    Args:
        batch_size: most samples of a batch.
        threads: of the CPU.
        device_id: GPU; None: CPU operators.
        size: (D, H, W) to which each image is brought; inputs ``roi_start`` and ``roi_end``, three
            numbers each, start above end flips an axis. None: sizes stay.
        warp: images and labels with ``warp`` true are resampled by ``matrix`` (3, 4), in DALI's
            convention: output to input, x first, voxel centres at halves.
        labelled: there is a ``label`` too.
        air: HU outside of a scan.

    Raises:
        UserError: DALI is not installed.
    """
    dali = require("nvidia.dali", purpose="load by DALI", extra="dali")
    options = {"batch_size": batch_size, "num_threads": threads, "device_id": device_id}
    # one batch in flight: the loader keeps its own queues
    define = dali.pipeline_def(enable_conditionals=True, prefetch_queue_depth=1, **options)
    pipeline = define(_graph)(dali, device_id is not None, size, warp, labelled, air)
    pipeline.build()
    return pipeline


def _graph(
    dali: Any, gpu: bool, size: tuple[int, ...] | None, warp: bool, labelled: bool, air: float
) -> Any:
    """Outputs: the image, and the label if there is one."""
    fn, types = dali.fn, dali.types
    image = _source(dali, "image", gpu, layout="DHWC")
    label = _source(dali, "label", gpu, layout="DHWC") if labelled else None
    if size is not None:
        image = fn.resize(
            image,
            size=size,
            roi_start=_source(dali, "roi_start", ndim=1, dtype=types.FLOAT),
            roi_end=_source(dali, "roi_end", ndim=1, dtype=types.FLOAT),
            interp_type=types.INTERP_LINEAR,
            antialias=False,
            dtype=types.FLOAT,
        )
    if warp:
        chosen = _source(dali, "warp", ndim=0, dtype=types.BOOL)
        matrix = _source(dali, "matrix", ndim=2, dtype=types.FLOAT)
        image = fn.cast(image, dtype=types.FLOAT)
        # DALI knows conditions on samples as statements, not as expressions
        if chosen:
            image = _warped(dali, image, matrix, air, types.INTERP_LINEAR)
            if labelled:
                label = fn.cast_like(_warped(dali, label, matrix, 0.0, types.INTERP_NN), label)
    return (image, label) if labelled else image


def _source(dali: Any, name: str, gpu: bool = False, **options: Any) -> Any:
    node = dali.fn.external_source(name=name, no_copy=True, **options)
    return node.gpu() if gpu else node


def _warped(dali: Any, volume: Any, matrix: Any, fill: float, interpolation: Any) -> Any:
    return dali.fn.warp_affine(
        volume, matrix=matrix, fill_value=fill, interp_type=interpolation, dtype=dali.types.FLOAT
    )

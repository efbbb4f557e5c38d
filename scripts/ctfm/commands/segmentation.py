"""The command that segments."""

from __future__ import annotations

from typing import Any, Literal

from ctfm.base.errors import UserError
from ctfm.commands.calling import report
from ctfm.commands.parsing import literal

__all__ = ["segment"]


def segment(
    *inputs: str,
    out: str,
    classes: tuple[str, ...] | None = None,
    low_res: bool = False,
    statistics: bool | None = None,
    preview: bool | None = None,
    dicom_seg: bool | Literal["labelmap", "binary"] | None = None,
    confidence: bool | None = None,
    embed: bool | None = None,
    bundle: str | None = None,
    checkpoint: str | None = None,
    overwrite: bool | None = None,
    input_check: Literal["error", "warn", "off"] | None = None,
    inversion: str | None = None,
    overlap: float | None = None,
    patch: tuple[int, ...] | None = None,
    spacing: tuple[float, ...] | None = None,
    sw_batch_size: int | None = None,
    skip_air: bool | None = None,
    device: str | None = None,
    amp: bool | None = None,
    progress: bool | None = None,
    **config: str,
) -> None:
    """Segment scans, each on its own grid: NIfTI, NRRD, MHA/MHD, folders, DICOM series.

    What is finished is left out when the same command is given again. What is not given is as the
    bundle's configs/inference.json has it.

    Args:
        inputs: files, patterns in quotes, folders
        out: folder for label maps, names, pictures and report.json
        classes: names of the classes that are kept; default: all
        low_res: segment at 3 mm in place of 1.5 mm
        statistics: write volumes and HU statistics of each class
        dicom_seg: write DICOM SEG files of DICOM series, too
        confidence: write a map of the network's confidence
        embed: write embeddings of the encoder, too
        bundle: folder of the bundle; default: the one that this package came with
        checkpoint: weights; default: models/model.pt of the bundle
        inversion: how labels come back to the scan's grid: nearest, or linear of probabilities
        spacing: voxel size in mm that the network sees, axes SPL
        sw_batch_size: windows that pass the network together
        skip_air: leave out windows of air
        config: any other key of configs/inference.json, also inside: --network_def::init_filters 8
    """
    if not inputs:
        raise UserError("no input is given: ctfm segment SCAN… -o FOLDER")
    typed: dict[str, Any] = {
        name: value
        for name, value in locals().items()
        if value is not None and name not in ("inputs", "config")
    }
    nested = {name: literal(text) for name, text in config.items()}
    report("ctfm.inference.running:segment", inputs=inputs, **typed, **nested)

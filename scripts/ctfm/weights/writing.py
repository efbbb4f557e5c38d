"""Write weights in one format, with where they came from in the file's header."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from monai.networks.nets.segresnet_ds import SegResNetDS
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ctfm import __version__
from ctfm.base.errors import UserError
from ctfm.base.files import atomic_path
from ctfm.contract.tasks import ENCODER, SEGRESNET
from ctfm.weights.checkpoints import Checkpoint, open_checkpoint, read_checkpoint
from ctfm.weights.layouts import Kind, parameters, weights_of
from ctfm.weights.loading import check_weights, put_encoder, summary
from ctfm.weights.reports import Report, report_on
from ctfm.weights.sources import Source, StrPath, resolve

__all__ = ["convert", "fetch", "inject"]

logger = logging.getLogger("ctfm.weights")

FORMAT_VERSION = "1"
PICKLES = (".pt", ".pth")
CONTIGUOUS = torch.contiguous_format


def fetch(
    source: StrPath,
    out: StrPath | None = None,
    revision: str | None = None,
    offline: bool = False,
    filename: str | None = None,
) -> Source:
    """Get weights onto this machine.

    Args:
        source: Hugging Face repository id, file or folder.
        out: where to write them, as `convert` does, with the commit in the header; None: leave
            them in the hub's cache.
        revision: branch, tag or commit of the repository; None: its known revision, or "main".
        offline: use the hub's cache alone. The environment's HF_HUB_OFFLINE has the same effect.
        filename: file inside the repository or folder; None: the one that holds the weights.

    Returns:
        The file and the commit it came from.

    Raises:
        UserError: it cannot be fetched, or is not what `convert` accepts.
    """
    found = resolve(source, revision=revision, offline=offline, filename=filename)
    if out is None:
        return found
    path = _convert(read_checkpoint(found), out, kind=found.kind, dtype=None).path
    return Source(name=found.name, path=path, revision=found.revision, kind=found.kind)


def convert(
    source: StrPath,
    out: StrPath,
    kind: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    offline: bool = False,
    key: str | None = None,
) -> Report:
    """Turn any layout of CT-FM weights into canonical names, with provenance in the header.

    Args:
        source: file, folder or Hugging Face repository id.
        out: `.safetensors`, or `.pt` for a plain state dict, which has no header.
        kind: "encoder": the encoder alone, also out of a whole network; "segresnet": the whole
            network; None: the most that the source holds.
        dtype: "float32" turns float64 tensors into it; None: such tensors are an error. Half
            precision is read as float32 in any case.
        revision: branch, tag or commit of the repository; None: its known revision, or "main".
        offline: use the hub's cache alone.
        key: entry of a pickle that holds the network, where there are several; None: the only one.

    Returns:
        What was written, read back from the file.

    Raises:
        UserError: the source is not CT-FM weights or not sound, or `out` cannot be written.
    """
    checkpoint = open_checkpoint(source, revision=revision, offline=offline, key=key)
    return _convert(checkpoint, out, kind=kind, dtype=dtype)


def inject(
    encoder_source: StrPath,
    out: StrPath,
    out_channels: int = SEGRESNET.out_channels,
    init_filters: int = ENCODER.init_filters,
    blocks_down: Sequence[int] = ENCODER.blocks_down,
    dsdepth: int = SEGRESNET.dsdepth,
    seed: int = 0,
    revision: str | None = None,
    offline: bool = False,
) -> Report:
    """Write a `SegResNetDS` that has a pretrained encoder and a random decoder.

    Args:
        encoder_source: file, folder or Hugging Face repository id.
        out: `.safetensors`, or `.pt` for a plain state dict such as a bundle's models/model.pt.
        out_channels: classes, background included.
        init_filters: channels of the first level.
        blocks_down: residual blocks of each level.
        dsdepth: outputs under deep supervision.
        seed: of the decoder's random values.
        revision: branch, tag or commit of the repository; None: its known revision, or "main".
        offline: use the hub's cache alone.

    Returns:
        What was written, read back from the file.

    Raises:
        UserError: the encoder does not fit the network, or `out` cannot be written.
    """
    _check_suffix(out)
    if min(out_channels, init_filters, dsdepth, *blocks_down) < 1 or len(blocks_down) < 2:
        raise UserError(
            "out_channels, init_filters, dsdepth and each of two or more blocks_down are at least "
            f"1; got {out_channels}, {init_filters}, {dsdepth}, {tuple(blocks_down)}"
        )
    arguments = SEGRESNET.arguments | {
        "out_channels": out_channels,
        "init_filters": init_filters,
        "blocks_down": tuple(blocks_down),
        "dsdepth": dsdepth,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SegResNetDS(**arguments)
    checkpoint = open_checkpoint(encoder_source, revision=revision, offline=offline)
    put_encoder(network, checkpoint)
    metadata = _provenance(checkpoint, "segresnet", network.state_dict())
    metadata["decoder"] = f"random, seed {seed}"
    return _write(network.state_dict(), out, metadata)


def _convert(checkpoint: Checkpoint, out: StrPath, kind: str | None, dtype: str | None) -> Report:
    _check_suffix(out)
    if dtype not in (None, "float32"):
        raise UserError(f"dtype {dtype!r} is not offered; the networks load float32 alone")
    weights = weights_of(checkpoint, kind)
    if dtype is not None:
        tensors = {n: t.float() if t.is_floating_point() else t for n, t in weights.tensors.items()}
        weights = replace(weights, tensors=tensors)
    check_weights(weights)
    logger.info(summary(weights.kind, weights.tensors, checkpoint, weights.left_out))
    metadata = _provenance(checkpoint, weights.kind, weights.tensors)
    return _write(weights.tensors, out, metadata)


def _write(tensors: Mapping[str, Tensor], out: StrPath, metadata: dict[str, str]) -> Report:
    """Save, then read the file back and check it."""
    target = Path(out).expanduser()
    # a copy of each: safetensors refuses views that share memory, and a pickle would store the
    # whole storage behind a view
    copies = {n: t.detach().cpu().clone(memory_format=CONTIGUOUS) for n, t in tensors.items()}
    with atomic_path(target) as temporary:
        try:
            if target.suffix in PICKLES:
                torch.save(copies, temporary)
            else:
                save_file(copies, temporary, metadata=metadata)
        except (SafetensorError, RuntimeError) as error:  # what they make of a full disk
            raise UserError(f"cannot write {target}: {error}; no partial file was left") from error
        report = report_on(read_checkpoint(Source(name=target.name, path=temporary)))
    return replace(report, path=target)


def _provenance(
    checkpoint: Checkpoint, kind: Kind, tensors: Mapping[str, Tensor]
) -> dict[str, str]:
    """The header's strings; `origin` follows the file back over earlier conversions."""
    source = checkpoint.source
    return {
        "format": "pt",  # what other readers of safetensors look for
        "ctfm_format": FORMAT_VERSION,
        "ctfm_version": __version__,
        "kind": kind,
        "tensors": str(len(tensors)),
        "parameters": str(parameters(tensors)),
        "source": source.name,
        "revision": source.revision or "",
        "source_sha256": checkpoint.sha256,
        "origin": checkpoint.metadata.get("origin", _spell(source)),
    }


def _spell(source: Source) -> str:
    return source.name if source.revision is None else str(source)


def _check_suffix(out: StrPath) -> None:
    if Path(out).suffix not in (".safetensors", *PICKLES):
        raise UserError(f"cannot write {out}: name it .safetensors, or .pt for a plain state dict")

"""Commands that read weights of any published layout, strictly, and write safetensors."""

from __future__ import annotations

from typing import Literal

from ctfm.commands.calling import report

__all__ = ["convert", "extract", "fetch", "inject", "verify"]


def fetch(
    source: str, out: str | None = None, *, revision: str | None = None, offline: bool = False
) -> None:
    """Download weights from a Hugging Face repository (or take a local file) and check them.

    Args:
        source: repository id such as project-lighter/ct_fm_feature_extractor, file or folder
        out: file to write; default: they stay in the hub's cache
    """
    report("ctfm.weights:fetch", **locals())


def convert(
    source: str,
    out: str,
    *,
    kind: Literal["encoder", "segresnet"] | None = None,
    dtype: str | None = None,
    key: str | None = None,
    revision: str | None = None,
    offline: bool = False,
) -> None:
    """Write weights of any known layout as safetensors with their provenance.

    Args:
        source: file, folder or repository id
        out: file to write: .safetensors, or .pt for a plain state dict
        kind: the encoder alone, or the whole network; default: what the source holds
        dtype: float32 converts float64, which is refused otherwise
        key: entry of a pickle that holds the network, where it holds several
    """
    report("ctfm.weights:convert", **locals())


def extract(checkpoint: str, out: str) -> None:
    """Take the encoder out of a pretraining checkpoint, as the other bundles load it.

    Args:
        checkpoint: last.pt or epoch_0450.pt of the pretraining bundle, or any known layout
        out: file to write, such as models/ct_fm_encoder.safetensors
    """
    report("ctfm.weights:convert", source=checkpoint, out=out, kind="encoder")


def inject(
    encoder: str,
    out: str,
    *,
    out_channels: int = 118,
    init_filters: int = 32,
    blocks_down: tuple[int, ...] = (1, 2, 2, 4, 4),
    dsdepth: int = 4,
    seed: int = 0,
    revision: str | None = None,
    offline: bool = False,
) -> None:
    """Put a pretrained encoder into a new SegResNetDS and save it.

    Args:
        encoder: file, folder or repository id
        out: file to write: .safetensors, or .pt as a bundle's models/model.pt
        out_channels: classes, background included
        init_filters: channels of the first level
        blocks_down: residual blocks of each level
        dsdepth: outputs under deep supervision
        seed: seeds the random initialisation of the decoder
    """
    typed = {name: value for name, value in locals().items() if name != "encoder"}
    report("ctfm.weights:inject", encoder_source=encoder, **typed)


def verify(
    source: str,
    *,
    published: bool = False,
    key: str | None = None,
    revision: str | None = None,
    offline: bool = False,
) -> None:
    """Print what a file holds, and whether it is sound.

    Args:
        source: file, folder or repository id
        published: refuse it where it is not of the published architecture
        key: entry of a pickle that holds the network, where it holds several
    """
    report("ctfm.weights:verify", **locals())

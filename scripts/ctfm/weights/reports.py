"""Look a checkpoint over without a network: what it is, and whether it is sound."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ctfm.base.errors import UserError
from ctfm.contract.tasks import ENCODER
from ctfm.weights.audit import dtype_name, fingerprint
from ctfm.weights.checkpoints import Checkpoint, open_checkpoint
from ctfm.weights.layouts import Architecture, Kind, parameters, weights_of
from ctfm.weights.loading import check_weights
from ctfm.weights.sources import StrPath

__all__ = ["Report", "verify"]


@dataclass(frozen=True)
class Report:
    """What a sound checkpoint holds.

    Attributes:
        path: the file.
        kind: "encoder" or "segresnet".
        architecture: constructor arguments, read off the tensors.
        tensors: entries of the state dict.
        parameters: trainable parameters.
        dtypes: types that occur, sorted.
        constant_channels: BatchNorm channels with a running variance of exactly zero: they never
            vary, so they carry nothing; running variances are never negative.
        published: the encoder agrees with the contract in all names, shapes and types.
        sha256: hash of the file.
        encoder_sha256: `fingerprint` of the encoder's tensors, the same in every layout; tables of
            embeddings note it.
        metadata: strings of the safetensors header; empty for a pickle.
    """

    path: Path
    kind: Kind
    architecture: Architecture
    tensors: int
    parameters: int
    dtypes: tuple[str, ...]
    constant_channels: int
    published: bool
    sha256: str
    encoder_sha256: str
    metadata: dict[str, str]

    def __str__(self) -> str:
        """One fact a line."""
        contract = "agrees with" if self.published else "differs from"
        lines = [
            f"{self.path}: {self.kind}, {self.architecture}",
            f"{self.tensors} tensors, {self.parameters:,} parameters, {', '.join(self.dtypes)}",
            "all values finite, no negative running variance, "
            f"{self.constant_channels} channels of zero variance",
            f"encoder {contract} the published one ({ENCODER.tensors} tensors, "
            f"{ENCODER.parameters:,} parameters)",
            f"sha256 {self.sha256}, of the encoder's tensors {self.encoder_sha256}",
        ]
        return "\n".join([*lines, *(f"{k}: {v}" for k, v in sorted(self.metadata.items()))])


def verify(
    source: StrPath | None,
    revision: str | None = None,
    offline: bool = False,
    published: bool = False,
    key: str | None = None,
) -> Report:
    """Check that a checkpoint is complete, of the right types, finite, and CT-FM's.

    Args:
        source: file, folder or Hugging Face repository id.
        revision: branch, tag or commit of the repository; None: its known revision, or "main".
        offline: use the hub's cache alone.
        published: the encoder has to be of the published architecture; False: of any width and
            depth, which the report compares with the published one.
        key: entry of a pickle that holds the network, where there are several; None: the only one.

    Raises:
        UserError: any of this does not hold.
    """
    report = report_on(open_checkpoint(source, revision=revision, offline=offline, key=key))
    if published and not report.published:
        raise UserError(
            f"{report.path} is {report.architecture}; the published encoder has init_filters="
            f"{ENCODER.init_filters}, blocks_down={ENCODER.blocks_down}, {ENCODER.tensors} tensors "
            "and BATCH norm"
        )
    return report


def report_on(checkpoint: Checkpoint) -> Report:
    """Check a checkpoint that is open already, whatever its width and depth."""
    weights = weights_of(checkpoint)
    check_weights(weights)
    tensors = weights.tensors
    architecture = Architecture.of(tensors)
    assert architecture is not None  # check_weights has seen to it
    variances = [t for name, t in tensors.items() if name.endswith("running_var")]
    return Report(
        path=checkpoint.source.path,
        kind=weights.kind,
        architecture=architecture,
        tensors=len(tensors),
        parameters=parameters(tensors),
        dtypes=tuple(sorted({dtype_name(t.dtype) for t in tensors.values()})),
        constant_channels=sum(int((t == 0).sum()) for t in variances),
        published=architecture.published,
        sha256=checkpoint.sha256,
        encoder_sha256=fingerprint(weights_of(checkpoint, "encoder").tensors),
        metadata=checkpoint.metadata,
    )

"""The encoders that are compared: checkpoints by path or pattern, and random ones beside them."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ctfm.base.errors import UserError
from ctfm.networks.encoders import PooledEncoder
from ctfm.weights.audit import fingerprint
from ctfm.weights.encoders import architecture_for_ct, encoder_from, random_encoder
from ctfm.weights.layouts import Architecture
from ctfm.weights.loading import read_encoder

__all__ = ["Candidate", "find_candidates", "random_candidates"]

EPOCH = re.compile(r"epoch[-_=]?(\d+)", re.IGNORECASE)
WILDCARDS = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Candidate:
    """An encoder that takes part.

    Attributes:
        name: what it is called in tables.
        architecture: of its encoder.
        source: checkpoint; None: random weights.
        seed: of the random weights.
        encoder_sha256: `ctfm.weights.audit.fingerprint` of the checkpoint's encoder.
        epoch: read off the name; None: it has none.
    """

    name: str
    architecture: Architecture
    source: str | None = None
    seed: int | None = None
    encoder_sha256: str | None = None
    epoch: int | None = None

    def network(self) -> PooledEncoder:
        """The encoder, with its weights, in evaluation mode."""
        if self.source is None:
            return random_encoder(self.architecture, self.seed or 0)
        return encoder_from(self.source)


def find_candidates(sources: Sequence[str]) -> list[Candidate]:
    """Read every checkpoint once, so that a wrong one is told before anything is computed.

    Args:
        sources: files, patterns, folders or repository ids, in any layout that
            `ctfm.weights.loading.read_encoder` knows.

    Raises:
        UserError: none is given, a pattern matches nothing, or one holds no CT-FM encoder for
            three-dimensional images of one channel.
    """
    paths = [path for source in sources for path in _expand(str(source))]
    if not paths:
        raise UserError("no checkpoint is given: ctfm rank CHECKPOINT… --data DATALIST")
    unique = list(dict.fromkeys(paths))
    candidates = [_candidate(path, name) for path, name in _names(unique).items()]
    return sorted(candidates, key=lambda c: (c.epoch is None, c.epoch or 0))


def random_candidates(candidates: Sequence[Candidate], seeds: int) -> list[Candidate]:
    """Encoders as they are before training, some of each architecture that takes part."""
    if seeds < 1:
        raise UserError(f"random_seeds is {seeds}: give a number from 1")
    architectures = list(dict.fromkeys(c.architecture for c in candidates))
    several = len(architectures) > 1
    return [
        Candidate(
            name="random" + (f" {_spell(architecture)}" if several else "") + f", seed {seed}",
            architecture=architecture,
            seed=seed,
        )
        for architecture in architectures
        for seed in range(seeds)
    ]


def _expand(source: str) -> list[str]:
    if Path(source).expanduser().exists() or not WILDCARDS.search(source):
        return [source]
    found = sorted(glob.glob(str(Path(source).expanduser()), recursive=True))
    if not found:
        raise UserError(f"{source}: no file matches this pattern: check the path")
    return found


def _names(paths: Sequence[str]) -> dict[str, str]:
    """Call each after its file, or after as much of its path as tells them apart."""
    names = {path: Path(path).name for path in paths}
    counts = Counter(names.values())
    if max(counts.values()) == 1:
        return names
    root = os.path.commonpath([Path(path).absolute().parent for path in paths])
    return {path: str(Path(path).absolute().relative_to(root)) for path in paths}


def _candidate(path: str, name: str) -> Candidate:
    weights = read_encoder(path)
    architecture = architecture_for_ct(weights, path)
    epoch = EPOCH.search(name)
    return Candidate(
        name=name,
        architecture=architecture,
        source=path,
        encoder_sha256=fingerprint(weights.tensors),
        epoch=int(epoch[1]) if epoch else None,
    )


def _spell(architecture: Architecture) -> str:
    blocks = "-".join(map(str, architecture.blocks_down))
    return f"{architecture.init_filters} x {blocks}"

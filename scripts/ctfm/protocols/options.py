"""Options that protocols have in common, each with its unit and default once.

A protocol takes them as objects; the command line types them flat (`ctfm.commands.calling.call`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctfm.base.errors import UserError
from ctfm.contract.classes import v2_ids
from ctfm.datalists.reading import read_datalist
from ctfm.embedding.embedder import Embedder
from ctfm.protocols.probing.encoders import Candidate, find_candidates, random_candidates

__all__ = [
    "BootstrapOptions",
    "EncoderOptions",
    "LabelledOptions",
    "ListedScans",
    "ReadingOptions",
    "class_ids_of",
    "listed",
]


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """Encoders with random weights beside the checkpoints, and how all of them compute.

    Attributes:
        random_seeds: how many encoders with random weights stand beside the checkpoints.
        batch_size: patches or volumes that pass an encoder together.
        device: such as cuda:0; None: a GPU if there is one.
        amp: compute in the fast number format of the device.
    """

    random_seeds: int = 1
    batch_size: int = 16
    device: str | None = None
    amp: bool = True

    def candidates(self, checkpoints: Sequence[str]) -> list[Candidate]:
        """The checkpoints, then encoders with random weights.

        Args:
            checkpoints: files, patterns, folders or repository ids.

        Raises:
            UserError: a checkpoint or the number of random encoders is not usable.
        """
        candidates = find_candidates(checkpoints)
        return candidates + random_candidates(candidates, self.random_seeds)

    def embedders(
        self, candidates: Sequence[Candidate], recipe: Mapping[str, Any]
    ) -> dict[str, Embedder]:
        """All encoders, by the names of the candidates.

        A scan is read once for all of them, so all are in memory together (300 MB each at CT-FM's
        width).

        Args:
            candidates: encoders.
            recipe: of `ctfm.embedding.options.PatchOptions.recipe`.

        Raises:
            UserError: there is no such device, or the batch size makes no sense.
        """
        return {
            one.name: Embedder(one.network(), recipe, self.device, sw_batch_size=self.batch_size)
            for one in candidates
        }


@dataclass(frozen=True)
class ListedScans:
    """Labelled scans of a datalist.

    Attributes:
        rows: image and label of each, absolute paths.
        base_dir: folder below which scans are named.
        class_ids: classes that are taken; None: all that the labels hold.
    """

    rows: Sequence[Mapping[str, Any]]
    base_dir: str
    class_ids: Sequence[int] | None = None


@dataclass(frozen=True, kw_only=True)
class LabelledOptions:
    """Which scans and classes of a datalist are taken.

    Attributes:
        base_dir: folder that its paths are relative to; None: its own.
        split: list of it that is used.
        classes: a class group such as organs, ids, or None: all that the labels hold.
        scans: use so many of the list, from its start; None: all.
    """

    base_dir: str | None = None
    split: str = "validation"
    classes: str | int | Sequence[int] | None = None
    scans: int | None = None

    def read(self, data: str, least: int = 0) -> ListedScans:
        """Read a datalist (JSON) of scans with labels, such as TotalSegmentator's.

        Args:
            data: the file.
            least: scans that are needed.

        Raises:
            UserError: the datalist or the classes are not usable, or there are too few scans.
        """
        class_ids = None if self.classes is None else class_ids_of(self.classes)
        base_dir = self.base_dir or str(Path(data).parent)
        rows = read_datalist(data, self.split, base_dir)[: self.scans]
        if len(rows) < least:
            raise UserError(
                f"{data}: {len(rows)} scan of list {self.split!r}: two or more are compared"
            )
        return ListedScans(rows, base_dir, class_ids)


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How scans are read.

    Attributes:
        input_check: what to do about values that are no CT's: error, warn or off.
        progress: show bars, on a terminal.
    """

    input_check: str = "error"
    progress: bool = True


@dataclass(frozen=True, kw_only=True)
class BootstrapOptions:
    """How intervals are estimated.

    Attributes:
        seed: of the bootstrap, and of what else a protocol draws: noise, samples, k-means, t-SNE.
        resamples: of the bootstrap.
    """

    seed: int = 0
    resamples: int = 2000


def class_ids_of(classes: str | int | Sequence[int]) -> list[int]:
    """Ids of a class group by its name, or ids as the command line has them.

    Raises:
        UserError: it is neither.
    """
    if isinstance(classes, str) and not classes.replace(",", "").isdigit():
        return v2_ids(classes)
    typed = classes.split(",") if isinstance(classes, str) else listed(classes)
    try:
        ids = [int(i) for i in typed]
    except (TypeError, ValueError):
        ids = []
    if not ids or min(ids) < 1:
        raise UserError(f"classes is {classes!r}: give a group such as organs, or ids as 1,5,51")
    return ids


def listed(value: Any) -> tuple[Any, ...]:
    """What the command line makes of ``1,2,3``, of ``1``, or of ``[1,2,3]``, as a tuple."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)

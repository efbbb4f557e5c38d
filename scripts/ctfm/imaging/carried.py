"""Facts that travel beside a scan, through loaders and caches, as the objects that they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch.utils.data._utils.collate import default_collate_fn_map

__all__ = ["Carried"]


class Carried:
    """Base of frozen dataclasses that may be an item beside a scan.

    PyTorch's collation refuses objects and takes lists for axes of the batch; MONAI's decollation
    takes a list's length for the batch size. Objects of this class are left whole: a batch holds a
    list of them, in the order of its scans, and decollation gives each scan its own. Subclasses are
    read back from MONAI's caches, which load with ``weights_only``, if their attributes are.
    """

    #: With `item`, decollation takes the object for a scalar.
    ndim: ClassVar[int] = 0

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        torch.serialization.add_safe_globals([cls])

    def item(self) -> Carried:
        """Return the object itself."""
        return self


def _collate(batch: Sequence[Carried], **_options: Any) -> list[Carried]:
    return list(batch)


# PyTorch's way to collate further classes; here, so that a process that unpickles them has it
default_collate_fn_map[Carried] = _collate

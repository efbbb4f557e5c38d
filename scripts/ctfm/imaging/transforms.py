"""Transforms that read scans, with checks, and look classes up."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type

from ctfm.base.errors import UserError
from ctfm.imaging.checks.ct import check_ct, ct_problem
from ctfm.imaging.checks.findings import inspect_scan
from ctfm.imaging.nifti_headers import CONFLICT
from ctfm.imaging.scans import read_scan

__all__ = ["LoadScand", "MapClassesd"]

logger = logging.getLogger(__name__)


class LoadScand(MapTransform):
    """Read a scan and refuse what is no CT, before a network turns it into confident nonsense.

    Args:
        keys: items that hold a path: NIfTI, NRRD, MHA/MHD, or the folder of a DICOM series.
        input_check: "error" refuses what `ctfm.imaging.check_ct` finds, "warn" prints it and
            goes on, "off" does not look at the values (for label maps).
        inspect: note beside the scan, as the item ``input_check``, the
            `ctfm.imaging.checks.findings.InputCheck` of it, and log its warnings.

    Raises:
        UserError: the scan is missing, unreadable, or (with "error") no CT.
    """

    def __init__(
        self, keys: KeysCollection, input_check: str = "error", inspect: bool = False
    ) -> None:
        super().__init__(keys)
        if input_check not in ("error", "warn", "off"):
            raise UserError(f"input_check is {input_check!r}: choose error, warn or off")
        self.input_check = input_check
        self.inspect = inspect

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each path by a `MetaTensor` (1, X, Y, Z), float32, with its affine."""
        result = dict(data)
        for key in self.key_iterator(result):
            path = str(result[key])
            result[key] = read_scan(path)
            problem = check_ct(result[key], path, self.input_check)
            if not self.inspect and result[key].meta[CONFLICT]:
                logger.warning("%s: %s", path, result[key].meta[CONFLICT])
            if self.inspect:
                if self.input_check == "off":
                    problem = ct_problem(result[key])
                result["input_check"] = inspect_scan(result[key], problem)
                for warning in result["input_check"].warnings:
                    logger.warning("%s: %s", path, warning)
        return result


class MapClassesd(MapTransform):
    """Exchange class ids by one table lookup; every id that is not listed becomes background.

    MONAI's `MapLabelValued` passes over the volume once per class, 117 times for a whole body.

    Args:
        keys: items that hold label maps with non-negative integer values.
        source: ids as they come.
        target: ids as they go, one for each of `source`.
        dtype: torch type of the result.
        strict: refuse ids that are not listed, and are not 0, in place of taking them for
            background.
    """

    def __init__(
        self,
        keys: KeysCollection,
        source: Sequence[int],
        target: Sequence[int],
        dtype: torch.dtype = torch.uint8,
        strict: bool = False,
    ) -> None:
        super().__init__(keys)
        self.strict = strict
        self.known = frozenset({0, *source})
        if len(source) != len(target):
            raise UserError(
                f"{len(source)} class ids are mapped to {len(target)}: give one target for each"
            )
        self.dtype = dtype
        # numpy: a tensor does not pickle to the same bytes twice, and caches hash transforms
        self.table = np.zeros(max(256, *(i + 1 for i in source)), dtype=np.int64)
        self.table[list(source)] = list(target)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Map the label maps of `keys`; shape, affine and applied operations stay."""
        result = dict(data)
        for key in self.key_iterator(result):
            label = result[key]
            plain = label.as_tensor() if isinstance(label, MetaTensor) else torch.as_tensor(label)
            if self.strict:
                self._check(plain, label)
            table = torch.from_numpy(self.table).to(plain.device, self.dtype)
            mapped = table[plain.long().clamp_(0, len(table) - 1)]
            result[key] = convert_to_dst_type(mapped, label, dtype=self.dtype)[0]
        return result

    def _check(self, plain: torch.Tensor, label: Any) -> None:
        values = set(torch.unique(plain).tolist())
        if other := sorted(values - self.known):
            name = label.meta.get("filename_or_obj", "label") if hasattr(label, "meta") else "label"
            shown = ", ".join(f"{value:g}" for value in other[:5])
            raise UserError(
                f"{name} holds {shown}; the classes are {', '.join(map(str, sorted(self.known)))}: "
                "correct the label, or give the task's classes"
            )

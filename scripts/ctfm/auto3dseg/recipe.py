"""What a trained network needs to be applied: its checkpoint carries it, and nothing else is asked.

The file is safetensors: tensors, and in its header the recipe as JSON, data and no code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from monai.networks.nets import SegResNetDS
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ctfm.base.errors import UserError
from ctfm.base.files import atomic_path
from ctfm.contract.tasks import ENCODER, WHOLE_BODY
from ctfm.weights.checkpoints import read_metadata
from ctfm.weights.loading import load_network

__all__ = ["MODEL", "Recipe", "load_model", "save_model"]

#: The checkpoint of a fold, in its folder `ckpt_path`.
MODEL = "model.safetensors"
HEADER = "ctfm_auto3dseg"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Network and transforms; axes SPL.

    Attributes:
        network: arguments of `SegResNetDS`.
        spacing: mm, to which scans are resampled.
        roi_size: voxels of a window.
        overlap: share that neighbouring windows have in common.
        intensity: "hu" or "scan", see `ctfm.auto3dseg.decisions.intensity`.
        hu_window: HU that become 0 and 1, with intensity "hu".
        class_names: background is none of them.
        class_index: label values of each class; a label map shows the first of them.
        sigmoid: classes may overlap; there is no channel for background then.
        input_check: whether images must look like CT: "error", "warn" or "off".
    """

    network: dict[str, Any]
    spacing: tuple[float, ...]
    roi_size: tuple[int, ...]
    overlap: float
    intensity: str
    hu_window: tuple[float, float]
    class_names: tuple[str, ...]
    class_index: tuple[tuple[int, ...], ...]
    sigmoid: bool
    input_check: str

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Recipe:
        """Take what belongs here out of a fold's options.

        Raises:
            UserError: a value cannot be what it stands for.
        """
        try:
            outputs = len(options["class_names"]) + (not options["sigmoid"])
            recipe = cls(
                network={**options["network"], "out_channels": outputs},
                spacing=tuple(float(mm) for mm in options["spacing"]),
                roi_size=tuple(int(n) for n in options["roi_size"]),
                overlap=float(options["overlap"]),
                intensity=str(options["intensity"]),
                hu_window=_pair(options["hu_window"]),
                class_names=tuple(str(name) for name in options["class_names"]),
                class_index=tuple(tuple(int(v) for v in row) for row in options["class_index"]),
                sigmoid=bool(options["sigmoid"]),
                input_check=str(options["input_check"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            shown = {f.name: options.get(f.name) for f in fields(cls)}
            raise UserError(f"options that cannot be understood ({error}): {shown}") from error
        recipe.check()
        return recipe

    def check(self) -> None:
        """Hold it against CT-FM's contract.

        Raises:
            UserError: it does not fit, with what to change.
        """
        divisor = ENCODER.divisor
        if len(self.roi_size) != 3 or any(n % divisor or n < 2 * divisor for n in self.roi_size):
            raise UserError(
                f"roi_size is {list(self.roi_size)}: give three sides (superior, posterior, left) "
                f"divisible by {divisor} and at least {2 * divisor}, such as [96, 96, 96]"
            )
        if len(self.spacing) != 3 or min(self.spacing) <= 0:
            raise UserError(f"spacing is {list(self.spacing)}: give three sizes in mm, axes SPL")
        if not 0 <= self.overlap < 1:
            raise UserError(f"overlap is {self.overlap}: give a share from 0 to below 1")
        if self.intensity not in ("hu", "scan"):
            raise UserError(f"intensity is {self.intensity!r}: choose hu (for CT) or scan")
        (low, high), (least, most) = self.hu_window, WHOLE_BODY.hu_window
        if not least <= low < high <= most:
            raise UserError(
                f"hu_window is {list(self.hu_window)}: give the lower HU, then the higher, inside "
                f"[{least}, {most}]"
            )
        if not self.class_names or len(self.class_names) != len(self.class_index):
            raise UserError(f"{len(self.class_names)} class_names, {len(self.class_index)} indices")
        listed = [value for row in self.class_index for value in row]
        if not all(self.class_index) or min(listed) < 1 or max(listed) > 255:
            raise UserError(f"label values are {listed}: give each class values from 1 to 255")
        self._check_network()

    def _check_network(self) -> None:
        levels = len(self.network.get("blocks_down", ENCODER.blocks_down))
        norm = self.network.get("norm", ENCODER.norm)
        norm = norm[0] if isinstance(norm, list | tuple) else norm
        if levels != len(ENCODER.blocks_down) or str(norm).upper() != ENCODER.norm:
            raise UserError(
                f"network has {levels} levels and norm {norm}: CT-FM's has "
                f"{len(ENCODER.blocks_down)} and {ENCODER.norm}"
            )
        if (channels := self.network.get("in_channels", 1)) != 1:
            raise UserError(f"network takes {channels} channels: CT-FM's encoder takes one, the CT")

    @property
    def values(self) -> tuple[int, ...]:
        """The value in a label map for each class."""
        return tuple(row[0] for row in self.class_index)

    def smaller(self) -> Recipe | None:
        """The next smaller windows; None: there are none."""
        sides = list(self.roi_size)
        longest = sides.index(max(sides))
        sides[longest] -= ENCODER.divisor
        return replace(self, roi_size=tuple(sides)) if sides[longest] >= 32 else None

    def build(self) -> SegResNetDS:
        """The network with random weights.

        Raises:
            UserError: its arguments are not those of `SegResNetDS`.
        """
        try:
            return SegResNetDS(**self.network)
        except (TypeError, ValueError) as error:
            raise UserError(f"network {self.network} cannot be built: {error}") from error


def _pair(given: Sequence[Any]) -> tuple[float, float]:
    low, high = given
    return float(low), float(high)


def save_model(path: Path, tensors: Mapping[str, Tensor], recipe: Recipe) -> None:
    """Write a network's state dict together with its recipe.

    Raises:
        UserError: the file cannot be written.
    """
    header = {"format": "pt", HEADER: json.dumps(asdict(recipe))}
    # copies: safetensors refuses memory that tensors share, and layouts other than the default
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(plain, temporary, metadata=header)
        except SafetensorError as error:
            raise UserError(f"cannot write {path}: {error}") from error


def load_model(path: Path) -> tuple[nn.Module, Recipe]:
    """Build the network that a checkpoint describes, and put its tensors in, all of them.

    Raises:
        UserError: it is missing, damaged, or not written by `save_model`.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint: train this fold first")
    header = read_metadata(path)
    if HEADER not in header:
        raise UserError(f"{path}: carries no recipe: not a checkpoint of this template")
    recipe = Recipe.of(json.loads(header[HEADER]))
    return load_network(recipe.build(), path), recipe

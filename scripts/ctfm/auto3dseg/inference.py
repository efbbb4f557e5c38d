"""Prediction by trained folds, each with what its checkpoint carries."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd
from monai.utils import convert_to_dst_type
from torch import Tensor, nn

from ctfm.auto3dseg.engines import device_of, image_transforms, inferer
from ctfm.auto3dseg.recipe import MODEL, Recipe, load_model

__all__ = ["InferClass", "MeanProbabilities", "checkpoint_of", "loaded"]

#: What may be changed at inference; all else belongs to the checkpoint.
CHANGEABLE = ("roi_size", "overlap", "input_check")


class MeanProbabilities(nn.Module):
    """Networks that answer together: the mean of their probabilities.

    Args:
        networks: with outputs (B, C, D, H, W) in evaluation mode.
        sigmoid: classes may overlap.
    """

    def __init__(self, networks: Sequence[nn.Module], sigmoid: bool) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.sigmoid = sigmoid

    def forward(self, windows: Tensor) -> Tensor:
        """Probabilities (B, C, D, H, W) of windows (B, 1, D, H, W)."""
        return torch.stack([self._one(network(windows)) for network in self.networks]).mean(0)

    def _one(self, logits: Tensor) -> Tensor:
        return logits.float().sigmoid() if self.sigmoid else logits.float().softmax(1)


def checkpoint_of(folder: Path) -> Path:
    """Where a fold's folder has its checkpoint, trained or not."""
    config = ConfigParser.load_config_file(folder / "configs" / "hyper_parameters.yaml")
    return folder / str(config["ckpt_path"]) / MODEL


def loaded(path: Path, device: torch.device) -> tuple[nn.Module, Recipe]:
    """A trained network on a device; kept, since Auto3DSeg asks anew for each scan and fold.

    Raises:
        UserError: there is none, or it is damaged.
    """
    changed = path.stat().st_mtime_ns if path.exists() else 0
    return _loaded(path, changed, device)


@lru_cache(maxsize=8)
def _loaded(path: Path, _changed: int, device: torch.device) -> tuple[nn.Module, Recipe]:
    network, recipe = load_model(path)
    return network.to(device).eval(), recipe


class InferClass:
    """Probabilities of one fold on an image's own grid, as Auto3DSeg's ensembles take them.

    Args:
        config_file: the fold's configs; only where they lie matters.
        override: `roi_size`, `overlap`, `input_check`, `amp`, `sw_batch_size`; Auto3DSeg passes
            more, for others than the network, which is ignored.

    Raises:
        UserError: the fold is not trained, or an option has no sense.
    """

    def __init__(self, config_file: str | Sequence[str], **override: Any) -> None:
        first = config_file if isinstance(config_file, str) else config_file[0]
        self.device = device_of(int(os.environ.get("LOCAL_RANK", 0)))
        path = checkpoint_of(Path(first).absolute().parents[1])
        network, recipe = loaded(path, self.device)
        changed = {key: override[key] for key in CHANGEABLE if key in override}
        self.recipe = Recipe.of({**asdict(recipe), **changed}) if changed else recipe
        self.network = MeanProbabilities([network], recipe.sigmoid).eval()
        self.preprocessing = Compose(image_transforms(self.recipe))
        self.invert = Invertd("pred", self.preprocessing, "image", nearest_interp=False)
        self.windows = inferer(
            self.recipe, bool(override.get("amp", True)), int(override.get("sw_batch_size", 1))
        )

    @torch.no_grad()
    def infer(self, image_file: Any) -> MetaTensor:
        """Predict one image.

        Args:
            image_file: its path, or a row of a datalist.

        Returns:
            (C, X, Y, Z), float32, on the CPU: a channel for each value that a label map may show,
            or, where classes overlap, for each class.
        """
        path = image_file["image"] if isinstance(image_file, dict) else image_file
        item = self.preprocessing({"image": path})
        window_input = item["image"][None].as_tensor().to(self.device)
        # Invertd asks a MetaTensor alone for the image's operations
        item["pred"] = MetaTensor(self.windows(window_input, self.network)[0].cpu())
        found: MetaTensor = self.invert(item)["pred"]
        return found if self.recipe.sigmoid else self._by_value(found)

    def _by_value(self, probabilities: MetaTensor) -> MetaTensor:
        """Sort channels so that the argmax is the label value: values may have gaps."""
        values = (0, *self.recipe.values)
        if values == tuple(range(len(values))):
            return probabilities
        spread = torch.zeros((max(values) + 1, *probabilities.shape[1:]))
        spread[list(values)] = probabilities.as_tensor()
        found: MetaTensor = convert_to_dst_type(spread, probabilities)[0]
        return found

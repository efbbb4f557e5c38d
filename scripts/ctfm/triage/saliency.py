"""Which voxels of a scan speak for the score: a map on the scan's own grid, and a picture."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.visualize import OcclusionSensitivity
from scipy import ndimage
from torch import Tensor, nn

from ctfm.base.errors import UserError
from ctfm.base.types import Array
from ctfm.imaging.listing import result_name
from ctfm.imaging.nifti import write_nifti
from ctfm.imaging.reslice import on_grid
from ctfm.imaging.scans import read_scan
from ctfm.pictures.saliency_map import draw_saliency
from ctfm.triage.hu_windows import unstacked

__all__ = ["METHODS", "Saliencyd", "gradient_map", "occlusion_map"]

logger = logging.getLogger(__name__)

#: What a scan's triage leaves, after its name: the result, and the two files of this module.
RESULTS = ("_triage.json", "_saliency.nii.gz", "_saliency.png")

METHODS = ("gradient", "occlusion")
#: Of the gradient map, in voxels: single voxels of a gradient mean little.
SMOOTH = (0.7, 1.5, 1.5)


class Saliencyd(MapTransform):
    """Write ``NAME_saliency.nii.gz`` and ``NAME_saliency.png`` for a scan.

    The map lies on the scan's own grid, 0 outside the part that the network saw, 1 where the
    score hangs most on the image. It shows what the network looks at, not what is ill.

    Args:
        keys: the network's input (C, D', H, W), with the affine of one window.
        network: in evaluation mode when this is called.
        method: "gradient" (a forward and a backward pass), "occlusion" (some 250 forward passes);
            True: gradient; False: nothing is done.
        output_dir: folder of the results.
        windows: how many HU windows the input has.
        layout: how they lie, of `ctfm.triage.hu_windows.LAYOUTS`.
        progress: show a bar while occluding.
        score_key: item with the probability, for the picture.

    Raises:
        UserError: there is no such method.
    """

    def __init__(
        self,
        keys: KeysCollection,
        network: nn.Module,
        method: str | bool,
        output_dir: str,
        windows: int = 4,
        layout: str = "depth",
        progress: bool = True,
        score_key: str = "probability",
    ) -> None:
        super().__init__(keys)
        self.method = ("gradient" if method else "") if isinstance(method, bool) else method
        if self.method not in ("", *METHODS):
            raise UserError(f"saliency is {method!r}: choose true, false, {', '.join(METHODS)}")
        self.network = network
        self.folder = Path(output_dir)
        self.windows = windows
        self.layout = layout
        self.progress = progress
        self.score_key = score_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write both files; the data pass through unchanged."""
        for key in self.key_iterator(data):
            image = data[key]
            base = self.folder / result_name(data, str(key))
            for suffix in RESULTS:  # what an earlier run made, with other weights perhaps
                base.with_name(f"{base.name}{suffix}").unlink(missing_ok=True)
            if not self.method:
                continue
            found = self._map(image.as_tensor()[None])
            source = str(image.meta["filename_or_obj"])
            affine = np.asarray(image.meta["original_affine"], dtype=float)
            shape = tuple(int(n) for n in image.meta["spatial_shape"])
            heat = on_grid(found, np.asarray(image.affine, dtype=float), affine, shape, 1)
            write_nifti(heat, affine, base.with_name(f"{base.name}_saliency.nii.gz"))
            score = float(torch.as_tensor(data[self.score_key]).reshape(()))
            picture = base.with_name(f"{base.name}_saliency.png")
            hu = read_scan(source)[0].numpy()
            draw_saliency(hu, heat, affine, picture, title=base.name, text=self._text(score))
        return dict(data)

    def _map(self, image: Tensor) -> Array:
        device = next(self.network.parameters()).device
        image = image.to(device)
        if self.method == "gradient":
            found = gradient_map(self.network, image, self.windows, self.layout)
        else:
            found = occlusion_map(self.network, image, self.windows, self.layout, self.progress)
        top = found.max()
        return np.asarray(found / top if top > 0 else found, np.float32)

    def _text(self, score: float) -> str:
        return f"probability of abnormal {score:.3f}   |   {self.method} map of the network"


def gradient_map(network: nn.Module, image: Tensor, windows: int, layout: str) -> Array:
    """Absolute value of image times gradient of the logit, summed over the windows: (D, H, W).

    Args:
        network: logits (1, 1) of a volume.
        image: (1, C, D', H, W), as `StackWindowsd` laid it.
        windows: how many.
        layout: how they lie.
    """
    with torch.enable_grad():
        inputs = image.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(network(inputs).sum(), inputs)
    evidence = unstacked((gradient * inputs.detach()).abs(), windows, layout)
    return np.asarray(ndimage.gaussian_filter(evidence[0].sum(0).cpu().numpy(), SMOOTH))


def occlusion_map(
    network: nn.Module, image: Tensor, windows: int, layout: str, progress: bool = True
) -> Array:
    """By how much the logit falls where a box is covered in all windows, at least 0: (D, H, W).

    MONAI's `OcclusionSensitivity`, by boxes of an eighth of each side (a quarter of the depth).

    Args:
        network: logits (1, 1) of a volume.
        image: (1, C, D', H, W), as `StackWindowsd` laid it.
        windows: how many.
        layout: how they lie.
        progress: show a bar.
    """
    volume = unstacked(image, windows, layout)
    stack = _Stacked(network, tuple(image.shape[1:])).eval()
    with torch.no_grad():
        start = time.perf_counter()
        whole = float(stack(volume))
        seconds = time.perf_counter() - start
        size = [max(1, volume.shape[2] // 4), *(max(1, n // 8) for n in volume.shape[3:])]
        passes = int(np.prod([-(-n // s) for n, s in zip(volume.shape[2:], size, strict=True)]))
        logger.info("occlusion: about %d passes, %.0f s", passes, passes * seconds)
        occlude = OcclusionSensitivity(
            stack, mask_size=size, n_batch=1, overlap=0.0, activate=False, verbose=progress
        )
        with warnings.catch_warnings():  # MONAI indexes by a list
            warnings.filterwarnings("ignore", message="Using a non-tuple sequence")
            covered = occlude(volume)[0]
    falls = (whole - covered[0, 0]).clamp_min(0)
    return np.asarray(falls.cpu().numpy())


class _Stacked(nn.Module):
    """The network on its windows as channels, so that a box covers a place in all of them."""

    def __init__(self, network: nn.Module, shape: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.shape = tuple(shape)

    def forward(self, volume: Tensor) -> Tensor:
        logits: Tensor = self.network(volume.reshape(-1, *self.shape))
        return logits

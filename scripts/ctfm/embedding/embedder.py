"""An encoder with its recipe: a scan's file to embeddings of its windows, or of places in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from ctfm.base.errors import UserError
from ctfm.base.types import Array
from ctfm.embedding.inferer import WindowEmbedder, embed_windows
from ctfm.embedding.inputs import apply_steps, preprocessing
from ctfm.embedding.recipes import POOLINGS, check_recipe, check_windows
from ctfm.embedding.windows import WindowGrid
from ctfm.imaging.grids import mm_to_voxels
from ctfm.inference.inferers.autocast import AutocastInferer
from ctfm.networks.encoders import PooledEncoder
from ctfm.weights.audit import fingerprint
from ctfm.weights.encoders import encoder_from

__all__ = ["Embedder"]


#: Voxels by which places are off that lie between two windows, for all that is rounded before.
TIE = 1e-3


class Embedder:
    """Embeddings as the bundles' inference makes them, outside of a bundle.

    Args:
        network: patches (N, 1, *patch) to embeddings (N, F).
        recipe: what decides the embeddings, as `ctfm.embedding.recipes.make_recipe` gives it.
        device: such as "cuda:0"; None: a GPU if there is one.
        amp: compute in the fast number format of the device; None: as the recipe says.
        sw_batch_size: windows that pass the encoder together.

    Attributes:
        recipe: as JSON holds it; its "amp" is what is done.
        fingerprint: sha256 of the encoder, as `EmbeddingTable` records it.

    Raises:
        UserError: the recipe makes no sense, or there is no such device.
    """

    def __init__(
        self,
        network: PooledEncoder,
        recipe: Mapping[str, Any],
        device: str | torch.device | None = None,
        amp: bool | None = None,
        sw_batch_size: int = 8,
    ) -> None:
        self.recipe = check_recipe(recipe)
        check_windows(self.recipe)
        self.recipe["amp"] = bool(self.recipe.get("amp", True) if amp is None else amp)
        self.patch: tuple[int, ...] = tuple(self.recipe["patch"])
        self.device = _usable(device or ("cuda:0" if torch.cuda.is_available() else "cpu"))
        self.fingerprint = fingerprint(network.state_dict())
        self.network = network.eval().to(self.device, memory_format=torch.channels_last_3d)
        self._inferer = AutocastInferer(enabled=self.recipe["amp"])
        self._windows = WindowEmbedder(
            self.patch,
            self.recipe["overlap"],
            sw_batch_size,
            skip_air=bool(self.recipe.get("skip_air", False)),
        )
        self.sw_batch_size = sw_batch_size

    @classmethod
    def load(
        cls,
        checkpoint: str,
        recipe: Mapping[str, Any],
        device: str | torch.device | None = None,
        amp: bool | None = None,
        sw_batch_size: int = 8,
    ) -> Embedder:
        """Read an encoder, of any width, out of any layout that `ctfm.weights` knows.

        Args:
            checkpoint: file, folder or repository id.
            recipe: as for the class, and so are the others.
            device: where it computes.
            amp: compute in the fast number format.
            sw_batch_size: windows that pass the encoder together.

        Raises:
            UserError: there is no encoder for CT in it, or the recipe makes no sense.
        """
        return cls(encoder_from(checkpoint), recipe, device, amp, sw_batch_size)

    def read(self, path: str, input_check: str = "error") -> MetaTensor:
        """A scan as the encoder sees it: resampled, cropped to the body, padded, scaled.

        Args:
            path: NIfTI, NRRD, MHA/MHD, or the folder of a DICOM series.
            input_check: what to do about values that are no CT's: "error", "warn" or "off".

        Returns:
            (1, D, H, W), axes SPL, float32, with its affine to mm, RAS+.

        Raises:
            UserError: it cannot be read, is no CT (with "error"), or shows nothing above 0 HU.
        """
        steps = preprocessing(self.recipe, input_check)
        image: MetaTensor = apply_steps(steps, {"image": path}, path)["image"]
        return image

    def prepare(self, scan: MetaTensor) -> MetaTensor:
        """What `read` returns, of a scan that was read and checked already.

        Args:
            scan: HU (1, X, Y, Z), axes as stored, as `ctfm.imaging.transforms.LoadScand` gives it.

        Raises:
            UserError: it shows nothing above 0 HU.
        """
        path = str(scan.meta.get("filename_or_obj", ""))
        steps = preprocessing(self.recipe, None)
        image: MetaTensor = apply_steps(steps, {"image": scan}, path)["image"]
        return image

    def grid(self, image: MetaTensor) -> WindowGrid:
        """The windows that the recipe lays over a scan of `read`."""
        return WindowGrid(tuple(image.shape[1:]), self.patch, self.recipe["overlap"])

    @torch.inference_mode()
    def window_map(self, image: MetaTensor, progress: bool = False) -> Tensor:
        """Embed the windows over a scan, each where it lies among the others.

        Args:
            image: of `read`.
            progress: show a bar, on a terminal.

        Returns:
            (F, D', H', W'), float32; nan for windows that were left out.

        Raises:
            UserError: all windows show air, or an embedding is not finite.
        """
        self._windows.progress = progress
        return self._windows(image[None], self.apply)[0]

    def windows(self, image: MetaTensor, progress: bool = False) -> tuple[Array, Array]:
        """Embed the windows over a scan; those of air are left out where the recipe says so.

        Args:
            image: of `read`.
            progress: show a bar, on a terminal.

        Returns:
            Embeddings (N, F), float32, and centres of the windows in mm, RAS+, (N, 3).

        Raises:
            UserError: all windows show air, or an embedding is not finite.
        """
        rows = self.window_map(image, progress).flatten(1).T.numpy()
        kept = np.isfinite(rows[:, 0])
        return rows[kept], self.grid(image).centres(image.affine.numpy())[kept]

    def at(self, image: MetaTensor, points_mm: Any) -> Array:
        """Embed windows centred at places; there is air beyond the edge of the scan.

        Args:
            image: of `read`.
            points_mm: RAS+, (M, 3); the nearest window whose corner is a whole voxel is taken.

        Returns:
            (M, F), float32.

        Raises:
            UserError: a window lies outside of the scan's body altogether.
        """
        return self.embed(image, self.starts_at(image, points_mm))

    def starts_at(self, image: MetaTensor, points_mm: Any) -> Array:
        """First voxel of the window centred at each place.

        Args:
            image: of `read`.
            points_mm: RAS+, (M, 3).

        Returns:
            (M, 3), whole numbers, negative ones where a window reaches over the edge.

        Raises:
            UserError: a place is no place, or its window lies outside altogether.
        """
        points = np.asarray(points_mm, dtype=float)
        if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
            raise UserError(f"points have shape {points.shape}: give x,y,z in mm of each")
        voxels = mm_to_voxels(image.affine, points)
        # the middle of a voxel is voxel patch // 2 of its window, as in the published search
        starts = np.ceil(voxels - np.asarray(self.patch) / 2 - TIE).astype(int)
        outside = (starts + self.patch <= 0) | (starts >= image.shape[1:])
        if outside.any():
            first = points[outside.any(axis=1)][0]
            spelled = ", ".join(f"{mm:.1f}" for mm in first)
            raise UserError(
                f"the place {spelled} mm lies outside of the body that the scan shows: give "
                "world coordinates x,y,z in mm, right, anterior and superior being positive"
            )
        return starts

    @torch.inference_mode()
    def embed(self, image: MetaTensor, starts: Array, progress: bool = False) -> Array:
        """Embed windows by their first voxels.

        Args:
            image: of `read`.
            starts: (N, 3); a part of each window lies inside.
            progress: show a bar, on a terminal.

        Returns:
            (N, F), float32.

        Raises:
            UserError: an embedding is not finite.
        """
        rows: Array = embed_windows(
            image, starts, self.patch, self.apply, self.sw_batch_size, progress
        ).numpy()
        return rows

    def pooled(self, embeddings: Array) -> Array:
        """One descriptor (F,), float32, of a scan's embeddings (N, F), by the recipe's pooling."""
        pool = POOLINGS[self.recipe["pooling"]]
        pooled: Array = pool(np.asarray(embeddings, dtype=np.float64), axis=0).astype(np.float32)
        return pooled

    def apply(self, patches: Tensor) -> Tensor:
        """Patches (n, 1, *patch), scaled, on any device, to embeddings (n, F) on the encoder's."""
        embeddings: Tensor = self._inferer(patches.to(self.device), self.network)
        return embeddings


def _usable(device: str | torch.device) -> torch.device:
    """The device, once it is certain that tensors can lie on it."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"device is {device}: it cannot be used here ({reason}): give cpu or cuda:0, or none"
        ) from error

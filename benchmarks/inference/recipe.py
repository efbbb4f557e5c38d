"""CT-FM's recipe around an engine, from a file to labels on its grid; what it is measured on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.networks.nets import SegResNetDS
from monai.transforms import (
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    ScaleIntensityRanged,
    Spacingd,
)
from torch import Tensor, nn

from ctfm.inference import InvertLabelsd
from ctfm.phantoms import draw_torso, write_volume

SPACING_MM = 1.5
STEPS, CROP = 700, 64
FITTED = {"init_filters": 8, "blocks_down": (1, 1, 1, 1), "dsdepth": 1, "out_channels": 118}


def preprocessing() -> Compose:
    """From a file to the network's input."""
    return Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", "SPL", labels=None),
            Spacingd("image", (SPACING_MM,) * 3, mode="bilinear"),
            ScaleIntensityRanged("image", -1024, 2048, 0, 1, clip=True),
            CropForegroundd("image", source_key="image", margin=10, allow_smaller=True),
        ]
    )


def file_to_labels(
    path: str, engine: str, labels: Callable[[Tensor, nn.Module], Tensor], network: nn.Module
) -> Tensor:
    """The label map (1, X, Y, Z) on the file's grid."""
    steps = preprocessing()
    row = steps({"image": path})
    batch = row["image"][None]
    found = labels(batch, network)
    label = MetaTensor(found.as_subclass(Tensor)[0], affine=row["image"].affine)
    if engine == "ours":
        back: Any = InvertLabelsd("pred", "image", steps)
    else:
        back = Invertd("pred", steps, "image", nearest_interp=True, to_tensor=True)
    result: Tensor = back({"image": row["image"], "pred": label})["pred"]
    return result.as_subclass(Tensor).to(torch.uint8)


def write_scan(path: Path, shape: list[int]) -> Path:
    """A part of a drawn torso, of so many voxels on the network's grid, at 2 mm."""
    phantom = draw_torso(0, (2.0, 2.0, 2.0))
    depth, height, width = (round(n * SPACING_MM / 2.0) for n in shape)
    middle = [n // 2 for n in phantom.image.shape]
    spans = [
        slice(m - n // 2, m - n // 2 + n)
        for m, n in zip(middle, (width, height, depth), strict=True)
    ]
    write_volume(phantom.image[tuple(spans)], phantom.affine, path)
    return path


def write_weights(path: Path) -> Path:
    """A narrow network of 118 classes, fitted for some steps to a phantom, so that it is sure."""
    torch.manual_seed(0)
    phantom = draw_torso(0, (3.0, 3.0, 3.0))
    image = torch.from_numpy(phantom.image.transpose(2, 1, 0).copy()).float()
    image = ((image + 1024) / 3072).clamp(0, 1)
    label = torch.from_numpy(phantom.label.transpose(2, 1, 0).copy()).long()
    network = SegResNetDS(**FITTED).to(memory_format=torch.channels_last_3d).train()
    optimizer = torch.optim.AdamW(network.parameters(), 4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, STEPS)
    for _ in range(STEPS):
        corner = [int(torch.randint(n - CROP + 1, ())) for n in image.shape]
        span = tuple(slice(c, c + CROP) for c in corner)
        patches = image[span][None, None]
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(patches.contiguous(memory_format=torch.channels_last_3d))
        logits = logits[0] if isinstance(logits, list) else logits
        loss = nn.functional.cross_entropy(logits.float(), label[span][None])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    print(f"fitted: loss {loss.item():.3f}", flush=True)
    torch.save(network.eval().state_dict(), path)
    return path

"""How fast are scans embedded, and is it the same embedding?

One slab of a torso is brought from file to the embeddings of all its windows by the steps of
CT-FM's published script for 3D-MIR, and by ours, with the same encoder of published size and
random weights, each in a process of its own, in turn.

    make bench NAME=embedding
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import SlidingWindowSplitter
from monai.transforms import (
    Compose,
    CropForegroundd,
    EnsureTyped,
    Lambda,
    LoadImaged,
    Orientationd,
    ScaleIntensityRanged,
    Spacingd,
)
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.reporting import Row, report
from ctfm.contract import SEGRESNET
from ctfm.embedding import Embedder, make_recipe
from ctfm.networks import PooledEncoder
from ctfm.phantoms import draw_torso, write_volume

#: mm of the phantom's voxels, and its slices that are kept.
DRAWN = (1.5, 1.5, 3.0)
SLICES = slice(60, 100)
ROUNDS = 3
RECIPE = make_recipe("mir")


def encoder() -> PooledEncoder:
    """The published architecture; random weights."""
    torch.manual_seed(0)
    width = {k: SEGRESNET.arguments[k] for k in ("init_filters", "blocks_down")}
    return PooledEncoder(spatial_dims=3, in_channels=1, **width).eval()


class Patches(IterableDataset):
    """What the splitter yields, as a data set."""

    def __init__(self, patches: Any) -> None:
        self.patches = patches

    def __iter__(self) -> Iterator[Any]:
        yield from self.patches


@torch.no_grad()
def published(path: str) -> np.ndarray:
    """The published script's steps: float32, torch's default layout, batches of 32."""
    read = Compose(
        [
            LoadImaged("image", ensure_channel_first=True),
            EnsureTyped("image"),
            Orientationd("image", "SPL", labels=None),
            Spacingd("image", RECIPE["spacing"], mode="bilinear"),
            CropForegroundd("image", source_key="image", allow_smaller=True),
            ScaleIntensityRanged("image", -1024, 2048, 0, 1, clip=True),
            Lambda(lambda row: row["image"].as_tensor()),
        ]
    )
    network, image = encoder(), read({"image": path})
    splitter = SlidingWindowSplitter(tuple(RECIPE["patch"]), RECIPE["overlap"])
    loader = DataLoader(Patches(splitter(image[None])), batch_size=32)
    return torch.cat([network(batch.squeeze(1)) for batch, _ in loader]).numpy()


def ours(path: str, amp: bool) -> np.ndarray:
    embedder = Embedder(encoder(), RECIPE, device="cpu", amp=amp)
    return embedder.windows(embedder.read(path))[0]


def work(side: str, path: str, out: str) -> None:
    """Embed once in this process, and print the seconds."""
    start = time.perf_counter()
    found = published(path) if side == "published" else ours(path, amp=side == "ours")
    print(time.perf_counter() - start)
    np.save(out, found)


def throughput(folder: Path) -> list[Row]:
    """Seconds of each side, and how far their embeddings differ."""
    phantom = draw_torso(0, DRAWN)
    write_volume(phantom.image[..., SLICES], phantom.affine, folder / "ct.nii.gz")
    sides = ("ours", "ours, float32", "published")
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(ROUNDS):
        for side in sides:
            command = [
                sys.executable,
                __file__,
                "--worker",
                side,
                str(folder / "ct.nii.gz"),
                str(folder / f"{side}.npy"),
            ]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            seconds[side].append(float(done.stdout.split()[-1]))
    rate = {side: 60 / statistics.median(some) for side, some in seconds.items()}
    found = {side: np.load(folder / f"{side}.npy") for side in sides}
    print({side: array.shape for side, array in found.items()})
    return [
        Row(
            f"scans a minute, {len(found['ours'])} windows",
            "the published script's steps",
            rate["ours"],
            rate["published"],
            "1/min",
            "ratio >= 2",
            True,
        ),
        Row(
            "the same, both in float32",
            "the published script's steps",
            rate["ours, float32"],
            rate["published"],
            "1/min",
            None,
            True,
        ),
        Row(
            "least cosine to the published embedding",
            None,
            cosine(found["ours"], found["published"]),
            None,
            "",
            ">= 0.999",
        ),
        Row(
            "the same in float32",
            None,
            cosine(found["ours, float32"], found["published"]),
            None,
            "",
            ">= 0.99999",
        ),
    ]


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """The least of all windows."""
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(((first * second).sum(1) / lengths).min())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(*options.worker)
        return
    with tempfile.TemporaryDirectory() as name:
        rows = throughput(Path(name))
    report("embedding", rows, threads=torch.get_num_threads(), rounds=ROUNDS, recipe=RECIPE)


if __name__ == "__main__":
    main()

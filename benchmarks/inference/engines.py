"""One engine on one volume in this process: seconds, memory and labels. Run by inference.py.

    python benchmarks/inference/engines.py '{"engine": "ours", "shape": [200, 256, 256], ...}'

It prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import SegResNetDS
from torch import Tensor, nn

from benchmarks.inference.recipe import file_to_labels
from ctfm.inference import LabelMapInferer

CLASSES = 118


class Timed(nn.Module):
    """Adds up the seconds spent in a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seconds = 0.0
        self.windows = 0

    def forward(self, patches: Tensor) -> Any:
        """The network's output."""
        start = time.perf_counter()
        outputs = self.network(patches)
        self.seconds += time.perf_counter() - start
        self.windows += len(patches)
        return outputs


class Memory:
    """The largest resident memory within a block, above what there was before it, in bytes.

    Linux tells it by VmHWM, which is reset first; elsewhere a thread looks ten times a second.
    """

    def __enter__(self) -> Memory:
        self.before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        return self

    def __exit__(self, *_error: Any) -> None:
        self.peak = _status("VmHWM") - self.before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


def build(task: dict[str, Any]) -> nn.Module:
    """The network: a stand-in that costs little, or SegResNetDS."""
    torch.manual_seed(0)
    if task["network"] == "stand-in":
        return nn.Sequential(nn.Conv3d(1, 32, 3, padding=1), nn.Conv3d(32, CLASSES, 1)).eval()
    width = {"real": (32, (1, 2, 2, 4, 4), 4), "narrow": (8, (1, 1, 1, 1), 1)}[task["network"]]
    network = SegResNetDS(
        init_filters=width[0], blocks_down=width[1], dsdepth=width[2], out_channels=CLASSES
    ).eval()
    if "weights" in task:
        network.load_state_dict(torch.load(task["weights"], weights_only=True))
    return network.to(memory_format=torch.channels_last_3d) if task["layout"] else network


def volume(task: dict[str, Any]) -> Tensor:
    """(1, 1, D, H, W), from 0 to 1."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 1, *task["shape"], generator=generator)


def ours(task: dict[str, Any]) -> Callable[[Tensor, nn.Module], Tensor]:
    return LabelMapInferer(
        task["roi"],
        overlap=task["overlap"],
        mode="gaussian",
        amp=task["amp"],
        sw_batch_size=None,
    )


def monai(task: dict[str, Any]) -> Callable[[Tensor, nn.Module], Tensor]:
    """CT-FM's recipe: sliding window, softmax, argmax; `buffered` as MONAI offers it."""
    buffers = {"buffer_steps": 1, "buffer_dim": 0} if task.get("buffered") else {}
    inferer = SlidingWindowInferer(task["roi"], overlap=task["overlap"], mode="gaussian", **buffers)

    def labels(image: Tensor, network: nn.Module) -> Tensor:
        logits = inferer(image, network)
        if task.get("softmax"):
            logits = torch.softmax(logits, 1)
        found = logits.argmax(1, keepdim=True).to(torch.uint8)
        if "compare" in task:
            task["differences"] = differences(found, logits, task["compare"])
        return found

    return labels


def nnunet(task: dict[str, Any]) -> Callable[[Tensor, nn.Module], Tensor]:
    """nnU-Net v2's own predictor around the same network, without mirroring."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=1 - task["overlap"],
        use_mirroring=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.configuration_manager = SimpleNamespace(patch_size=tuple(task["roi"]))
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=CLASSES)

    def labels(image: Tensor, network: nn.Module) -> Tensor:
        predictor.network = network
        logits = predictor.predict_sliding_window_return_logits(image[0])
        return logits.argmax(0)[None, None].to(torch.uint8)

    return labels


def differences(found: Tensor, logits: Tensor, path: str) -> dict[str, float]:
    """How other labels differ from these: share of voxels, and the largest lead that is lost."""
    others = torch.load(path, weights_only=True)
    different = (found != others)[0, 0]
    places = different.nonzero(as_tuple=True)
    ours_, theirs = others[0, 0][places].long(), found[0, 0][places].long()
    values = logits[0][:, places[0], places[1], places[2]]
    lost = values.gather(0, theirs[None]) - values.gather(0, ours_[None])
    return {
        "share": different.double().mean().item(),
        "lost": float(lost.max()) if len(ours_) else 0.0,
    }


ENGINES = {"ours": ours, "monai": monai, "nnunet": nnunet}


@torch.no_grad()
def run(task: dict[str, Any]) -> dict[str, Any]:
    """Run the engine once, after libraries were warmed up on a window."""
    network = Timed(build(task))
    image = None if "scan" in task else volume(task)
    network(torch.rand(1, 1, 32, 32, 32))
    network.seconds = network.windows = 0
    apply = ENGINES[task["engine"]](task)
    start = time.perf_counter()
    with Memory() as memory:
        if image is None:
            found = file_to_labels(task["scan"], task["engine"], apply, network)
        else:
            found = apply(image, network)
        total = time.perf_counter() - start
    if "save" in task:
        torch.save(found.as_subclass(Tensor).clone(), task["save"])
    return {
        "seconds": total,
        "network": network.seconds,
        "windows": network.windows,
        "bytes": memory.peak - found.numel() * found.element_size(),
        "threads": threading.active_count(),
        **task.get("differences", {}),
        **(
            agreement(found, torch.load(task["versus"], weights_only=True))
            if "versus" in task
            else {}
        ),
    }


def agreement(found: Tensor, others: Tensor) -> dict[str, float]:
    """Share of equal voxels, and Dice averaged over the classes of either."""
    pairs = found.flatten().long() * CLASSES + others.flatten().long()
    table = torch.bincount(pairs, minlength=CLASSES * CLASSES).reshape(CLASSES, CLASSES).double()
    sizes = table.sum(0) + table.sum(1)
    there = sizes > 0
    there[0] = False
    dice = 2 * table.diagonal()[there] / sizes[there]
    return {"equal": (found == others).double().mean().item(), "dice": dice.mean().item()}


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))

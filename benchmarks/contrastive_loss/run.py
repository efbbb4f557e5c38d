"""How fast is CT-FM's loss within a scan, forward and backward, against loops over scans and crops?

Peers: the definition written as loops, and the published loss itself, where a checkout of the
public CT-FM code is given. Each engine has its turns in a process of its own, with one thread, and
starts from what its network gives: ours from one tensor, the others from a list of crops, each a
list of views. Of every engine it is checked that the loss and the gradient are the definition's.

    make bench NAME=contrastive_loss ARGS="--peer FOLDER"

FOLDER holds loss/intrasample_ntxent_loss.py.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from benchmarks.reporting import Row, report
from ctfm.contract import PRETRAINING
from ctfm.training import IntraSampleNTXentLoss

SCANS, CROPS, DIM, TEMPERATURE = 4, PRETRAINING.crops, 128, PRETRAINING.temperature
ROUNDS, WARM_UP, SEED = 5, 10, 0
OURS = "ours"
PUBLISHED = Path("loss") / "intrasample_ntxent_loss.py"

#: Crops, of each crop both views, each a tensor (B, dim) as encoders give them.
Crops = list[list[Tensor]]
Loss = Callable[[Crops], Tensor]


def loops(crops: Crops) -> Tensor:
    """The definition: scan by scan, crop by crop."""
    unit = [[normalize(view, dim=1) for view in views] for views in crops]
    first = torch.zeros(1, dtype=torch.long, device=unit[0][0].device)
    losses = []
    for scan in range(SCANS):
        for anchor, positive in unit:
            others = [views for views in unit if views[0] is not anchor]
            negatives = torch.stack([view[scan] for views in others for view in views])
            candidates = torch.cat([positive[scan][None], negatives])
            logits = anchor[scan][None] @ candidates.T / TEMPERATURE
            losses.append(cross_entropy(logits, first))
    return torch.stack(losses).mean()


def published(folder: Path) -> Loss:
    """The loss of a checkout of the public CT-FM code."""
    spec = importlib.util.spec_from_file_location("published", folder / PUBLISHED)
    if spec is None or spec.loader is None:
        sys.exit(f"error: {folder / PUBLISHED} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loss: Loss = module.IntraSampleNTXEntLoss(temperature=TEMPERATURE)
    return loss


def draw(device: str) -> Tensor:
    """Embeddings (B, crops, 2, dim)."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.randn(SCANS, CROPS, 2, DIM, generator=generator).to(device).requires_grad_()


def as_lists(embeddings: Tensor) -> Crops:
    """Copies that have gradients of their own."""
    views = embeddings.detach().permute(1, 2, 0, 3)
    return [[view.clone().requires_grad_() for view in pair] for pair in views]


def run_engine(name: str, loss: Any, device: str, seconds: float) -> float:
    """Median milliseconds of forward and backward."""
    torch.set_num_threads(1)
    embeddings, crops = draw(device), as_lists(draw(device))
    leaves = [embeddings] if name == OURS else [view for views in crops for view in views]

    def learn() -> float:
        # the published loss writes into its list, which is a new one each time
        value = loss(embeddings if name == OURS else [list(views) for views in crops])
        value.backward()
        if device == "cuda":
            torch.cuda.synchronize()
        return float(value.detach())

    check(learn(), leaves, device)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) <= WARM_UP or time.perf_counter() < end:
        for leaf in leaves:
            leaf.grad = None
        start = time.perf_counter()
        learn()
        times.append(time.perf_counter() - start)
    return 1000 * median(times[WARM_UP:])


def check(value: float, leaves: list[Tensor], device: str) -> None:
    """Whether an engine's value and gradients are the definition's."""
    crops = as_lists(draw(device))
    expected = loops(crops)
    expected.backward()
    gradients = torch.stack([torch.stack([view.grad for view in views]) for views in crops])
    found = [leaf.grad for leaf in leaves]
    if len(found) == 1:
        gradients = gradients.permute(2, 0, 1, 3)
    torch.testing.assert_close(value, expected.item())
    torch.testing.assert_close(torch.stack(found).view(gradients.shape), gradients)


def run_engines(engines: list[str], device: str, arguments: list[str]) -> dict[str, float]:
    """Medians over rounds in which each engine has its turn."""
    found: dict[str, list[float]] = {name: [] for name in engines}
    for name in engines * ROUNDS:
        command = [sys.executable, __file__, *arguments, f"--engine={name}", f"--device={device}"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        found[name].append(json.loads(done.stdout))
    return {name: median(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer", type=Path, help="checkout of the public CT-FM code")
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    parser.add_argument("--device", help=argparse.SUPPRESS)
    options = parser.parse_args()
    engines: dict[str, Callable[[], Any]] = {
        OURS: lambda: IntraSampleNTXentLoss(TEMPERATURE),
        "loops": lambda: loops,
    }
    if options.peer and (options.peer / PUBLISHED).exists():
        engines["published"] = lambda: published(options.peer)
    if options.engine:
        loss = engines[options.engine]()
        print(run_engine(options.engine, loss, options.device, options.seconds))
        return
    if "published" not in engines:
        print(f"published: skipped, {options.peer or 'no folder'} has no {PUBLISHED}: pass --peer")
    rows = []
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        milliseconds = run_engines(list(engines), device, sys.argv[1:])
        figure, mine = f"forward and backward, {device}", milliseconds.pop(OURS)
        rows += [
            Row(figure, peer, mine, theirs, "ms", "ratio >= 30", larger_is_better=False)
            for peer, theirs in milliseconds.items()
        ]
    report("contrastive_loss", rows, scans=SCANS, crops=CROPS, dim=DIM, threads=1)


if __name__ == "__main__":
    main()

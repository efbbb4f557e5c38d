"""What every engine of the loading benchmark shares: settings, measuring, one line of JSON.

A module of engines ends with ``main(ENGINES)`` and runs each of them in a process of its own:

    python benchmarks/loading/engine_monai.py ENGINE SETTINGS.json

prints {"items", "seconds", "unit", ...} or {"skipped": reason}. Settings:

    folder          receives caches and preprocessed copies, which are kept
    scans           paths of CTs, for views
    rows            datalist of image and label at 1.5 mm, for crops
    workers         processes or threads that load (2)
    seconds         to measure (20); whole rounds are counted, so it may take longer
    warm_up         seconds before that (10); nnU-Net tries out its ways of smoothing at first
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from ctfm.contract import PRETRAINING, SEGRESNET, WHOLE_BODY

Settings = Mapping[str, Any]
Result = dict[str, Any]
Engine = Callable[[Settings], Result]

DEFAULTS = {"workers": 2, "seconds": 20, "warm_up": 10}
BUNDLES = Path(__file__).parents[2] / "bundles"
VIEWS = PRETRAINING.crops * PRETRAINING.views
CLASSES = SEGRESNET.out_channels
BATCH, PATCH = WHOLE_BODY.batch_size, WHOLE_BODY.patch


def whole_body_transforms() -> list[Any]:
    """The random transforms of the whole-body bundle."""
    parser = ConfigParser()
    parser.read_config(BUNDLES / "ct_fm_whole_body_segmentation" / "configs" / "train.json")
    return list(parser.get_parsed_content("train::random_transforms"))


def measure(
    batches: Iterator[Mapping[str, Any]],
    settings: Settings,
    items: int,
    unit: str,
    batches_per_round: int = 2,
) -> Result:
    """Take batches as fast as they come, `items` crops or views in each.

    Whole rounds are counted, so that batches which arrive together are counted together. At least
    two of them warm up.
    """

    def rounds(seconds: float, at_least: int) -> tuple[int, float, Mapping[str, Any]]:
        batch: Mapping[str, Any] = {}
        start, done = time.perf_counter(), 0
        while time.perf_counter() - start < seconds or done < at_least:
            for _ in range(batches_per_round):
                batch = next(batches)
            done += 1
        return done, time.perf_counter() - start, batch

    rounds(settings["warm_up"], at_least=2)
    done, seconds, batch = rounds(settings["seconds"], at_least=1)
    tensors = {key: described(value) for key, value in batch.items()}
    return {
        "items": done * batches_per_round * items,
        "seconds": seconds,
        "unit": unit,
        "batch": {key: value for key, value in tensors.items() if value},
    }


def described(value: Any) -> Any:
    """Shape and type of a tensor of a batch."""
    if isinstance(value, dict) and "data" in value:  # TorchIO
        value = value["data"]
    return [*value.shape, str(value.dtype)] if isinstance(value, torch.Tensor) else None


def main(engines: Mapping[str, Engine], packages: Mapping[str, tuple[str, ...]]) -> None:
    """Run the engine that the command line names.

    Args:
        engines: by name.
        packages: whose versions are reported, by the part of the name before the first ``_``.
    """
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("engine", choices=engines)
    parser.add_argument("settings", type=Path, help="a JSON file")
    options = parser.parse_args()
    settings = {**DEFAULTS, **json.loads(options.settings.read_text())}
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(sys.stderr):  # peers print
        result = engines[options.engine](settings)
    if "skipped" not in result:
        used = packages[options.engine.split("_")[0]]
        result["versions"] = {package: version(package) for package in used}
    print(json.dumps(result))

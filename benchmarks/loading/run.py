"""How fast are training samples loaded, against the peers, on the same cores and the same scans?

One real CT is brought to clinical size for pretraining (512x512x256, .nii.gz) and to 32 scans at
1.5 mm with 117 classes for whole-body training. Every engine runs in a process of its own, the
engines in turn, for several rounds; medians are reported. Peers whose packages are not installed
are skipped by name; `engine_peers.py` says how to make an environment for them.

    make bench NAME=loading ARGS="--data FOLDER [--peers-python PYTHON] [--only views]"

FOLDER holds ct_torso_3mm.nii.gz and ct_torso_3mm_labels_fast.nii.gz, which are test files of
TotalSegmentator.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.bundles import DATA
from benchmarks.loading.scans import make_pretraining_scan, make_training_set, missing
from benchmarks.reporting import Row, report

HERE = Path(__file__).parent
ENGINES = {
    "views": {
        "ours_dali_views": "engine_ours.py",
        "ours_operators_views": "engine_ours.py",
        "ours_torch_views": "engine_ours.py",
        "monai_nifti_views": "engine_monai.py",
        "monai_cached_views": "engine_monai.py",
        "copy_limit_views": "engine_peers.py",
    },
    "crops": {
        "ours_dali_crops": "engine_ours.py",
        "ours_operators_crops": "engine_ours.py",
        "ours_torch_crops": "engine_ours.py",
        "monai_cached_crops": "engine_monai.py",
        "nnunet_crops": "engine_peers.py",
        "torchio_queue_crops": "engine_peers.py",
        "copy_limit_crops": "engine_peers.py",
    },
    "build": {"ours_build": "engine_ours.py", "monai_build": "engine_monai.py"},
}
#: Measured once: it does not depend on the clock, or is a profile.
ONCE = {"ours_bytes": "engine_ours.py", "ours_stages": "engine_ours.py"}
#: Engines that live in the peers' environment.
APART = ("nnunet_crops", "torchio_queue_crops")
#: Ours, figure, peer's engine, what it is called, target.
COMPARISONS = (
    ("dali_views", "monai_nifti_views", "MONAI, the recipe reading .nii.gz", "ratio >= 25"),
    ("dali_views", "monai_cached_views", "MONAI, PersistentDataset", "ratio >= 3"),
    ("operators_views", "monai_cached_views", "MONAI, PersistentDataset", None),
    ("torch_views", "monai_cached_views", "MONAI, PersistentDataset", None),
    ("dali_crops", "monai_cached_crops", "MONAI, PersistentDataset", "ratio >= 5"),
    ("operators_crops", "monai_cached_crops", "MONAI, PersistentDataset", None),
    ("torch_crops", "monai_cached_crops", "MONAI, PersistentDataset", None),
    ("dali_crops", "nnunet_crops", "nnU-Net v2", "ratio >= 2"),
    ("dali_crops", "torchio_queue_crops", "TorchIO Queue", "ratio >= 4"),
    ("build", "monai_build", "MONAI transforms", "ratio >= 3"),
)
NAMES = {
    "dali_views": ("pretraining views by DaliLoader", "views/s"),
    "operators_views": ("pretraining views by DALI's CPU operators", "views/s"),
    "operators_crops": ("whole-body crops by DALI's CPU operators", "crops/s"),
    "torch_views": ("pretraining views by torch's loader", "views/s"),
    "dali_crops": ("whole-body crops by DaliLoader", "crops/s"),
    "torch_crops": ("whole-body crops by torch's loader", "crops/s"),
    "build": ("store build", "scans/min/core"),
}


def measured(engine: str, module: str, settings: Path, python: str) -> dict[str, Any]:
    """What an engine prints; {"skipped": reason} where it cannot run."""
    done = subprocess.run(
        [python, str(HERE / module), engine, str(settings)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        return {"skipped": f"ended with exit code {done.returncode}"}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def rounds(options: argparse.Namespace, settings: Path) -> dict[str, list[dict[str, Any]]]:
    """Every engine once a round, so that a machine that slows down slows all of them."""
    results: dict[str, list[dict[str, Any]]] = {}
    for number in range(options.rounds):
        for group, engines in ENGINES.items():
            for engine, module in engines.items() if options.only in (None, group) else ():
                if any("skipped" in result for result in results.get(engine, ())):
                    continue
                python = options.peers_python if engine in APART else sys.executable
                result = measured(engine, module, settings, python)
                results.setdefault(engine, []).append(result)
                print(f"round {number + 1}  {engine:<22}{told(result)}", flush=True)
    for engine, module in ONCE.items():
        results[engine] = [measured(engine, module, settings, sys.executable)]
    return results


def told(result: dict[str, Any]) -> str:
    """A result on one line."""
    if "skipped" in result:
        return f"skipped: {result['skipped']}"
    return f"{result['items'] / result['seconds']:.2f} {result['unit']}/s"


def rate(results: dict[str, list[dict[str, Any]]], engine: str) -> float | None:
    """Median of items a second; scans a minute for builds. None: not measured."""
    found = [r for r in results.get(engine, ()) if "skipped" not in r]
    if not found:
        return None
    factor = 60 if engine.endswith("_build") else 1
    return factor * median(r["items"] / r["seconds"] for r in found)


def comparisons(results: dict[str, list[dict[str, Any]]]) -> Iterator[Row]:
    """A row for each peer that was measured."""
    for name, engine, peer, target in COMPARISONS:
        ours, theirs = rate(results, f"ours_{name}"), rate(results, engine)
        if ours is not None and theirs is not None:
            figure, unit = NAMES[name]
            yield Row(figure, peer, ours, theirs, unit, target, larger_is_better=True)


def shares(results: dict[str, list[dict[str, Any]]]) -> Iterator[Row]:
    """What is left to gain, and what is read."""
    for what in ("views", "crops"):
        ours, limit = rate(results, f"ours_dali_{what}"), rate(results, f"copy_limit_{what}")
        if ours is not None and limit is not None:
            yield Row(f"{what}: share of the copy limit", None, 100 * ours / limit, None, "%", None)
        read = results["ours_bytes"][0].get(what)
        if read is not None:
            figure = f"{what}: bytes read from disk for bytes needed, cold"
            yield Row(figure, None, read, None, "bytes/byte", "<= 3")
        for stage, ms in results["ours_stages"][0].get(what, {}).items():
            yield Row(f"{what}, one core: {stage}", None, ms, None, "ms", None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--folder", type=Path, help="keeps scans and caches (a temporary one)")
    parser.add_argument("--peers-python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=ENGINES)
    options = parser.parse_args()
    if name := missing(options.data):
        sys.exit(f"{options.data} has no {name}: pass --data FOLDER")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "folder": str(folder),
            "scans": [str(make_pretraining_scan(folder, options.data))],
            "rows": make_training_set(folder, options.data),
            "workers": options.workers,
            "seconds": options.seconds,
            "warm_up": options.seconds / 2,
        }
        file = folder / "settings.json"
        file.write_text(json.dumps(settings))
        results = rounds(options, file)
    rows = [*comparisons(results), *shares(results)]
    skipped = {e: r[0]["skipped"] for e, r in results.items() if "skipped" in r[0]}
    versions = {k: v for r in results.values() for k, v in r[0].get("versions", {}).items()}
    variants = {e: r[0]["variants"] for e, r in results.items() if "variants" in r[0]}
    name = "loading" if options.only is None else f"loading_{options.only}"
    report(
        name,
        rows,
        seconds=options.seconds,
        rounds=options.rounds,
        workers=options.workers,
        versions=versions,
        skipped=skipped,
        variants=variants,
    )


if __name__ == "__main__":
    main()

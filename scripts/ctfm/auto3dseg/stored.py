"""`loader: dali`: the scans of a task converted once, for all folds, and crops read by region.

What MONAI's loader keeps in memory, once for each fold and process, lies in a folder of the work
dir here. Crops get the same augmentation, draw by draw, from compiled code, or on a GPU from DALI.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing import current_process
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from ctfm.auto3dseg.options import Options
from ctfm.auto3dseg.recipe import Recipe
from ctfm.base.errors import UserError
from ctfm.base.files import atomic_path
from ctfm.base.optional import require
from ctfm.contract.tasks import WHOLE_BODY
from ctfm.loading.loader import StoreLoader
from ctfm.loading.store.building import build_store
from ctfm.loading.store.index import Store
from ctfm.loading.store.sampling import ClassCrops

__all__ = ["check_loader", "convert_scans", "crops", "has_packages", "loader_of", "values_of"]

logger = logging.getLogger(__name__)

#: The datalist that a store is built from, in its folder.
LISTED = "scans.json"
#: Its store holds, at any voxel size, what MONAI's loader makes of a scan.
TASK = "whole_body"


def check_loader(options: Options) -> None:
    """Are the packages there that the loader needs on this machine?

    Raises:
        UserError: one is not installed; says how to install it.
    """
    if options["loader"] != "dali":
        return
    extra = "dali" if torch.cuda.is_available() else "store"
    for module in _packages():
        require(module, purpose="train with loader: dali", extra=extra)


def has_packages() -> bool:
    """The same as an answer; nothing is imported."""
    try:
        return all(find_spec(module) for module in _packages())
    except ModuleNotFoundError:  # of a package's parent
        return False


def _packages() -> list[str]:
    """On a CPU compiled code is faster than DALI, which need not be there."""
    return ["blosc2", "numba", *(["nvidia.dali"] if torch.cuda.is_available() else [])]


def store_of(options: Options) -> Path:
    """Folder of the store: all folds share it, and each voxel size has its own."""
    size = "x".join(f"{mm:g}" for mm in options.recipe.spacing)
    folder = options.folder / str(options["store_path"])
    return Path(os.path.normpath(folder)) / f"{size}mm"


def convert_scans(options: Options) -> Path:
    """Convert the scans of all folds, or those of them that are new; processes take turns.

    Returns:
        Folder of the store.

    Raises:
        UserError: a package is missing, or a scan cannot be converted.
    """
    if getattr(current_process(), "_inheriting", False):  # it would wait for its own parent
        raise UserError("loader: dali converts scans: call the training below `if __name__ == ...`")
    check_loader(options)
    folder = store_of(options)
    base = Path(os.path.normpath(options.folder / options["data_file_base_dir"]))
    lists = ConfigParser.load_config_file(options.folder / options["data_list_file_path"])
    keys = ("image", "label", "fold")
    rows = [{key: row[key] for key in keys if key in row} for row in lists["training"]]
    with _turn(folder):
        _write_if_new(folder / LISTED, json.dumps({"training": rows}, indent=1) + "\n")
        depth, height, width = options.recipe.spacing
        build_store(
            str(folder / LISTED),
            str(folder),
            TASK,
            base_dir=str(base),
            spacing=(depth, height, width),
            workers=_converters(folder, rows, options["num_workers"]),
            max_failures=1.0,  # all that are unsound are named, not the first alone
            input_check=options.recipe.input_check,
        )
    if failures := Store(folder).failures:
        name, reason = next(iter(failures.items()))
        raise UserError(
            f"{len(failures)} of {len(rows)} scans cannot be converted (first: {name}: {reason}): "
            "correct them, or take them out of the datalist and make the folds anew"
        )
    return folder


def _converters(folder: Path, rows: list[dict[str, Any]], given: int | None) -> int | None:
    """Processes that convert; a store that is complete is looked through without any."""
    try:
        done = {entry.name for entry in Store(folder).entries}
    except UserError:  # there is none yet
        done = set()
    if done >= {row["image"] for row in rows}:
        return 1
    return None if given is None else max(1, int(given))


def _write_if_new(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Let one process at a time convert: a fold's, or another fold's that trains beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows has none, and no several processes either
        yield
        return
    with (folder / ".lock").open("a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            logger.warning("%s: the file system has no locks: train one fold at a time", folder)
        yield


def values_of(numbering: dict[int, int]) -> list[list[int]]:
    """The label values of each number from 1."""
    numbers = range(1, 1 + max(numbering.values()))
    return [[v for v, number in numbering.items() if number == n] for n in numbers]


def crops(options: Options, classes: list[list[int]]) -> ClassCrops:
    """The crops that a fold trains on.

    Args:
        options: of the fold.
        classes: label values of each class, in the order in which the network counts them.

    Raises:
        UserError: there is no store, or it is not sound.
    """
    recipe: Recipe = options.recipe
    return ClassCrops(
        str(store_of(options)),
        recipe.roi_size,
        classes,
        ratios=[WHOLE_BODY.background_ratio, *[WHOLE_BODY.class_ratio] * len(classes)],
        seed=int(options["seed"]),
        spacing=recipe.spacing,
        fold=options["fold"],
        hu_window=recipe.hu_window,
    )


def loader_of(
    options: Options,
    samples: ClassCrops,
    transforms: list[Any],
    device: torch.device,
    threads: int,
) -> StoreLoader:
    """Batches on a device.

    Args:
        options: of the fold.
        samples: of `crops`.
        transforms: random ones, of image and label.
        device: of the network.
        threads: that read and augment.

    Raises:
        UserError: DALI is needed and not installed.
    """
    batch = int(options["batch_size"])
    if device.type == "cpu":
        return StoreLoader(samples, transforms, batch, threads)
    from ctfm.loading.dali.loader import DaliLoader

    return DaliLoader(samples, transforms, batch, device, threads)

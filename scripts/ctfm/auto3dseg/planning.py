"""The config of a fold: decisions from the data, and above them what the user's input file says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ctfm.auto3dseg import decisions
from ctfm.auto3dseg.options import DEFAULTS, OTHER_NAMES, merge, understood
from ctfm.auto3dseg.statistics import Statistics
from ctfm.auto3dseg.stored import has_packages

__all__ = ["of_copy", "plan"]

#: Options that are paths, relative to the fold's folder where they can be.
PATHS = ("data_list_file_path", "data_file_base_dir", "store_path", "pretrained")


def plan(
    source: Mapping[str, Any],
    statistics: Statistics,
    defaults: Mapping[str, Any],
    folder: Path,
    fold: int,
) -> dict[str, Any]:
    """All options of a fold.

    Args:
        source: the user's input file.
        statistics: of the data.
        defaults: of the template; null is decided here.
        folder: of the fold; paths inside the work dir become relative to it, so that it can move.
        fold: number of the fold that is validated on.

    Raises:
        UserError: classes are not understood.
    """
    known = DEFAULTS.keys() | OTHER_NAMES.keys()  # the file also holds what is Auto3DSeg's own
    chosen = {key: value for key, value in understood(source).items() if key in known}
    if chosen.get("network", {}) is None:
        del chosen["network"]
    network = {**decisions.network(), **(defaults["network"] or {})}
    values = merge({**defaults, "network": network}, chosen)
    names, index = decisions.classes(statistics, values["class_names"], bool(values["sigmoid"]))
    values |= {
        "fold": fold,
        "modality": str(source["modality"]),
        "ckpt_path": "model",
        "data_list_file_path": _portable(source["datalist"], folder),
        "data_file_base_dir": _portable(source["dataroot"], folder),
        "class_names": names,
        "class_index": index,
        "store_path": "../store",
    }
    if not isinstance(values["learning_rate"], Mapping):  # so that each can be searched for
        values["learning_rate"] = dict.fromkeys(("encoder", "decoder"), values["learning_rate"])
    if values["pretrained"] is not None and Path(str(values["pretrained"])).expanduser().exists():
        values["pretrained"] = _portable(Path(values["pretrained"]).expanduser(), folder)
    return _decide(values, statistics)


def of_copy(
    values: Mapping[str, Any], old: Path, new: Path, params: Mapping[str, Any]
) -> dict[str, Any]:
    """The config of a fold that is copied to be trained with other parameters.

    Args:
        values: config of the fold.
        old: its folder.
        new: the copy's; relative paths lead from there to the same files.
        params: options above the config; what is none is left out, since a search for
            hyper-parameters passes its own settings too.

    Raises:
        UserError: an option cannot be set.
    """
    moved = dict(values)
    for name in PATHS:
        path = str(values[name])
        inside = Path(os.path.normpath(old / path))
        if values[name] is not None and not Path(path).is_absolute() and _leads(name, inside):
            moved[name] = os.path.relpath(inside, new)
    known = DEFAULTS.keys() | OTHER_NAMES.keys()
    chosen = {
        name: value
        for name, value in understood(params).items()
        if name.replace("#", "::").partition("::")[0] in known
    }
    return merge(moved, chosen)


def _leads(name: str, path: Path) -> bool:
    """Whether an option is a path: that of an encoder may be an id of Hugging Face."""
    return name != "pretrained" or path.exists()


def _decide(values: dict[str, Any], statistics: Statistics) -> dict[str, Any]:
    """Fill what is null, each from what stands before it."""
    memory, devices = _gpu_memory_gib(), torch.cuda.device_count()

    def fill(name: str, decide: Any, *arguments: Any) -> None:
        if values.get(name) is None:
            decided = decide(*arguments)
            values[name] = list(decided) if isinstance(decided, tuple) else decided

    fill("intensity", decisions.intensity, values["modality"])
    fill("input_check", lambda kind: "error" if kind == "hu" else "off", values["intensity"])
    fill("hu_window", decisions.hu_window, statistics, values)
    fill("spacing", decisions.spacing, statistics)
    fill("roi_size", decisions.roi_size, statistics, values["spacing"], memory)
    fill("batch_size", decisions.batch_size, values["roi_size"], memory)
    fill("num_epochs", decisions.num_epochs, len(statistics.cases))
    fill("num_epochs_per_validation", decisions.validation_interval, values["num_epochs"])
    fill("flips", decisions.flips, values["class_names"])
    free = _free_memory_bytes()
    fill("cache", decisions.cache, statistics, values["spacing"], devices, free)
    fill("loader", decisions.loader, values["intensity"], values["cache"], has_packages())
    return values


def _portable(path: str | Path, folder: Path) -> str:
    """Relative to the fold's folder, if it lies in the work dir or was given relative."""
    absolute = Path(path).absolute()
    if Path(path).is_absolute() and not absolute.is_relative_to(folder.parent):
        return str(absolute)
    return os.path.relpath(absolute, folder)


def _gpu_memory_gib() -> float | None:
    """Of the smallest GPU; None: there is none."""
    sizes = [
        torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())
    ]
    return min(sizes) / 2**30 if sizes else None


def _free_memory_bytes() -> float:
    """Of this machine; 0 where the system does not tell."""
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return 0.0

"""A bundle packed for one of its tasks: the overlay of the task goes into what it stands on.

An overlay with a part `metadata` is that of a task. Its ids are set in the entry points that have
them, and what it says of the task, with its classes, in metadata.json. What is then left needs no
overlay: the zip is the bundle of that task. Nothing heavy is imported here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ctfm.base.errors import UserError
from ctfm.release.files import read_metadata

__all__ = ["applied", "packed_name", "task_overlays"]

ENTRY_POINTS = ("train.json", "inference.json")
METADATA = "metadata"
#: Where the runs of a task lie in a bundle of several tasks; a bundle of one has no need of it.
VARIANT = "variant"
CLASSES = "class_names"
README = "docs/README.md"


def task_overlays(root: Path) -> dict[str, dict[str, Any]]:
    """The overlays of tasks that a bundle has, by their names.

    Raises:
        UserError: an overlay is no YAML.
    """
    found = {}
    for path in sorted((root / "configs").glob("*.yaml")):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError) as error:
            raise UserError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
        if isinstance(content, dict) and isinstance(content.get(METADATA), dict):
            found[path.stem] = content
    return found


def packed_name(bundle: str, overlay: str) -> str:
    """What the bundle of one task is called; without _, as MONAI takes a name apart at _v."""
    return f"{bundle}_{overlay.replace('_', '')}"


def applied(root: Path, overlay: str) -> dict[str, bytes | None]:
    """The files that differ in the bundle of one task.

    Args:
        root: the bundle's folder.
        overlay: name of the task's overlay, without .yaml.

    Returns:
        Path in the bundle -> content; None: the file is left out, as all tasks' overlays are.

    Raises:
        UserError: there is no such overlay of a task, or it names ids that no entry point has.
    """
    overlays = task_overlays(root)
    if overlay not in overlays:
        listed = f"choose one of {', '.join(overlays)}" if overlays else "this bundle has none"
        raise UserError(f"{root.name} has no overlay of a task called {overlay!r}: {listed}")
    content = dict(overlays[overlay])
    said = content.pop(METADATA)
    content.pop(VARIANT, None)
    files: dict[str, bytes | None] = {f"configs/{name}.yaml": None for name in overlays}
    unused = set(content)
    for name in ENTRY_POINTS:
        config = json.loads((root / "configs" / name).read_text(encoding="utf-8"))
        unused -= {spelled for spelled, value in content.items() if _set(config, spelled, value)}
        files[f"configs/{name}"] = _as_json(config)
    if unused:
        raise UserError(f"{overlay}.yaml sets {', '.join(sorted(unused))}; no entry point has that")
    metadata = {**read_metadata(root), **said}
    _describe_classes(metadata, content.get(CLASSES, ()))
    files["configs/metadata.json"] = _as_json(metadata)
    files[README] = _readme(root, overlay, str(metadata["task"]))
    return files


def _set(config: dict[str, Any], spelled: str, value: Any) -> bool:
    """Set a nested id (``a::b``) that is there; whether it was."""
    *parents, last = spelled.split("::")
    node: Any = config
    for parent in parents:
        node = node.get(parent) if isinstance(node, Mapping) else None
    if not isinstance(node, dict) or last not in node:
        return False
    node[last] = value
    return True


def _describe_classes(metadata: dict[str, Any], names: Sequence[str]) -> None:
    """Say which channels and label values there are."""
    if not names:
        return
    channels = {"0": "background", **{str(i): name for i, name in enumerate(names, start=1)}}
    spelled = "0 is background, " + ", ".join(
        f"{i} {name}" for i, name in channels.items() if i != "0"
    )
    metadata["label_classes"] = f"one channel: {spelled}"
    metadata["pred_classes"] = f"{len(channels)} channels: {spelled}"
    formats = metadata["network_data_format"]
    formats["outputs"]["pred"] |= {"num_channels": len(channels), "channel_def": channels}
    formats["post_processed_outputs"]["pred"]["value_range"] = [0, len(names)]


def _readme(root: Path, overlay: str, task: str) -> bytes:
    """The bundle's page, with a word before it on what this zip is."""
    page = (root / README).read_text(encoding="utf-8")
    note = (
        f"> **This zip is for one task: {task}.** It is the bundle that the page below describes, "
        f"with its overlay `{overlay}` applied: leave that overlay out of every command, and read "
        f"`models` for `models/{overlay}`.\n\n"
    )
    return (note + page).encode()


def _as_json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=4, ensure_ascii=False) + "\n").encode()

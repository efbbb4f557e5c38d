"""How much memory is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

__all__ = ["available_bytes"]

#: Files of a control group, version 2 and 1: limit, usage, and what of it can be given back.
FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def available_bytes(device: torch.device, root: Path = Path("/")) -> int | None:
    """Memory that can still be taken on a device; None: the system does not tell.

    On CPUs, the smaller of what the system has and what the control groups of this process leave
    it, so that containers are seen. Where there is no `/proc`, the physical memory, in use or not.

    Args:
        device: a GPU, or the CPU.
        root: of the file system that is read.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    if device.type != "cpu":
        return None
    known = [n for n in (_system(root), *_control_groups(root)) if n is not None]
    return min(known) if known else _physical()


def _system(root: Path) -> int | None:
    text = _read(root / "proc/meminfo")
    found = [line.split()[1] for line in text.splitlines() if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def _control_groups(root: Path) -> Iterator[int]:
    """What each limit that holds for this process leaves."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        names = {*controllers.split(",")} & FILES.keys()
        for name in names:
            base = root / "sys/fs/cgroup" / name
            # inside a container the group's own path may not be mounted: its root is the group then
            for group in (Path(path.lstrip("/")), *Path(path.lstrip("/")).parents):
                left = _left(base / group, *FILES[name])
                if left is not None:
                    yield left


def _left(folder: Path, limit_file: str, usage_file: str, reclaimable: str) -> int | None:
    limit, usage = _read(folder / limit_file).strip(), _read(folder / usage_file).strip()
    if not (limit.isdigit() and usage.isdigit()):  # "max": no limit
        return None
    statistics = dict(
        line.split(maxsplit=1) for line in _read(folder / "memory.stat").splitlines() if line
    )
    return max(int(limit) - int(usage) + int(statistics.get(reclaimable, 0)), 0)


def _physical() -> int | None:
    names = getattr(os, "sysconf_names", {})  # not on Windows
    if not {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= {*names}:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""

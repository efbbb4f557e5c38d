"""Commands on stores: scans converted once, to be read by region at full speed."""

from __future__ import annotations

from typing import Literal

from ctfm.commands.calling import report

__all__ = ["build", "check", "info"]


def build(
    source: str,
    task: str,
    out: str,
    *,
    base_dir: str | None = None,
    spacing: tuple[float, ...] | None = None,
    workers: int | None = None,
    max_failures: float = 0.05,
    input_check: Literal["error", "warn", "off"] = "error",
) -> None:
    """Convert the scans that are new or changed; the same command continues after a stop.

    Args:
        source: datalist (JSON), or scans: a file, a folder or a pattern in quotes
        task: pretraining, whole_body, head_ct_triage or a tumour task such as lung_tumor
        out: folder of the store
        spacing: voxel size in mm, axes SPL; default: the task's
        max_failures: share of the scans that may fail before the build stops
    """
    report("ctfm.loading:build_store", **locals())


def check(folder: str, *, prune: bool = False) -> None:
    """Decode every file and compare it with what was written; not while a build runs.

    Args:
        folder: the store
        prune: delete files that no scan of the store needs, in place of listing them
    """
    report("ctfm.loading.store.inspection:check", **locals())


def info(folder: str) -> None:
    """Print what a store holds: counts, sizes, spacing, HU statistics, classes, failures.

    Args:
        folder: the store
    """
    report("ctfm.loading.store.inspection:info", **locals())

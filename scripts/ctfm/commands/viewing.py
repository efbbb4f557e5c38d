"""The command that shows scans on a page."""

from __future__ import annotations

from typing import Any

from ctfm.commands.calling import call, split_folders

__all__ = ["view"]


def view(scan: str | None, options: dict[str, Any]) -> str:
    """Run `ctfm.search.open_view`.

    Args:
        scan: the scan; None: only NiiVue is installed.
        options: all the rest.
    """
    from ctfm.search import open_view

    if options.get("index") is not None:
        options["index"] = split_folders(options["index"])
    for name in ("labels", "heat", "checkpoint", "scans"):  # Fire takes 2024 for a number
        if options.get(name) is not None:
            options[name] = str(options[name])
    return str(call(open_view, None if scan is None else str(scan), **options))

"""The command that shows scans on a page."""

from __future__ import annotations

from typing import Any

from ctfm.commands.calling import call

__all__ = ["view"]


def view(scan: str | None, options: dict[str, Any]) -> str:
    """Run `ctfm.viewing.view`.

    Args:
        scan: the scan; None: only NiiVue is installed.
        options: all the rest.
    """
    from ctfm import viewing

    return str(call(viewing.view, None if scan is None else str(scan), **options))

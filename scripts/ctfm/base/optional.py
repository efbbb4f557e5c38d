"""Optional dependencies: imported where they are used, or the line that installs them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from ctfm.base.errors import UserError

__all__ = ["require"]


def require(module: str, *, purpose: str, extra: str | None = None) -> ModuleType:
    """Import an optional dependency, or say how to install it.

    Args:
        module: dotted name of the module to import, e.g. ``"nvidia.dali"``.
        purpose: what it is needed for, completing "… is needed to …".
        extra: the extra of this distribution that installs it; None: the top-level package itself.

    Raises:
        UserError: the module is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = f'"ct-fm-bundles[{extra}]"' if extra else module.partition(".")[0]
        raise UserError(
            f"{module} is needed to {purpose} and is not installed: pip install {package}"
        ) from error

"""Errors that a user can cause end in one line and a non-zero exit, not in a traceback."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from types import TracebackType

__all__ = ["UserError", "explain_in_one_line", "one_line"]

#: What torch's loader makes of an error in a worker process: its traceback, as text.
OF_WORKER = re.compile(rf"^{re.escape(__name__)}\.UserError: (.+)$", re.MULTILINE)
EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class UserError(Exception):
    """Something a user can put right: what was wrong, the value, and what to do."""


def explain_in_one_line() -> None:
    """Report a `UserError` (or Ctrl-C) that nobody caught as one line, not as a traceback.

    Other exceptions keep their traceback: those are defects, and the traceback is the report.
    MONAI's config parser wraps what a component raises, so the whole chain is looked through.
    """
    sys.excepthook = _excepthook


def one_line(error: BaseException) -> str | None:
    """The message for an error that a user caused, on one line; None for any other error."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted: what was finished is kept; the same command continues or starts again"
    for link in _chain(error):
        if "DataLoader worker" in str(link) and (told := OF_WORKER.search(str(link))):
            return " ".join(told[1].split())
        if isinstance(link, UserError):
            return " ".join(str(link).split())
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _excepthook(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    message = one_line(error)
    if message is None:
        sys.__excepthook__(kind, error, traceback)
    else:
        sys.stdout.flush()
        print(f"error: {message}", file=sys.stderr, flush=True)

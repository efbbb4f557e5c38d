"""Several processes write to one index: whoever comes second tries again."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from ctfm.base.errors import UserError

__all__ = ["patiently"]

Result = TypeVar("Result")

#: What LanceDB says once it has tried again itself, for some 30 s.
CONFLICT = re.compile(r"conflict|contention|concurrent|preempted", re.IGNORECASE)
ATTEMPTS = 6
#: Seconds before the second attempt; each further wait is twice as long, give or take a half.
WAIT = 0.5


def patiently(action: Callable[[], Result], folder: object) -> Result:
    """Do what changes an index, again where other processes changed it meanwhile.

    Args:
        action: either changes all or, where it raises, nothing.
        folder: the index, for the message.

    Raises:
        UserError: others were faster each time. Any other error comes through.
    """
    for attempt in range(ATTEMPTS):
        try:
            return action()
        except (RuntimeError, OSError, ValueError) as error:
            if not CONFLICT.search(str(error)):
                raise
            reason = " ".join(str(error).split())[:160]
        if attempt < ATTEMPTS - 1:
            time.sleep(WAIT * 2**attempt * random.uniform(0.5, 1.5))
    raise UserError(
        f"{folder}: other processes changed the index at each of {ATTEMPTS} attempts ({reason}): "
        "what was reported is kept; start the same command again, with fewer processes"
    )

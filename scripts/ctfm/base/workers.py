"""The same work on many items, in several processes: in order, with progress, ended by Ctrl-C."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from tqdm import tqdm

from ctfm.base.errors import UserError

__all__ = ["in_processes"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int | None = None,
    *,
    task: str,
    kept: str | None = None,
    start: Callable[[], object] | None = None,
    method: str | None = None,
    chunk: int = 1,
) -> list[Result]:
    """Call a function on each item, in as many processes, with a progress bar on a terminal.

    Args:
        function: of one item; what it raises ends the run.
        items: what to work on.
        workers: processes; None: as many as this process may use cores; 1: none but this one.
        task: what is done, such as "merging masks", for the bar and for messages.
        kept: what a run that was stopped leaves, such as "what was merged is kept".
        start: called first in every process.
        method: how processes start, such as "spawn"; None: the system's way.
        chunk: items that are handed out together; more for work that takes below a millisecond.

    Returns:
        One result an item, in their order.

    Raises:
        UserError: `workers` is below 1, or a process was killed.
    """
    if workers is not None and (
        isinstance(workers, bool) or not isinstance(workers, int) or workers < 1
    ):
        raise UserError(f"workers is {workers!r}: give a whole number from 1")
    count = min(workers or _cores(), len(items))
    if count <= 1:
        return _watched(map(function, items), len(items), task)
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(count, context, _start_worker, (start,)) as pool:
        try:
            return _watched(pool.map(function, items, chunksize=chunk), len(items), task)
        except BrokenProcessPool as error:
            raise UserError(
                f"a process was killed while {task}, most likely for want of memory: give fewer "
                f"than {count} --workers{f'; {kept}' if kept else ''}"
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _watched(results: Iterable[Result], total: int, task: str) -> list[Result]:
    bar: dict[str, Any] = {"total": total, "desc": task, "unit": "scan", "disable": None}
    return list(tqdm(results, **bar))


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start_worker(start: Callable[[], object] | None) -> None:
    """Leave Ctrl-C to the parent, which lets running items end; do not outlive it if killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if start is not None:
        start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

"""Build a store: each scan converted once, in parallel; what is finished is never lost."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ctfm.base.errors import UserError
from ctfm.contract.tasks import Triple
from ctfm.imaging.scans import describe
from ctfm.loading.store.conversion import Volume, convert_scan
from ctfm.loading.store.index import INDEX, Entry, Store, path_of, write_index
from ctfm.loading.store.jobs import Job, content_key, find_jobs, sources_of
from ctfm.loading.store.recipe import StoreRecipe, store_recipe
from ctfm.loading.store.volumes import read_meta, voxel_digest, write_array

__all__ = ["build_store"]

logger = logging.getLogger(__name__)

#: Seconds between two writes of the index; a kill loses no converted scan, only rows of it.
INDEX_EVERY = 30.0
#: Failures that are tolerated before their share is looked at.
FAILURES_AT_LEAST = 3
#: Progress, where there is a terminal.
BAR: dict[str, Any] = {"unit": "scan", "disable": None, "desc": "store"}


def build_store(
    source: str,
    out: str,
    task: str,
    base_dir: str | None = None,
    spacing: Triple | None = None,
    workers: int | None = None,
    max_failures: float = 0.05,
    input_check: str = "error",
) -> Path:
    """Convert the scans of a datalist, or of a folder, into a store.

    A scan is converted when its content or the recipe is new, and only then; the same command goes
    on where it was stopped. Files that no row needs any more are left: `ctfm store check --prune`.

    Args:
        source: datalist (JSON) with training, validation and test lists; or a scan, a folder or a
            pattern, all of which become the training list.
        out: folder of the store.
        task: pretraining, whole_body, head_ct_triage, or a tumour task such as lung_tumor.
        base_dir: folder that the datalist's paths are relative to; None: the datalist's own.
        spacing: mm, axes SPL; None: the task's.
        workers: processes; None: as many as there are cores.
        max_failures: share of the scans that may fail; above it the build stops.
        input_check: what to do about values that are no CT's: "error", "warn" or "off".

    Returns:
        The index of the store.

    Raises:
        UserError: no scans, a store of another recipe in `out`, or too many failures.
    """
    made_by, folder = store_recipe(task, spacing), Path(out)
    _check_options(workers, max_failures, input_check)
    earlier = _earlier_store(folder, made_by)
    entries = {(entry.split, entry.name): entry for entry in earlier.entries} if earlier else {}
    jobs = list(find_jobs(source, base_dir, folder, entries))
    if not jobs:
        raise UserError(f"{source}: names no scan")
    rows = entries if earlier and earlier.recipe == made_by else {}
    return _Build(folder, made_by, jobs, rows, max_failures).run(workers, input_check)


def _check_options(workers: object, max_failures: object, input_check: object) -> None:
    if workers is not None and not (isinstance(workers, int) and workers > 0):
        raise UserError(f"workers is {workers!r}: give a whole number from 1")
    if not isinstance(max_failures, int | float) or not 0 <= max_failures <= 1:
        raise UserError(f"max_failures is {max_failures!r}: give a share from 0 to 1")
    if input_check not in ("error", "warn", "off"):
        raise UserError(f"input_check is {input_check!r}: choose error, warn or off")


class _Build:
    """One run: which scans are done, which failed, and when the index was last written."""

    def __init__(
        self,
        folder: Path,
        made_by: StoreRecipe,
        jobs: Sequence[Job],
        known: Mapping[tuple[str, str], Entry],
        max_failures: float,
    ) -> None:
        self.folder = folder
        self.recipe = made_by
        self.jobs = jobs
        self.known = known
        self.limit = max(FAILURES_AT_LEAST, int(max_failures * len(jobs))) if max_failures else 0
        self.done: dict[tuple[str, str], Entry] = {}
        self.failures: dict[tuple[str, str], str] = {}
        self.converted = self.kept = 0
        self.written = time.monotonic()

    def run(self, workers: int | None, input_check: str) -> Path:
        """Convert, and write the index whatever happens."""
        self._write()
        try:
            outcomes = _in_parallel(self.jobs, self.folder, self.recipe, input_check, workers)
            with closing(outcomes):
                for job, outcome in outcomes:
                    self._note(job, outcome)
        finally:
            self._write()
        logger.info(
            "%s: %d scans, %d converted, %d were there already, %d failed",
            self.folder,
            self.converted + self.kept,
            self.converted,
            self.kept,
            len(self.failures),
        )
        if not self.done:
            raise UserError(f"{self.folder}: no scan could be converted; reasons in {INDEX}")
        return self.folder / INDEX

    def _note(self, job: Job, outcome: tuple[Entry, bool] | str) -> None:
        if isinstance(outcome, str):
            self.failures[job.split, job.name] = outcome
            logger.warning("failed: %s: %s", job.name, outcome)
            if len(self.failures) > self.limit:
                raise UserError(
                    f"{len(self.failures)} of {len(self.jobs)} scans failed, more than "
                    f"max_failures allows (last: {job.name}: {outcome}); what was converted is "
                    "kept; repair them, or raise --max_failures"
                )
        else:
            entry, new = outcome
            self.done[job.split, job.name] = entry
            self.converted += new
            self.kept += not new
        if time.monotonic() - self.written > INDEX_EVERY:
            self._write()

    def _write(self) -> None:
        """Rows in the datalist's order: those of this run, and of the last one until replaced."""
        rows = []
        for job in self.jobs:
            key = (job.split, job.name)
            entry = self.done.get(key) or self.known.get(key)
            if entry is not None and key not in self.failures:
                rows.append(entry)
        failures = {name: reason for (_, name), reason in self.failures.items()}
        write_index(self.folder, self.recipe, rows, failures)
        self.written = time.monotonic()


def _earlier_store(folder: Path, made_by: StoreRecipe) -> Store | None:
    """What an earlier build left, at this spacing or at another one."""
    if not (folder / INDEX).is_file():
        return None
    earlier = Store(folder)
    if earlier.recipe.task != made_by.task:
        raise UserError(
            f"{folder} is a store for {earlier.recipe.task}, not for {made_by.task}: choose "
            "another --out"
        )
    return earlier


def _in_parallel(
    jobs: Sequence[Job], folder: Path, made_by: StoreRecipe, input_check: str, workers: int | None
) -> Generator[tuple[Job, tuple[Entry, bool] | str], None, None]:
    """Outcomes as they come; few jobs are handed out ahead, so that a stop stops soon."""
    count = min(workers or os.cpu_count() or 1, len(jobs))
    if count == 1:
        for job in tqdm(jobs, **BAR):
            yield job, _convert_job(job, folder, made_by, input_check)
        return
    waiting = iter(jobs)
    running: dict[Future[Any], Job] = {}
    bar = tqdm(total=len(jobs), **BAR)
    pool = ProcessPoolExecutor(count, get_context("spawn"), initializer=_start_worker)
    try:
        while True:
            with _interrupts_held():
                for job in islice(waiting, count + 1 - len(running)):
                    running[pool.submit(_convert_job, job, folder, made_by, input_check)] = job
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
                bar.update()
    except (BrokenProcessPool, MemoryError) as error:
        raise UserError(
            f"a worker process died ({type(error).__name__}), most likely for want of memory: use "
            "fewer --workers (in a script, call build below `if __name__ == '__main__'`); the same "
            "command goes on"
        ) from error
    finally:
        bar.close()
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C comes after the block; what is started inside never hears of it: the parent does."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _convert_job(
    job: Job, folder: Path, made_by: StoreRecipe, input_check: str
) -> tuple[Entry, bool] | str:
    """The scan's row and whether it is new, or why it failed.

    Raises:
        UserError: the store cannot be written to, which is no failure of the scan.
    """
    try:
        sources = sources_of(job)
        key = content_key(job, sources, made_by)
        image, label = (path_of(folder, key, what) for what in ("image", "label"))
        entry = Entry(
            key, job.split, job.name, (0, 0, 0), job.label is not None, sources, dict(job.extra)
        )
        with suppress(UserError):  # a file that is missing or cut short is written again
            if job.label is not None:
                read_meta(label)
            return replace(entry, shape=tuple(read_meta(image)["shape"])), False
        volume = convert_scan(job.image, job.label, made_by, input_check)
    except Exception as error:
        return describe(error).removeprefix(f"{job.image}: ")
    if volume.label is not None:
        _write_label(label, volume)
    _write_image(image, volume, job)  # last: with it the scan is finished
    return replace(entry, shape=volume.image.shape), True


def _write_image(path: Path, volume: Volume, job: Job) -> None:
    write_array(
        path,
        volume.image,
        {
            "name": job.name,
            "shape": list(volume.image.shape),
            "affine": volume.affine.tolist(),
            "box": [list(corner) for corner in volume.box],
            "source_affine": volume.source_affine.tolist(),
            "source_shape": list(volume.source_shape),
            "hu": volume.hu,
            "voxels": voxel_digest(volume.image),
        },
    )


def _write_label(path: Path, volume: Volume) -> None:
    assert volume.label is not None
    positions = {str(i): p.tobytes() for i, p in volume.positions.items()}
    meta = {"positions": positions, "voxels": voxel_digest(volume.label)}
    write_array(path, volume.label, meta)

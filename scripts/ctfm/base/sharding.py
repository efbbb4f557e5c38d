"""Many scans over many processes, whoever starts them: which part of the scans is this one's?

A scan's name alone decides: scans that come later, or a folder that two workers list at different
moments, move no scan from one part to another. Parts are therefore of nearly, not exactly, one
size: of 100,000 scans in 64 parts, a part has 1,562, give or take 40.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ctfm.base.errors import UserError

__all__ = ["Shard", "find_shard", "local_device", "take_shard"]

logger = logging.getLogger(__name__)

Environment = Mapping[str, str]

#: Tasks of an array know their number. How many parts there are they do not know for sure: a few
#: that are started again are an array of few.
ARRAYS = {"SLURM_ARRAY_TASK_ID": "a Slurm array", "JOB_COMPLETION_INDEX": "a Kubernetes Job"}
#: Processes of one command line: number and how many of them. srun alone sets the second of
#: Slurm's, so that a command of a batch script without srun is not taken for one of many.
LAUNCHERS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))
LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID")


@dataclass(frozen=True)
class Shard:
    """A part of the scans.

    Attributes:
        index: from 0.
        count: parts in all; 1: there is nothing but this process.
    """

    index: int = 0
    count: int = 1

    def holds(self, name: str) -> bool:
        """Whether a scan of this name belongs to the part."""
        digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.index

    @property
    def report(self) -> str:
        """The file name of its report: each part writes its own."""
        if self.count == 1:
            return "report.json"
        digits = len(str(self.count - 1))
        return f"report-{self.index:0{digits}}-of-{self.count}.json"

    def __str__(self) -> str:
        return f"shard {self.index} of {self.count}"


def find_shard(
    shard: int | None = None, shards: int | None = None, environment: Environment | None = None
) -> Shard:
    """Which part is this process's, as it was told, or as its launcher says.

    torchrun and srun start all processes with one command line, and say how many they are. Arrays
    (Slurm, Kubernetes) say which task this is: `shards` is needed. Where each task of an array
    starts several processes, the parts are theirs: `shards` counts them all.

    Args:
        shard: from 0; None: as the launcher says.
        shards: how many parts there are in all; None: as many as processes were launched; 1: this
            process does everything, whoever launched it.
        environment: of the process; None: this one's.

    Raises:
        UserError: there is no such part, or an array does not say how many there are.
    """
    environment = os.environ if environment is None else environment
    _check("shards", shards, 1)
    _check("shard", shard, 0)
    if shard is not None:
        return _within(shard, shards, "add --shards, the number of all")
    if shards == 1:
        return Shard()
    process, processes = _launched(environment)
    task = next((name for name in ARRAYS if environment.get(name)), None)
    if task is None or shards == processes:  # one launcher for all tasks counts for itself
        if shards not in (None, processes):
            raise UserError(
                f"shards is {shards}, and {processes} processes were launched: add --shard, which "
                f"of {shards} this one is, or launch {shards} processes"
            )
        return Shard(process, processes)
    if shards is None:
        raise UserError(
            f"this is task {environment[task]} of {ARRAYS[task]}: add --shards N, the number of "
            "all tasks, if they share the scans, or --shards 1 if each is given its own"
        )
    index = _number(environment, task) * processes + process
    return _within(index, shards, f"tasks of {ARRAYS[task]} count from 0, and --shards is of all")


def take_shard(
    scans: Sequence[dict[str, Any]], shard: Shard, key: str = "name"
) -> list[dict[str, Any]]:
    """The scans of a part: a `_target_` for configs.

    Args:
        scans: rows of `ctfm.imaging.scans.find_scans`.
        shard: of `find_shard`.
        key: item that names the scan.
    """
    mine = [row for row in scans if shard.holds(str(row[key]))]
    if shard.count > 1:
        logger.info("%s: %d of %d scans", shard, len(mine), len(scans))
    return mine


def local_device(gpus: int, environment: Environment | None = None) -> str:
    """The device of this process: the processes of a machine take its GPUs in turn.

    Args:
        gpus: that this process sees.
        environment: of the process; None: this one's.

    Returns:
        Such as "cuda:1"; "cpu" where there is no GPU.

    Raises:
        UserError: the launcher's number is none.
    """
    environment = os.environ if environment is None else environment
    if gpus == 0:
        return "cpu"
    name = next((name for name in LOCAL_RANKS if environment.get(name)), None)
    return f"cuda:{0 if name is None else _number(environment, name) % gpus}"


def _launched(environment: Environment) -> tuple[int, int]:
    """Number of this process, and how many there are."""
    for index, count in LAUNCHERS:
        if environment.get(index) and environment.get(count):
            number, processes = _number(environment, index), _number(environment, count)
            _within(number, processes, f"{index} and {count} are a launcher's: leave them to it")
            return number, processes
    return 0, 1


def _number(environment: Environment, name: str) -> int:
    try:
        return int(environment[name])
    except ValueError as error:
        raise UserError(
            f"{name} is {environment[name]!r} in the environment, and no number: unset it, or add "
            "--shard and --shards"
        ) from error


def _within(index: int, count: int | None, remedy: str) -> Shard:
    if count is None or not 0 <= index < count:
        of = "" if count is None else f" of {count}"
        raise UserError(f"there is no shard {index}{of}: they count from 0; {remedy}")
    return Shard(index, count)


def _check(name: str, value: Any, least: int) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and (not whole or value < least):
        raise UserError(f"{name} is {value!r}: give a whole number from {least}")

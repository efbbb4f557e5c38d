"""Commands that keep embeddings of many scans in an index on disk."""

from __future__ import annotations

from ctfm.commands.calling import report

__all__ = ["add", "build", "check", "export", "info"]


def add(
    *folders: str,
    index: str,
    metadata: str | None = None,
    prefix: str = "",
    build: bool | None = None,
    shard: int | None = None,
    shards: int | None = None,
) -> None:
    """Add embeddings, each row once: a stopped run can be repeated.

    Several processes may add to one index at the same time: each, started by torchrun or srun or
    with --shards in arrays, takes its part of the files.

    Args:
        folders: outputs of the feature extractor's inference, with embeddings.parquet in them
        index: folder of the index; made where there is none
        metadata: CSV with a column scan, whose other columns can be searched by
        prefix: put before the names of the scans, for data sets that use the same names
        build: make the approximate index; default: above 200,000 rows, if nobody else adds
    """
    report("ctfm.search:add_embeddings", **locals())


def build(folder: str, *, shard: int | None = None, shards: int | None = None) -> None:
    """Make the approximate index, for searches among more than 200,000 rows.

    Args:
        folder: the index
        shards: parts in all; default: as many as processes were started; 1: one part, with small
            files put together before
    """
    report("ctfm.search:build_index", **locals())


def info(folder: str) -> None:
    """Print what an index holds.

    Args:
        folder: the index
    """
    report("ctfm.search:describe_index", **locals())


def check(folder: str) -> None:
    """Read every row; what is wrong ends in one line and a non-zero exit.

    Args:
        folder: the index
    """
    report("ctfm.search:check_index", **locals())


def export(folder: str, out: str) -> None:
    """Write an index as Parquet, which vector servers import.

    Args:
        folder: the index
        out: file to write; ends in .parquet
    """
    report("ctfm.search:export_index", **locals())

"""The commands that search: an index of embeddings, a location of one scan in another, a page."""

from __future__ import annotations

from typing import Any

from ctfm.base.errors import UserError
from ctfm.commands.calling import call, join_numbers, split_folders

__all__ = ["Indexes", "locate", "search", "view"]


class Indexes:
    """Keep embeddings of many scans in an index on disk."""

    def add(self, *folders: str, index: str, **options: Any) -> None:
        """Add embeddings, each row once: a stopped run can be repeated.

        --metadata FILE.csv adds columns to search by, by its column scan; --prefix NAME/ keeps
        data sets apart that use the same names; --build makes the approximate index. Several
        processes add to one index at the same time: each by torchrun or srun its part of the files,
        in arrays with --shards N.

        Args:
            folders: outputs of the feature extractor's inference, with embeddings.parquet.
            index: folder of the index; made where there is none.
            options: metadata, prefix, build, shard, shards.
        """
        from ctfm.search import add_embeddings

        print(call(add_embeddings, [str(one) for one in folders], str(index), **options))

    def build(self, index: str, **options: Any) -> None:
        """Make the approximate index, for searches among more than 200,000 rows.

        By torchrun or srun, or in arrays with --shards N, each process makes a part.

        Args:
            index: its folder.
            options: shard, shards.
        """
        from ctfm.search import build_index

        print(call(build_index, str(index), **options))

    def info(self, index: str) -> None:
        """Say what an index holds.

        Args:
            index: its folder.
        """
        from ctfm.search import describe_index

        print(describe_index(str(index)))

    def check(self, index: str) -> None:
        """Look at every row; what is wrong ends in one line and a non-zero exit.

        Args:
            index: its folder.
        """
        from ctfm.search import check_index

        print(check_index(str(index)))

    def export(self, index: str, out: str) -> None:
        """Write an index as Parquet, which vector servers import.

        Args:
            index: its folder.
            out: ends in .parquet.
        """
        from ctfm.search import export_index

        print(export_index(str(index), str(out)))


def search(arguments: tuple[Any, ...], index: Any, options: dict[str, Any]) -> str:
    """Sort out what was typed, and run `ctfm.search.search_scan`.

    Args:
        arguments: the query, and perhaps numbers of a location.
        index: folder, or folders with commas, or a pattern such as ``archive/*``.
        options: all the rest.

    Raises:
        UserError: not one query is given.
    """
    from ctfm.search import search_scan

    scans, numbers = join_numbers(arguments, options)
    if len(scans) != 1 or numbers:
        raise UserError("give one query: ctfm search QUERY --index DIR [--point 10,-20,300]")
    if "k" in options and not isinstance(options["k"], int):
        raise UserError(f"k is {options['k']}: give a number from 1")
    return str(call(search_scan, str(scans[0]), split_folders(index), **options))


def locate(arguments: tuple[Any, ...], options: dict[str, Any]) -> str:
    """Sort out what was typed, and run `ctfm.search.locate`.

    Args:
        arguments: query and target; a location may stand between them, or some of its numbers.
        options: all the rest.

    Raises:
        UserError: not two scans are given.
    """
    from ctfm.search import locate as run

    others, numbers = join_numbers(arguments, options)
    scans = [typed for typed in others if isinstance(typed, str)]
    points = [typed for typed in others if isinstance(typed, list | tuple)]
    if len(scans) != 2 or len(points) > 1 or (points and numbers):
        raise UserError(
            "give a scan that shows the place, the place, and a scan to look in: "
            "ctfm locate QUERY.nii.gz --point 10,-20,300 TARGET.nii.gz --checkpoint FILE"
        )
    if numbers:
        options["point"] = numbers
    elif points:
        options.setdefault("point", points[0])
    return str(call(run, *scans, **options))


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

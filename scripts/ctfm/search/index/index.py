"""The index: a LanceDB table in a folder, and a note of the encoder and the recipe behind it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ctfm import __version__
from ctfm.base.errors import UserError
from ctfm.base.files import atomic_path
from ctfm.base.optional import require
from ctfm.search.index.retrying import patiently

__all__ = ["ANN_INDEX", "AXES", "LEAST_ROWS", "RESERVED", "Index", "ann_parameters", "quoted"]

TABLE = "embeddings"
DESCRIPTION = "index.json"
PURPOSE = "keep embeddings in an index"
ANN_INDEX, KIND_INDEX = "embedding_idx", "kind_idx"
#: Below, product quantisation has too little to learn from.
LEAST_ROWS = 256
#: With this mark of its own, LanceDB refuses to add a key that another process added meanwhile, and
#: looks again; without it, two processes that add the same rows at the same moment both do.
ONCE = {"lance-schema:unenforced-primary-key": "true"}
#: Columns of a patch's centre, RAS+.
AXES = ("x_mm", "y_mm", "z_mm")
#: Columns of every index; others are metadata of the user's.
RESERVED = ("key", "scan", "kind", *AXES, "embedding")


class Index:
    """Rows of scans and of their patches, with their embeddings, in a folder.

    Columns: ``key`` (what a row is, so that it is there once), ``scan``, ``kind`` ("scan" or
    "patch"), ``x_mm``, ``y_mm``, ``z_mm`` (centre of a patch, RAS+), ``embedding`` (float32), and
    any of the user's.

    Args:
        folder: of the index, which is there.

    Raises:
        UserError: it is no index, or lancedb is missing.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        self.description = _read(self.folder / DESCRIPTION)
        lancedb = require("lancedb", purpose=PURPOSE, extra="index")
        try:
            self.table: Any = lancedb.connect(str(self.folder)).open_table(TABLE)
        except (ValueError, OSError, RuntimeError) as error:
            raise UserError(
                f"{self.folder}: the table of the index cannot be opened ({_line(error)}): make "
                "the index anew with `ctfm index add`"
            ) from error

    @classmethod
    def create(cls, folder: str | Path, made_with: Mapping[str, Any], dimension: int) -> Index:
        """Open an index, or make one where there is none.

        Args:
            folder: of the index.
            made_with: "encoder_sha256" and "recipe" of the embeddings.
            dimension: numbers of an embedding.

        Raises:
            UserError: the index was made with another encoder or recipe, the folder holds
                something else, or lancedb is missing.
        """
        folder = Path(folder).expanduser()
        wanted = {
            "encoder_sha256": made_with["encoder_sha256"],
            "recipe": made_with["recipe"],
            "dimension": dimension,
        }
        if (folder / DESCRIPTION).exists():
            index = cls(folder)
            index.check_same(wanted)
            return index
        if folder.exists() and any(not _is_ours(path) for path in folder.iterdir()):
            raise UserError(f"{folder}: not empty, and no index: choose another folder")
        lancedb = require("lancedb", purpose=PURPOSE, extra="index")
        folder.mkdir(parents=True, exist_ok=True)
        database, schema = lancedb.connect(str(folder)), _schema(dimension)
        patiently(lambda: database.create_table(TABLE, schema=schema, exist_ok=True), folder)
        with atomic_path(folder / DESCRIPTION) as temporary:
            document = {**wanted, "ctfm_version": __version__}
            temporary.write_text(json.dumps(document, indent=4) + "\n", encoding="utf-8")
        index = cls(folder)
        index.check_same(wanted)  # another process may have been faster
        return index

    def check_same(self, made_with: Mapping[str, Any]) -> None:
        """Refuse embeddings of another kind.

        Raises:
            UserError: encoder, recipe or dimension differ.
        """
        mine = self.description
        if made_with["encoder_sha256"] != mine["encoder_sha256"]:
            what = f"encoder {made_with['encoder_sha256'][:12]}, not {mine['encoder_sha256'][:12]}"
        elif made_with["recipe"] != mine["recipe"]:
            ours, theirs = mine["recipe"], made_with["recipe"]
            names = [n for n in {**ours, **theirs} if ours.get(n) != theirs.get(n)]
            what = ", ".join(f"{n} {theirs.get(n)}, not {ours.get(n)}" for n in names)
        elif made_with.get("dimension", mine["dimension"]) != mine["dimension"]:
            what = f"{made_with['dimension']} numbers, not {mine['dimension']}"
        else:
            return
        raise UserError(
            f"{self.folder}: embeddings with {what}: two kinds cannot be compared; make an index "
            "of their own"
        )

    @property
    def dimension(self) -> int:
        """Numbers of an embedding."""
        return int(self.description["dimension"])

    @property
    def metadata(self) -> list[str]:
        """Columns of the user's."""
        return [name for name in self.table.schema.names if name not in RESERVED]

    def count(self, where: str | None = None) -> int:
        """Rows, of those that a condition holds for.

        Raises:
            UserError: the condition makes no sense.
        """
        try:
            return int(self.table.count_rows(where))
        except (ValueError, RuntimeError, OSError) as error:
            raise UserError(f"--where {where}: {_line(error)}") from error

    def rows(self, columns: list[str], where: str | None = None) -> Any:
        """Columns as an Arrow table."""
        query = self.table.search().select(columns).limit(max(self.count(where), 1))
        return (query if where is None else query.where(where)).to_arrow()

    def refresh(self) -> None:
        """See what other processes have added."""
        self.table.checkout_latest()

    def has_ann(self) -> bool:
        """Whether there is an approximate index."""
        return any(one.name == ANN_INDEX for one in self.table.list_indices())

    def build_ann(self) -> None:
        """Make the approximate index anew.

        Raises:
            UserError: there are too few rows, or other processes change the index all the time.
        """
        rows = self.count()
        if rows < LEAST_ROWS:
            raise UserError(
                f"{self.folder}: {rows} rows are too few for an approximate index, which takes "
                f"{LEAST_ROWS}: searches are exact without it"
            )
        lancedb_index = require("lancedb.index", purpose=PURPOSE, extra="index")
        config = lancedb_index.IvfPq(**ann_parameters(rows, self.dimension), max_iterations=10)
        build = partial(self.table.create_index, "embedding", name=ANN_INDEX, replace=True)
        patiently(lambda: build(config=config), self.folder)
        self.build_kinds()

    def build_kinds(self) -> None:
        """Mark which rows are scans and which patches: each search asks, and would read them all.

        Of a million rows, that took 30 of 45 ms.
        """
        config = require("lancedb.index", purpose=PURPOSE, extra="index").Bitmap()
        build = partial(self.table.create_index, "kind", name=KIND_INDEX, replace=True)
        patiently(lambda: build(config=config), self.folder)


def ann_parameters(rows: int, dimension: int) -> dict[str, Any]:
    """Of the approximate index: inverted lists of product-quantised vectors.

    With few samples and iterations, which costs no recall where hits are refined.
    """
    return {
        "distance_type": "cosine",
        "num_partitions": max(1, round(rows**0.5)),
        "num_sub_vectors": max(1, dimension // 16),
        "sample_rate": 32,
    }


def quoted(text: str) -> str:
    """A text as it stands between the quotes of a SQL condition."""
    return text.replace("'", "''")


def _schema(dimension: int) -> Any:
    arrow = require("pyarrow", purpose=PURPOSE, extra="index")
    text, number = arrow.string(), arrow.float64()
    centre = [(axis, number) for axis in AXES]
    embedding = ("embedding", arrow.list_(arrow.float32(), dimension))
    key = arrow.field("key", text, nullable=False, metadata=ONCE)
    return arrow.schema([key, ("scan", text), ("kind", text), *centre, embedding])


def _is_ours(path: Path) -> bool:
    """What lies in the folder of an index that is just being made."""
    return path.suffix == ".lance" or path.name.startswith((DESCRIPTION, f".{DESCRIPTION}"))


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return {**document, "recipe": dict(document["recipe"])}
    except FileNotFoundError:
        raise UserError(
            f"{path.parent}: no index: make one with `ctfm index add FOLDER --index {path.parent}`"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read: make the index anew") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]

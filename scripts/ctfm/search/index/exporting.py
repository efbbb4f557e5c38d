"""An index as one Parquet file, which clustered vector servers import."""

from __future__ import annotations

from pathlib import Path

from ctfm.base.errors import UserError
from ctfm.base.files import atomic_path
from ctfm.base.optional import require
from ctfm.search.index.index import PURPOSE, Index

__all__ = ["export_index"]

BATCH = 50_000


def export_index(folder: str, out: str) -> str:
    """Write all columns, and encoder and recipe as the file's metadata.

    Args:
        folder: of the index.
        out: ends in .parquet.

    Raises:
        UserError: it does not, or cannot be written.
    """
    if not str(out).endswith(".parquet"):
        raise UserError(f"{out}: give a name that ends in .parquet")
    index, path = Index(folder), Path(out).expanduser()
    arrow = require("pyarrow", purpose=PURPOSE, extra="index")
    parquet = require("pyarrow.parquet", purpose=PURPOSE, extra="index")
    made_with = {name: str(value) for name, value in index.description.items()}
    # plain lists: Milvus refuses those that say how long they are, which is in the metadata
    lists = {"embedding": arrow.list_(arrow.float32())}
    fields = [
        arrow.field(field.name, lists.get(field.name, field.type), field.nullable)
        for field in index.table.schema
    ]
    schema = arrow.schema(fields, made_with)
    with atomic_path(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        for batch in index.table.search().limit(max(index.count(), 1)).to_batches(BATCH):
            table = arrow.Table.from_batches([batch.select(schema.names)])
            writer.write_table(table.cast(schema))
    return f"{path}: {index.count()} rows"

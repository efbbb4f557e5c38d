"""Embeddings as a Parquet data set: one file a scan, rows for its patches and for the whole."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from ignite.engine import Engine, Events
from torch import nn

from ctfm import __version__
from ctfm.base.errors import UserError
from ctfm.base.files import atomic_path
from ctfm.base.optional import require
from ctfm.base.types import Array
from ctfm.embedding.recipes import POOLINGS, check_recipe
from ctfm.embedding.windows import WindowGrid
from ctfm.imaging.listing import result_name
from ctfm.imaging.provenance import MADE_BY, Provenance, select
from ctfm.weights.audit import fingerprint

__all__ = ["EmbeddingTable", "without_embeddings"]

logger = logging.getLogger(__name__)

#: Folder with the table, a file a scan, and the file in it that says how it was made, which
#: readers of Parquet folders leave out for its "_".
TABLE = "embeddings.parquet"
DESCRIPTION = "_made_with.json"
#: Key of the header of each file.
HEADER = b"ctfm"


class EmbeddingTable:
    """Write the rows of each scan as soon as it is done: a handler, or by `write`.

    `pandas.read_parquet("OUTPUT_DIR/embeddings.parquet")` reads all of them. A row is a patch, or
    a whole scan: ``scan`` (name, below the folder that all scans share), ``kind`` ("patch" or
    "scan"), ``x_mm``, ``y_mm``, ``z_mm`` (centre of the patch, RAS+; empty for a scan),
    ``spacing`` and ``patch`` (axes of the network's input), ``embedding`` (float32).

    ``_made_with.json`` in it, and the header of each file, say which encoder and which recipe made
    the table; embeddings of others do not come into it.

    Args:
        output_dir: made where it does not exist.
        network: the encoder, once its weights are loaded.
        recipe: what decides the embeddings: "patch", "spacing", "overlap", "pooling" (a key of
            `POOLINGS`), and whatever else belongs to it, as JSON has it.
        image_key: item with the preprocessed scan, whose affine places the windows.
        provenance: what makes the rows, which the header of each file records.

    Raises:
        UserError: pyarrow is missing, or the recipe lacks something.
    """

    def __init__(
        self,
        output_dir: str,
        network: nn.Module,
        recipe: Mapping[str, Any],
        image_key: str = "image",
        provenance: Provenance | None = None,
    ) -> None:
        self.arrow = require("pyarrow", purpose="write embeddings", extra="embeddings")
        self.parquet = require("pyarrow.parquet", purpose="write embeddings", extra="embeddings")
        self.output_dir = Path(output_dir)
        self.network = network
        self.recipe = check_recipe(recipe)
        self.image_key = image_key
        self.provenance = Provenance() if provenance is None else provenance
        self.description: dict[str, Any] = {}

    def attach(self, engine: Engine) -> None:
        """Compare with the table that is there when the run starts, add to it after each scan."""
        engine.add_event_handler(Events.STARTED, lambda _engine: self.start())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)

    def start(self) -> None:
        """Compare with the table that is there, or note what a new one is made with.

        Configs call it too, because evaluators start nothing where no scan is left to do.

        Raises:
            UserError: the table was made with another encoder or another recipe.
        """
        self.description = {
            "encoder_sha256": fingerprint(self.network.state_dict()),
            "recipe": self.recipe,
        }
        path = self.output_dir / TABLE / DESCRIPTION
        if path.exists():
            _check_same(self.description, path)
        else:
            document = {**self.description, "ctfm_version": __version__}
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps(document, indent=4) + "\n", encoding="utf-8")

    def write(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Write one scan's rows: what `ctfm.inference.ScanEvaluator` takes for `writing`.

        Args:
            data: the scan under `image_key`, "pred" (F, D', H', W'), and "name" if it has one.

        Returns:
            The same, with how many patches were "found", which reports note.

        Raises:
            UserError: the file cannot be written.
        """
        name = result_name(data, self.image_key)
        embeddings, centres = self._patches(data[self.image_key], data["pred"])
        path = table_file(self.output_dir, name)
        with atomic_path(path) as temporary:
            source = data[self.image_key].meta.get("filename_or_obj")
            made_by = None if source is None else self.provenance.of(str(source))
            table = self._table(name, embeddings, centres, made_by)
            self.parquet.write_table(table, temporary, compression="zstd")
        logger.info("%s: %d patches -> %s", name, len(embeddings), path)
        return {**data, "found": {"patches": len(embeddings)}}

    def _add(self, engine: Any) -> None:
        if not engine.state.output:  # the scan failed
            return
        for row, output in zip(engine.state.batch, engine.state.output, strict=True):
            self.write({**row, "pred": output["pred"]})

    def _patches(self, image: Any, embedded: Any) -> tuple[Array, Array]:
        """Embeddings (N, F) and centres in mm (N, 3) of the windows that were not left out."""
        patch, overlap = tuple(self.recipe["patch"]), self.recipe["overlap"]
        grid = WindowGrid(tuple(image.shape[1:]), patch, overlap)
        if tuple(embedded.shape[1:]) != grid.counts:
            raise RuntimeError(f"{tuple(embedded.shape)} embeddings for {grid.counts} windows")
        rows = embedded.flatten(1).T.cpu().numpy()
        kept = np.isfinite(rows[:, 0])
        return rows[kept], grid.centres(image.affine.cpu().numpy())[kept]

    def _table(self, name: str, embeddings: Array, centres: Array, made_by: Any) -> Any:
        """Arrow table: the scan's row, then its patches'."""
        pooled = POOLINGS[self.recipe["pooling"]](embeddings.astype(np.float64), axis=0)
        rows = np.concatenate([pooled[None], embeddings]).astype(np.float32)
        places = np.concatenate([np.full((1, 3), np.nan), centres])
        arrow, number = self.arrow, len(rows)
        axes = ("x_mm", "y_mm", "z_mm")
        columns = {
            "scan": arrow.array([name] * number, arrow.string()),
            "kind": arrow.array(["scan"] + ["patch"] * (number - 1), arrow.string()),
            **{a: arrow.array(places[:, i], from_pandas=True) for i, a in enumerate(axes)},
            "spacing": self._lists([self.recipe["spacing"]] * number, np.float64),
            "patch": self._lists([self.recipe["patch"]] * number, np.int32),
            "embedding": self._lists(rows, np.float32),
        }
        metadata = {HEADER: json.dumps({**self.description, MADE_BY: made_by})}
        return arrow.table(columns).replace_schema_metadata(metadata)

    def _lists(self, rows: Any, dtype: Any) -> Any:
        """Arrow array of lists that all have the same length."""
        values = np.asarray(rows, dtype=dtype)
        return self.arrow.FixedSizeListArray.from_arrays(values.ravel(), values.shape[1])


def _check_same(description: Mapping[str, Any], path: Path) -> None:
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        recipe = {**there["recipe"]}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: cannot be read: delete {path.parent} to start anew") from error
    if there.get("encoder_sha256") != description["encoder_sha256"]:
        what = "another encoder"
    elif recipe != description["recipe"]:
        asked = description["recipe"]
        names = [n for n in {**recipe, **asked} if recipe.get(n) != asked.get(n)]
        what = ", ".join(f"{n} {recipe.get(n)}, not {asked.get(n)}" for n in names)
    else:
        return
    raise UserError(
        f"{path.parent} was made with {what}: embeddings of two kinds cannot be compared; "
        "choose another output_dir, or delete that folder"
    )


def table_file(output_dir: Path, name: str) -> Path:
    """The file with a scan's rows.

    Readers of Parquet folders skip files and folders whose name starts with "." or "_", and take
    "=" in a folder's name for a column.
    """
    parts = [quote(part, safe=" +,()@") for part in name.split("/")]
    parts = [f"%{ord(part[0]):02X}{part[1:]}" if part[0] in "._" else part for part in parts]
    return (output_dir / TABLE).joinpath(*parts[:-1], f"{parts[-1]}.parquet")


def without_embeddings(
    scans: Sequence[dict[str, Any]],
    output_dir: str,
    provenance: Provenance | None = None,
    overwrite: bool = False,
) -> list[dict[str, Any]]:
    """The scans that are still to be embedded: a `_target_` for configs.

    Args:
        scans: rows of `ctfm.imaging.find_scans`.
        output_dir: as for `EmbeddingTable`.
        provenance: of the run; see `ctfm.imaging.provenance.select`.
        overwrite: all of them.
    """
    folder = Path(output_dir)

    def look(name: str) -> tuple[Path, dict[str, Any] | None]:
        file = table_file(folder, name)
        return file, _header(file).get(MADE_BY)

    return select(scans, provenance or Provenance(), look, overwrite)


def _header(file: Path) -> dict[str, Any]:
    """What the header of a scan's table says; nothing where it cannot be read."""
    if not file.is_file():
        return {}
    parquet = require("pyarrow.parquet", purpose="read embeddings", extra="embeddings")
    try:
        header = json.loads(parquet.read_schema(file).metadata[HEADER])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return header if isinstance(header, dict) else {}

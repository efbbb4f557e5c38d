"""Scans over the machines of a Ray cluster, by Ray Data: the network is loaded once a worker."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

from ctfm.base.errors import UserError, one_line
from ctfm.base.optional import require
from ctfm.embedding.embedder import Embedder
from ctfm.embedding.table import EmbeddingTable
from ctfm.imaging.listing import REFUSED
from ctfm.imaging.provenance import Provenance

__all__ = ["RayPool"]

logger = logging.getLogger(__name__)


class RayPool:
    """Embeds scans in a pool of workers, into one table: for configs, in the evaluator's place.

    A worker that dies is started again by Ray, with the scans that it had not written. What is in
    the table is left out when the same command is given again.

    Args:
        scans: rows with "image" and "name", of `ctfm.embedding.table.without_embeddings`.
        checkpoint: encoder, on a disk that all machines see.
        recipe: of the table.
        output_dir: of the table, on a disk that all machines see.
        workers: None: one for each GPU of the cluster, or for each of its cores.
        sw_batch_size: windows that pass the encoder together.
        input_check: what to do about values that are no CT's: error, warn or off.
        on_failure: "error": scans that failed end in one line and a non-zero exit, once all others
            are done; "warn": they are told.
        progress: show a bar, on a terminal.
        provenance: what makes the rows.

    Raises:
        UserError: ray is missing, or `workers` makes no sense.
    """

    def __init__(
        self,
        scans: Sequence[Mapping[str, Any]],
        checkpoint: str,
        recipe: Mapping[str, Any],
        output_dir: str,
        workers: int | None = None,
        sw_batch_size: int = 8,
        input_check: str = "error",
        on_failure: str = "error",
        progress: bool = True,
        provenance: Provenance | None = None,
    ) -> None:
        self.ray = require("ray", purpose="embed scans on a cluster", extra="ray")
        self.data = require("ray.data", purpose="embed scans on a cluster", extra="ray")
        if workers is not None and (not isinstance(workers, int) or workers < 1):
            raise UserError(f"workers is {workers!r}: give a number from 1, or null")
        self.rows = [
            {"image": str(row["image"]), "name": str(row["name"])}
            for row in scans
            if REFUSED not in row
        ]
        self.refused = [f"{row['image']}: {row[REFUSED]}" for row in scans if REFUSED in row]
        self.make = partial(
            _Worker,
            checkpoint,
            dict(recipe),
            output_dir,
            sw_batch_size,
            input_check,
            provenance,
        )
        self.workers, self.on_failure, self.progress = workers, on_failure, progress

    def run(self) -> None:
        """Embed all scans.

        Raises:
            UserError: scans failed.
        """
        if not self.rows and not self.refused:
            logger.info("nothing is left to embed")
            return
        failures = [*self.refused, *self._embed()]
        total = len(self.rows) + len(self.refused)
        logger.info("%d scans embedded, %d failed", total - len(failures), len(failures))
        if not failures:
            return
        told = f"{len(failures)} of {total} scans failed (first: {failures[0]})"
        if self.on_failure == "error":
            raise UserError(f"{told}; the others are written")
        logger.warning("%s", told)

    def _embed(self) -> list[str]:
        """Embed all scans; what was wrong with those that failed."""
        if not self.rows:
            return []
        self._start()
        there = self.ray.cluster_resources()
        gpus = int(there.get("GPU", 0))
        count = self.workers or gpus or int(there.get("CPU", 1))
        done = self.data.from_items(self.rows, override_num_blocks=len(self.rows)).map_batches(
            _Pooled,
            fn_constructor_args=(self.make,),
            batch_size=1,
            num_gpus=1 if gpus else None,
            compute=self.data.ActorPoolStrategy(size=min(count, len(self.rows))),
        )
        bar = tqdm(
            done.iter_rows(), "scans", len(self.rows), disable=None if self.progress else True
        )
        return [str(row["failure"]) for row in bar if row["failure"]]

    def _start(self) -> None:
        """Join the cluster of ``RAY_ADDRESS``, or start one on this machine, which tells nobody."""
        if self.ray.is_initialized():
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        local: dict[str, Any] = (
            {} if os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}
        )
        self.ray.init(log_to_driver=False, logging_level=logging.ERROR, **local)
        logging.getLogger("ray.data").setLevel(logging.WARNING)  # plans and places of its logs
        context = self.data.DataContext.get_current()
        context.enable_progress_bars = False


class _Pooled:
    """What Ray Data makes once a worker, and calls with each scan."""

    def __init__(self, make: Any) -> None:
        self.worker = make()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        places = zip(batch["name"], batch["image"], strict=True)
        failures = [self.worker.embed(str(name), str(path)) for name, path in places]
        return {"name": [str(name) for name in batch["name"]], "failure": failures}


class _Worker:
    """An encoder and the table."""

    def __init__(
        self,
        checkpoint: str,
        recipe: dict[str, Any],
        output_dir: str,
        sw_batch_size: int,
        input_check: str,
        provenance: Provenance | None,
    ) -> None:
        if not torch.cuda.is_available():
            torch.set_num_threads(1)  # one worker for each core
        self.input_check = input_check
        self.embedder = Embedder.load(checkpoint, recipe, sw_batch_size=sw_batch_size)
        self.table = EmbeddingTable(
            output_dir, self.embedder.network, recipe, provenance=provenance
        )
        self.table.start()

    def embed(self, name: str, path: str) -> str:
        """Embed a scan; what was wrong with it, or nothing."""
        try:
            image = self.embedder.read(path, self.input_check)
            pred = self.embedder.window_map(image)
            self.table.write({"image": image, "pred": pred, "name": name})
        except UserError as error:
            return str(one_line(error))
        return ""

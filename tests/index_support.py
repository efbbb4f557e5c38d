"""Tables of embeddings for tests of the index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

RECIPE = {"patch": [32, 32, 32], "spacing": [3.0, 3.0, 3.0], "overlap": 0.5, "pooling": "mean"}
DIMENSION = 16


def embed(
    folder: Path, scans: int = 4, patches: int = 10, sha: str = "a" * 64, **recipe: Any
) -> Path:
    """A table as `ctfm.embedding.table.EmbeddingTable` writes it."""
    table = folder / "embeddings.parquet"
    table.mkdir(parents=True)
    description = {"encoder_sha256": sha, "recipe": {**RECIPE, **recipe}}
    (table / "_made_with.json").write_text(json.dumps(description))
    for scan in range(scans):
        generator = np.random.default_rng(scan)
        vectors = generator.normal(size=(patches + 1, DIMENSION)).astype(np.float32)
        places = [[None, *map(float, generator.integers(0, 300, patches))] for _ in range(3)]
        rows = {
            "scan": [f"s{scan}"] * (patches + 1),
            "kind": ["scan"] + ["patch"] * patches,
            **{
                a: pa.array(p, pa.float64())
                for a, p in zip(("x_mm", "y_mm", "z_mm"), places, strict=True)
            },
            "embedding": pa.FixedSizeListArray.from_arrays(vectors.ravel(), DIMENSION),
        }
        pq.write_table(pa.table(rows), table / f"s{scan}.parquet")
    return folder

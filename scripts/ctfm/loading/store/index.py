"""The store as a whole: which scans it holds, and reading their regions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctfm.base.errors import UserError
from ctfm.base.files import atomic_path
from ctfm.base.types import Array
from ctfm.datalists.datalist import list_of
from ctfm.loading.store.recipe import StoreRecipe
from ctfm.loading.store.volumes import read_meta, read_region

__all__ = ["INDEX", "Entry", "Store", "StoredScan", "path_of", "read_index", "write_index"]

INDEX = "store.json"
FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """A row of the index.

    Attributes:
        key: hash of the sources' content and of the recipe; names the files.
        split: list of the datalist that the scan is in.
        name: what the scan is called: its path in the datalist.
        shape: stored voxels (D, H, W).
        labelled: there is a label file too.
        sources: path -> [size in bytes, modification time in ns, SHA-256], for each source file.
        extra: other values of the datalist's row, such as a fold.
    """

    key: str
    split: str
    name: str
    shape: tuple[int, int, int]
    labelled: bool
    sources: dict[str, tuple[int, int, str]]
    extra: dict[str, Any] = field(default_factory=dict)


class Store:
    """A folder of converted scans, read by region. Picklable; safe to read in many threads.

    Args:
        folder: made by `ctfm store build`.

    Raises:
        UserError: there is no store, or one of another format.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        content = read_index(self.folder)
        self.recipe = StoreRecipe.of(content["recipe"])
        self.entries = [_entry(row) for row in content["scans"]]
        self.failures: dict[str, str] = content["failures"]

    def scans(self, split: str, fold: int | None = None) -> list[StoredScan]:
        """The scans of one list of the datalist.

        Args:
            split: name of the list.
            fold: the fold that validates while the others train, where the datalist's rows are in
                folds; None: the lists as they were.

        Raises:
            UserError: there are none.
        """
        mine = [e for e in self.entries if list_of(e.split, e.extra.get("fold"), fold) == split]
        found = [StoredScan(self.folder, entry, self.recipe) for entry in mine]
        if not found:
            splits = sorted({e.split for e in self.entries})
            raise UserError(
                f"{self.folder}: no scan in list {split!r} (it has {', '.join(splits) or 'none'})"
            )
        return found


@dataclass(frozen=True)
class StoredScan:
    """One scan of a store.

    Attributes:
        folder: of the store.
        entry: its row.
        recipe: of the store.
    """

    folder: Path
    entry: Entry
    recipe: StoreRecipe

    @property
    def image_path(self) -> Path:
        """File of the HU."""
        return path_of(self.folder, self.entry.key, "image")

    @property
    def label_path(self) -> Path:
        """File of the class ids, if there are any."""
        return path_of(self.folder, self.entry.key, "label")

    def image(self, start: tuple[int, ...], size: tuple[int, ...]) -> npt.NDArray[np.int16]:
        """HU of a box (D, H, W); outside the volume lies air."""
        return read_region(self.image_path, start, size, fill=int(self.recipe.hu_window[0]))

    def label(self, start: tuple[int, ...], size: tuple[int, ...]) -> Array:
        """Class ids of a box (D, H, W); background outside the volume.

        Raises:
            UserError: the scan has no labels.
        """
        if not self.entry.labelled:
            raise UserError(f"{self.entry.name}: stored without labels: the datalist had none")
        return read_region(self.label_path, start, size)

    @cached_property
    def meta(self) -> dict[str, Any]:
        """Affine, box, HU statistics and what else `ctfm.loading.store.conversion` noted."""
        return read_meta(self.image_path)

    @property
    def positions(self) -> dict[int, Array]:
        """Class id -> flat indices of some of its voxels in the stored volume."""
        if not self.entry.labelled:
            return {}
        stored = read_meta(self.label_path)["positions"]
        return {int(i): np.frombuffer(data, np.int32) for i, data in stored.items()}

    @property
    def affine(self) -> Array:
        """(4, 4), stored voxel index to RAS+ in mm."""
        return np.array(self.meta["affine"])


def path_of(folder: Path, key: str, what: str) -> Path:
    """File of an image or a label."""
    return folder / "scans" / key[:2] / f"{key}.{what}.b2nd"


def read_index(folder: Path) -> dict[str, Any]:
    """Content of a store's index.

    Raises:
        UserError: missing, not JSON, or of another format.
    """
    path = folder / INDEX
    if not path.is_file():
        raise UserError(
            f"{folder}: no store here: make one with `ctfm store build DATALIST --task TASK "
            f"--out {folder}`"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise UserError(
                f"{path}: format {content['format']}, this version reads {FORMAT}: build another "
                "store, or use the version that made it"
            )
        if missing := {"recipe", "scans", "failures"} - content.keys():
            raise LookupError(missing)
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{path}: not the index of a store: delete it and run `ctfm store build` again, which "
            "keeps the scans that are converted"
        ) from error
    return dict(content)


def write_index(
    folder: Path, recipe: StoreRecipe, entries: Sequence[Entry], failures: Mapping[str, str]
) -> None:
    """Write the index; the same content gives the same bytes."""
    content = {
        "format": FORMAT,
        "recipe": asdict(recipe),
        "scans": [asdict(entry) for entry in entries],
        "failures": dict(sorted(failures.items())),
    }
    with atomic_path(folder / INDEX) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _entry(row: dict[str, Any]) -> Entry:
    sources = {path: (int(s), int(t), str(h)) for path, (s, t, h) in row["sources"].items()}
    return Entry(**{**row, "shape": tuple(row["shape"]), "sources": sources})

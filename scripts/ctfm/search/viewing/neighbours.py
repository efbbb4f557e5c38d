"""From a location that was clicked to locations in other scans that are like it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
from monai.data import MetaTensor

from ctfm.base.errors import UserError
from ctfm.search.index.index import quoted
from ctfm.search.index.searching import Searcher, load_encoder, merge_hits, open_indexes
from ctfm.search.options import SearchEncoder
from ctfm.search.viewing.scene import Scene

__all__ = ["Neighbours"]

#: Scans that are kept as the encoder sees them.
KEPT = 2


class Neighbours:
    """Searches an index for patches like the one around a place of a scan on the page.

    Args:
        scene: what the page shows.
        indexes: folders of indexes made with one encoder and recipe: shards of one.
        encoder: that it was made with.
        k: hits.

    Raises:
        UserError: an index is of another encoder, or none holds patches.
    """

    def __init__(
        self,
        scene: Scene,
        indexes: Iterable[str],
        encoder: SearchEncoder,
        k: int = 10,
    ) -> None:
        self.scene = scene
        self.indexes = open_indexes(indexes)
        self.embedder = load_encoder(self.indexes[0], encoder)
        self.k, self.input_check = k, encoder.input_check
        self._lock = Lock()  # one network, one scan at a time
        self._seen = lru_cache(KEPT)(self._read)
        self._searchers: dict[str | None, list[Searcher]] = {}
        self._of_others(None)

    def nearest(self, volume: int, point_mm: Sequence[float]) -> list[dict[str, Any]]:
        """Patches of other scans that are most alike.

        Args:
            volume: number of a scan in the scene.
            point_mm: x, y, z, RAS+.

        Returns:
            Of each: "scan", "similarity", "point_mm", and "volume" and "url", where the page finds
            it; None: its file is not there.

        Raises:
            UserError: the place lies outside of the body, or the scan cannot be embedded.
        """
        with self._lock:
            image = self._seen(volume)
            vector = self.embedder.at(image, np.asarray([point_mm], dtype=float))[0]
            found = [one.search(vector, self.k) for one in self._of_others(self._own(volume))]
        return [
            {
                "scan": hit.scan,
                "similarity": round(hit.similarity, 4),
                "point_mm": hit.point_mm,
                "volume": number,
                "url": self.scene.url(number),
            }
            for hit in merge_hits(found, self.k)
            for number in [self._number(hit.scan)]
        ]

    def _read(self, volume: int) -> MetaTensor:
        return self.embedder.read(str(self.scene.files[volume]), self.input_check)

    def _own(self, volume: int) -> str | None:
        """What a scan of the page is called in the index."""
        file = self.scene.files[volume].resolve()
        for name, number in self.scene.by_scan.items():
            if self.scene.files[number].resolve() == file:
                return name
        return None

    def _of_others(self, own: str | None) -> list[Searcher]:
        """Rows of all scans but one: a scan would find itself."""
        if own not in self._searchers:
            name = quoted(own or "")
            where = None if own is None else f"scan <> '{name}' AND NOT ends_with(scan, '/{name}')"
            condition = "kind = 'patch'" + (f" AND ({where})" if where else "")
            filled = [one for one in self.indexes if one.count(condition)]
            if not filled:
                what = "patch" if own is None else "patch of another scan"
                raise UserError(f"{self.indexes[0].folder}: no {what} in the index")
            while len(self._searchers) >= KEPT:
                self._searchers.pop(next(iter(self._searchers)))
            self._searchers[own] = [Searcher(one, "patch", where) for one in filled]
        return self._searchers[own]

    def _number(self, scan: str) -> int | None:
        """By its name in the index, with or without the prefix of its data set."""
        found = self.scene.by_scan.get(scan)
        if found is None and "/" in scan:
            found = self.scene.by_scan.get(scan.split("/", 1)[1])
        return found


def check_location(document: Any, volumes: int) -> tuple[int, list[float]]:
    """What the page asks for.

    Raises:
        UserError: it makes no sense.
    """
    try:
        volume, point = int(document["volume"]), [float(mm) for mm in document["point_mm"]]
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise UserError("a place is a volume and three numbers in mm") from error
    if not 0 <= volume < volumes or len(point) != 3 or not np.isfinite(point).all():
        raise UserError("a place is a volume and three numbers in mm")
    return volume, point

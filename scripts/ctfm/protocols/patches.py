"""Patches of labelled scans that show an organ, embedded by several encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from ctfm.base.errors import UserError
from ctfm.base.types import Array
from ctfm.embedding.embedder import Embedder
from ctfm.protocols.options import ListedScans, ReadingOptions
from ctfm.protocols.probing.cases import OrganCase, load_cases

__all__ = ["PLACES", "EmbeddedPatches", "embed_patches"]

#: Where patches lie: around the centre of each organ, or all over the scan.
PLACES = ("organs", "windows")
READING = ReadingOptions()


@dataclass(frozen=True)
class EmbeddedPatches:
    """Patches of all scans, one after the other.

    Attributes:
        names: of the scans.
        scans: position of each patch's scan, (N,).
        class_ids: of each patch's organ, (N,).
        points: where each stands, mm, RAS+, (N, 3).
        outside: patches around an organ whose centre lies outside of it.
        embeddings: encoder -> (N, F), float32.
    """

    names: tuple[str, ...]
    scans: Array
    class_ids: Array
    points: Array
    outside: int
    embeddings: Mapping[str, Array]

    def shared(self) -> EmbeddedPatches:
        """Patches of the organs that two scans or more show.

        Raises:
            UserError: there are not two such organs.
        """
        pairs = np.unique(np.stack([self.class_ids, self.scans]), axis=1)
        ids, scans = np.unique(pairs[0], return_counts=True)
        kept = np.isin(self.class_ids, ids[scans > 1])
        if (scans > 1).sum() < 2:
            raise UserError(
                f"{int((scans > 1).sum())} of {len(ids)} classes are in two of the "
                f"{len(self.names)} scans, and two such classes are needed: give more scans, or "
                "other --classes"
            )
        embeddings = {name: rows[kept] for name, rows in self.embeddings.items()}
        return EmbeddedPatches(
            self.names,
            self.scans[kept],
            self.class_ids[kept],
            self.points[kept],
            self.outside,
            embeddings,
        )


def embed_patches(
    listed: ListedScans,
    embedders: Mapping[str, Embedder],
    places: str = "organs",
    most: int = 5000,
    reading: ReadingOptions = READING,
    seed: int = 0,
) -> EmbeddedPatches:
    """Read labelled scans one by one, and embed their patches by each encoder.

    Args:
        listed: scans and classes.
        embedders: encoders, all of one recipe.
        places: "organs": one patch around the centre of mass of each class; "windows": all windows
            whose middle lies in a class.
        most: patches of all scans together; scans with more than their share of it are sampled.
        reading: of the scans.
        seed: of the sampling.

    Raises:
        UserError: a scan is not usable, or there is nothing to embed.
    """
    rows, class_ids = listed.rows, listed.class_ids
    if places not in PLACES:
        raise UserError(f"places is {places!r}: choose {' or '.join(PLACES)}")
    if not isinstance(most, int) or most < 2 * len(rows):
        raise UserError(f"most is {most}: give a number from {2 * len(rows)}, two for each scan")
    recipe = next(iter(embedders.values())).recipe
    windows = tuple(recipe["spacing"]), tuple(recipe["patch"]), recipe["overlap"]
    rng = np.random.default_rng(seed)
    names, parts, outside = [], [], 0
    for number, row in enumerate(tqdm(rows, "scans", disable=None if reading.progress else True)):
        (case,) = load_cases([row], listed.base_dir, class_ids, *windows, reading.input_check)
        ids, starts = _around_organs(case) if places == "organs" else _windows(case, class_ids)
        share = most // len(rows)
        if len(ids) > share:
            chosen = np.sort(rng.choice(len(ids), share, replace=False))
            ids, starts = ids[chosen], starts[chosen]
        names.append(case.name)
        outside += len(case.outside) if places == "organs" else 0
        if len(ids):
            found = [one.embed(case.image, starts) for one in embedders.values()]
            points = case.locations(starts)
            parts.append((np.full(len(ids), number), ids, points, *found))
    if not parts:
        raise UserError(f"the labels of {len(names)} scans show none of the classes")
    scans, ids, points, *found = map(np.concatenate, zip(*parts, strict=True))
    return EmbeddedPatches(
        tuple(names), scans, ids, points, outside, dict(zip(embedders, found, strict=True))
    )


def _around_organs(case: OrganCase) -> tuple[Array, Array]:
    """Class ids (N,) and first voxels (N, 3) of patches."""
    starts = np.array([*case.query_starts.values()], dtype=int).reshape(-1, 3)
    return np.array([*case.query_starts], dtype=int), starts


def _windows(case: OrganCase, class_ids: Sequence[int] | None) -> tuple[Array, Array]:
    ids = case.point_ids
    kept = ids > 0 if class_ids is None else np.isin(ids, class_ids)
    return ids[kept].astype(int), case.grid.starts()[kept]

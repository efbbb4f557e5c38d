"""All windows against a loop over them; few of them against all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from ctfm.base.errors import UserError
from ctfm.embedding.embedder import Embedder
from ctfm.embedding.recipes import make_recipe
from ctfm.embedding.windows import Array, WindowGrid, cut_window
from ctfm.imaging.grids import voxels_to_mm
from ctfm.networks.encoders import PooledEncoder
from ctfm.phantoms.drawing import draw_torso
from ctfm.search.locating.search import (
    WORK,
    SimilarityMap,
    WindowSimilarity,
    look_closer,
    look_everywhere,
)

pytestmark = pytest.mark.usefixtures("one_thread")

GRID = WindowGrid((160, 112, 112), (32, 32, 32), 0.625)


class Watched:
    """A similarity that is a function of the place, and counts what is asked."""

    def __init__(self, full: Callable[[Array], Array], half: Callable[[Array], Array]) -> None:
        self.asked: list[tuple[int, ...]] = []
        self.coarse = 0
        self._full, self._half = full, half

    def similarity(self) -> WindowSimilarity:
        return WindowSimilarity(full=self.full, half=self.half)

    def full(self, starts: Array) -> Array:
        self.asked += [tuple(map(int, start)) for start in starts]
        return self._full(starts / GRID.step)

    def half(self, starts: Array) -> Array:
        self.coarse += len(starts)
        return self._half(starts / GRID.step)


def hill(top: tuple[float, ...], width: float = 2.5) -> Callable[[Array], Array]:
    return lambda places: np.exp(-((places - np.asarray(top)) ** 2).sum(1) / (2 * width**2))


def best(found: SimilarityMap) -> list[int]:
    start, _ = found.best(1, 1)[0]
    return [int(i) for i in start]


def test_every_window_is_looked_at_once() -> None:
    watched = Watched(hill((3, 2, 4)), hill((0, 0, 0)))
    found = look_everywhere(watched.similarity(), GRID)
    assert best(found) == (np.array([3, 2, 4]) * GRID.step).tolist()
    assert watched.asked == [tuple(map(int, start)) for start in GRID.starts()]
    assert (watched.coarse, found.work) == (0, 1.0)
    assert found.looked_at.all()


def test_few_are_looked_at_closer_none_twice() -> None:
    watched = Watched(hill((3, 2, 4)), hill((4, 3, 4), 4.0))
    found = look_closer(watched.similarity(), GRID)
    number = len(GRID.starts())
    assert best(found) == (np.array([3, 2, 4]) * GRID.step).tolist()
    assert watched.coarse == number
    assert len(set(watched.asked)) == len(watched.asked) == found.looked_at.sum()
    assert found.work == pytest.approx(1 / 8 + len(watched.asked) / number)
    assert found.work <= WORK
    exact = hill((3, 2, 4))(GRID.starts() / GRID.step).reshape(GRID.counts)
    np.testing.assert_array_equal(found.cosines[found.looked_at], exact[found.looked_at])


def test_what_was_learned_from_some_corrects_the_others() -> None:
    """At half the resolution a wide region looks best that is not; its neighbours tell."""
    lure, top = (8.0, 1.0, 1.0), (2.0, 4.0, 3.0)

    def half(places: Array) -> Array:
        return hill(top)(places) + 2 * hill(lure, 1.2)(places)

    found = look_closer(Watched(hill(top), half).similarity(), GRID)
    assert best(found) == (np.asarray(top) * GRID.step).tolist()


def test_an_offset_of_all_estimates_does_no_harm() -> None:
    watched = Watched(hill((3, 2, 4)), lambda places: hill((3, 2, 4))(places) - 0.7)
    found = look_closer(watched.similarity(), GRID)
    exact = hill((3, 2, 4))(GRID.starts() / GRID.step).reshape(GRID.counts)
    np.testing.assert_allclose(found.cosines, exact, atol=1e-9)


def test_of_few_windows_all_are_looked_at() -> None:
    grid = WindowGrid((48, 48, 48), (32, 32, 32), 0.625)
    watched = Watched(hill((1, 1, 0)), hill((0, 0, 0)))
    assert look_closer(watched.similarity(), grid).looked_at.all()
    assert watched.coarse == 0


def test_places_lie_apart() -> None:
    cosines = np.zeros((6, 1, 1))
    cosines[:, 0, 0] = [0.9, 0.8, 0.1, 0.2, 0.7, 0.95]
    looked_at = np.ones((6, 1, 1), dtype=bool)
    looked_at[5] = False
    grid = WindowGrid((16 * 6, 16, 16), (16, 16, 16), 0.0)
    found = SimilarityMap(grid, cosines, looked_at, 1.0)
    told = [(int(start[0]) // 16, cosine) for start, cosine in found.best(2, 9)]
    assert told == [(0, 0.9), (4, 0.7), (2, 0.1)]


def test_a_window_stands_for_the_middle_of_its_patch() -> None:
    affine = np.array([[0, 0, -1.5, 7], [0, -2.0, 0, 8], [3.0, 0, 0, 9], [0, 0, 0, 1]])
    found = SimilarityMap(GRID, np.zeros(GRID.counts), np.ones(GRID.counts, bool), 1.0)
    indices = np.indices(GRID.counts).reshape(3, -1).T
    expected = voxels_to_mm(affine, GRID.starts() + np.array([16, 16, 16]))
    np.testing.assert_allclose(voxels_to_mm(found.affine(affine), indices), expected)


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    torch.manual_seed(0)
    network = PooledEncoder(init_filters=4, in_channels=1, blocks_down=(1, 1, 1, 1, 1))
    recipe = make_recipe("semantic_search", spacing=[6.0] * 3, patch=[16] * 3, amp=False)
    return Embedder(network, recipe, device="cpu")


def test_cosines_are_those_of_a_loop(embedder: Embedder) -> None:
    seen, other = (embedder.prepare(scan(seed)) for seed in (0, 1))
    patch = cut_window(seen.as_tensor(), (20, 4, 10), embedder.patch)
    found = look_everywhere(WindowSimilarity.of(embedder, patch, other), embedder.grid(other))
    with torch.inference_mode():
        query = embedder.network(patch[None])[0]
        windows = [
            cut_window(other.as_tensor(), s, embedder.patch) for s in embedder.grid(other).starts()
        ]
        expected = [
            torch.cosine_similarity(embedder.network(w[None])[0], query, 0) for w in windows
        ]
    np.testing.assert_allclose(found.cosines.ravel(), np.array(expected), atol=1e-5)


def scan(seed: int) -> MetaTensor:
    """A coarse torso, HU."""
    drawn = draw_torso(seed, (6.0, 6.0, 6.0))
    hu = np.asarray(drawn.image, np.float32)
    return MetaTensor(torch.from_numpy(hu)[None], affine=torch.from_numpy(drawn.affine))


def test_few_windows_find_what_all_find_in_most_cases(embedder: Embedder) -> None:
    """With random weights and two torsos: patches of one, looked for in the other.

    How often a trained encoder agrees is measured by `make bench NAME=locating`.
    """
    seen, other = (embedder.prepare(scan(seed)) for seed in (0, 1))
    grid = embedder.grid(other)
    rng = np.random.default_rng(0)
    corners = rng.integers(0, np.array(seen.shape[1:]) - 24, (12, 3))
    agree = []
    for corner in corners:
        similarity = WindowSimilarity.of(
            embedder, cut_window(seen.as_tensor(), corner, embedder.patch), other
        )
        everywhere, closer = look_everywhere(similarity, grid), look_closer(similarity, grid)
        assert closer.work <= WORK
        apart = np.subtract(best(everywhere), best(closer)) / grid.step
        agree.append(np.abs(apart).max() <= 1)
    assert np.mean(agree) >= 0.8


@pytest.mark.parametrize("work", [0.1, 0.125, 1.5])
def test_a_share_of_work_that_cannot_be_is_refused(work: float) -> None:
    with pytest.raises(UserError, match=r"work is .*: give a share above 0\.125, up to 1"):
        look_closer(Watched(hill((0, 0, 0)), hill((0, 0, 0))).similarity(), GRID, work)


def test_more_work_looks_at_more() -> None:
    watched = Watched(hill((3, 2, 4)), hill((4, 3, 4), 4.0))
    assert look_closer(watched.similarity(), GRID, 0.5).looked_at.mean() == pytest.approx(
        0.375, 0.01
    )
    assert look_closer(watched.similarity(), GRID, 1.0).work == pytest.approx(1, 0.01)

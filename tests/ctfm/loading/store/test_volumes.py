"""Files that are read by region, by many readers."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ctfm.base.errors import UserError
from ctfm.loading.store.index import Store
from ctfm.loading.store.volumes import OPEN_FILES, read_array, read_meta, read_region, write_array

SHAPE = (37, 70, 131)  # no multiple of a chunk or block, more than one chunk along each axis


@pytest.fixture(scope="module")
def voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(-1024, 2049, SHAPE).astype(np.int16)


@pytest.fixture(scope="module")
def file(voxels: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("volumes") / "deeper" / "scan.image.b2nd"
    write_array(path, voxels, {"name": "äöü 肝臓", "numbers": [1, 2.5], "bytes": b"\0\xff"})
    return path


def expected(voxels: np.ndarray, start: tuple[int, ...], size: tuple[int, ...]) -> np.ndarray:
    """By index: the nearest voxel, and air where that is not the one asked for."""
    asked = [np.arange(a, a + s) for a, s in zip(start, size, strict=True)]
    nearest = [at.clip(0, n - 1) for at, n in zip(asked, voxels.shape, strict=True)]
    inside = np.meshgrid(
        *[at == near for at, near in zip(asked, nearest, strict=True)], indexing="ij"
    )
    return np.where(np.all(inside, axis=0), voxels[np.ix_(*nearest)], -1024)


@pytest.mark.parametrize(
    ("start", "size"),
    [
        ((0, 0, 0), SHAPE),
        ((3, 5, 7), (16, 32, 33)),
        ((36, 69, 130), (1, 1, 1)),
        ((-3, -5, -7), (16, 32, 33)),
        ((30, 60, 120), (16, 32, 33)),
        ((-10, -10, -10), (60, 100, 160)),
        ((0, -10, 10), (37, 10, 20)),  # wholly outside along one axis, touching
        ((200, 0, 0), (4, 5, 6)),
        ((0, 0, 131), (4, 5, 6)),
        ((-300, -300, -300), (4, 5, 6)),
        ((5, 5, 5), (0, 4, 4)),
    ],
)
def test_regions(
    start: tuple[int, ...], size: tuple[int, ...], file: Path, voxels: np.ndarray
) -> None:
    region = read_region(file, start, size, fill=-1024)
    assert region.dtype == np.int16
    np.testing.assert_array_equal(region, expected(voxels, start, size))
    region[...] = 5  # its own memory: the file is open for reading
    np.testing.assert_array_equal(
        read_region(file, start, size, fill=-1024), expected(voxels, start, size)
    )


def test_numbers_of_numpy_are_numbers(file: Path, voxels: np.ndarray) -> None:
    start, size = np.array([-1, 2, 3]), np.array([4, 5, 6])
    region = read_region(file, tuple(start), tuple(size), fill=-1024)
    np.testing.assert_array_equal(region, expected(voxels, (-1, 2, 3), (4, 5, 6)))


def test_all_of_it(file: Path, voxels: np.ndarray) -> None:
    found, meta = read_array(file)
    np.testing.assert_array_equal(found, voxels)
    assert meta == {"name": "äöü 肝臓", "numbers": [1, 2.5], "bytes": b"\0\xff"}
    assert read_meta(str(file)) == meta


@pytest.mark.parametrize("kind", [np.int16, np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 200, 3), (33, 129, 129)])
def test_types_and_shapes(kind: type, shape: tuple[int, ...], tmp_path: Path) -> None:
    info = np.iinfo(kind)
    voxels = np.random.default_rng(1).integers(info.min, info.max + 1, shape).astype(kind)
    write_array(tmp_path / "a.b2nd", np.asfortranarray(voxels), {})
    found, _ = read_array(tmp_path / "a.b2nd")
    assert found.dtype == kind
    np.testing.assert_array_equal(found, voxels)


def test_many_positions_fit_into_the_metadata(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    positions = {str(i): rng.integers(0, 2**31, 1024, np.int32).tobytes() for i in range(300)}
    write_array(tmp_path / "a.b2nd", np.zeros((4, 4, 4), np.uint16), {"positions": positions})
    assert read_meta(tmp_path / "a.b2nd")["positions"] == positions


def test_same_content_same_bytes(tmp_path: Path, voxels: np.ndarray) -> None:
    for name in ("a.b2nd", "b.b2nd"):
        write_array(tmp_path / name, voxels, {"key": 1})
    assert (tmp_path / "a.b2nd").read_bytes() == (tmp_path / "b.b2nd").read_bytes()


def test_threads_read_the_same_files(tmp_path: Path, voxels: np.ndarray) -> None:
    """More files than a thread keeps open, so that some are closed while others read them."""
    count = OPEN_FILES + 8
    small = [np.roll(voxels, i, 2)[:9, :40, :40] for i in range(count)]
    for i, array in enumerate(small):
        write_array(tmp_path / f"{i}.b2nd", array, {"i": i})

    def read(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        for _ in range(300):
            i, start = int(rng.integers(count)), tuple(int(n) for n in rng.integers(-9, 40, 3))
            region = read_region(tmp_path / f"{i}.b2nd", start, (8, 9, 10), fill=-1024)
            if not np.array_equal(region, expected(small[i], start, (8, 9, 10))):
                return False
            if read_meta(tmp_path / f"{i}.b2nd") != {"i": i}:
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))


class TestDamage:
    @pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
    def test_cut_short(self, share: float, file: Path, tmp_path: Path) -> None:
        data = file.read_bytes()
        path = tmp_path / "cut.b2nd"
        path.write_bytes(data[: int(share * len(data))])
        for read in (read_array, read_meta):
            with pytest.raises(UserError, match=r"cut\.b2nd: damaged .*: delete it and run"):
                read(path)

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no such file in the store: run `ctfm store build`"):
            read_region(tmp_path / "none.b2nd", (0, 0, 0), (1, 1, 1))

    def test_something_else(self, tmp_path: Path) -> None:
        path = tmp_path / "other.b2nd"
        path.write_bytes(b"\x93NUMPY" * 1000)
        with pytest.raises(UserError, match="damaged"):
            read_array(path)


def test_a_store_travels_to_workers(store: Path) -> None:
    """After it was read from: open files stay behind."""
    first = Store(store)
    scan = first.scans("training")[0]
    region, positions, affine = scan.image((-2, 3, 4), (9, 9, 9)), scan.positions, scan.affine
    second = pickle.loads(pickle.dumps(first))
    assert second.entries == first.entries
    again = pickle.loads(pickle.dumps(scan))
    np.testing.assert_array_equal(again.image((-2, 3, 4), (9, 9, 9)), region)
    np.testing.assert_array_equal(again.affine, affine)
    assert positions.keys() == again.positions.keys() == {1, 3, 5}


def test_outside_a_scan_lies_air_and_background(store: Path) -> None:
    scan = Store(store).scans("training")[0]
    assert (scan.image((500, 0, 0), (2, 2, 2)) == -1024).all()
    assert (scan.label((500, 0, 0), (2, 2, 2)) == 0).all()


def test_positions_point_into_the_stored_volume(store: Path) -> None:
    for scan in Store(store).scans("training"):
        labels = scan.label((0, 0, 0), scan.entry.shape).reshape(-1)
        assert scan.positions
        assert all((labels[at] == i).all() for i, at in scan.positions.items())


def test_what_is_not_there(store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no scan in list 'tset' \(it has training, validation\)"):
        Store(store).scans("tset")
    with pytest.raises(UserError, match="stored without labels"):
        Store(store).scans("validation")[0].label((0, 0, 0), (1, 1, 1))
    assert Store(store).scans("validation")[0].positions == {}
    with pytest.raises(UserError, match="no store here: make one with `ctfm store build"):
        Store(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', "\x00", '{"format": 2}'])
def test_index_that_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text(text)
    with pytest.raises(UserError, match=r"not the index of a store: delete it|format 2, this"):
        Store(tmp_path)

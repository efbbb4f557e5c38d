"""Why scans are stored in Blosc2: regions read from it, from uncompressed .npy and from Zarr.

Real CT at clinical size is converted as `ctfm store build` does and written in each format, in
several copies, more than the CPU's caches hold. Then boxes are read as training reads them: the
views of pretraining, and whole-body patches with their labels. Warm: the files are in the page
cache. Cold: before each pass over the scans they are closed and their pages dropped; what is read
besides a box then depends on the disk's read-ahead, which is in the settings of the results.

    make bench NAME=store_format ARGS="--data FOLDER --zarr-python PEERS/bin/python"

FOLDER is that of `fit_real_ct.py`. PEERS is an environment over the project's, made as
`engine_peers.py` says, that has Zarr (pip install --no-deps zarr numcodecs google-crc32c donfig).
Zarr, as it comes, decompresses in several threads, the store in the one that reads.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.bundles import DATA
from benchmarks.loading.scans import make_pretraining_scan, make_training_set, missing
from ctfm.contract import PRETRAINING, WHOLE_BODY

Array = NDArray[Any]
Box = tuple[slice, ...]
Result = dict[str, dict[str, float]]

COPIES, ROUNDS, SEED = 12, 3, 0
#: Of chunks from 16x32x32 to 32x128x128 voxels these are read fastest.
ZARR_CHUNK = (32, 64, 64)


class Case(NamedTuple):
    """What is read ("view": image, of random size; "patch": image and label), and how."""

    access: str
    boxes: int  # of a scan in each pass over the scans
    readers: int = 1
    processes: bool = False
    cold: bool = False

    def draw(self, shape: tuple[int, ...], random: np.random.Generator) -> Box:
        """A box anywhere in a scan."""
        patch, scale = WHOLE_BODY.patch, 1.0
        if self.access == "view":
            patch, scale = PRETRAINING.patch, random.uniform(*PRETRAINING.resized_crop_scale)
        size = np.ceil(np.multiply(patch, scale)).astype(int)
        start = random.integers(shape - size + 1)
        return tuple(map(slice, start.tolist(), (start + size).tolist()))


CASES = {
    "view, warm, 1 thread": Case("view", 30),
    "view, warm, 4 threads": Case("view", 30, readers=4),
    "view, warm, 4 processes": Case("view", 30, readers=4, processes=True),
    "view, cold, 1 thread": Case("view", 1, cold=True),
    "view, cold, 4 threads": Case("view", 1, readers=4, cold=True),
    "30 views of a scan, cold, 1 thread": Case("view", 30, cold=True),
    "patch, warm, 1 thread": Case("patch", 2),
    "patch, warm, 4 threads": Case("patch", 2, readers=4),
    "patch, warm, 4 processes": Case("patch", 2, readers=4, processes=True),
    "patch, cold, 1 thread": Case("patch", 1, cold=True),
    "patch, cold, 4 threads": Case("patch", 1, readers=4, cold=True),
}


@cache
def opened(path: str) -> Any:
    """The .npy or Zarr file, which stays open until the pages are dropped."""
    if path.endswith(".npy"):
        return np.load(path, mmap_mode="r")
    import zarr

    return zarr.open_array(path, mode="r")


def read(path: str, box: Box) -> Array:
    return np.ascontiguousarray(opened(path)[box])  # which copies what is mapped


def read_blosc2(path: str, box: Box) -> Array:
    from ctfm.loading import read_region  # imports torch, which the others do without

    return read_region(path, tuple(s.start for s in box), tuple(s.stop - s.start for s in box))


def write_zarr(path: Path, voxels: Array, *, sharded: bool = False) -> None:
    """LZ4 too; a file for each chunk or, sharded, for the volume."""
    import zarr

    whole = tuple(-(-n // c) * c for n, c in zip(voxels.shape, ZARR_CHUNK, strict=True))
    grid = {"chunks": ZARR_CHUNK, "shards": whole if sharded else None}
    codec = zarr.codecs.BloscCodec(cname="lz4", clevel=1, shuffle="bitshuffle")
    zarr.create_array(path, data=voxels, compressors=codec, **grid)


def write_blosc2(path: Path, voxels: Array, *, zstd: bool = False) -> None:
    """As the store does; with zstd, all but the codec is the same, and the store can read it."""
    import blosc2

    from ctfm.loading import write_array

    write_array(path, voxels, {})
    if zstd:
        codec, filters = blosc2.Codec.ZSTD, [blosc2.Filter.BITSHUFFLE]
        cparams = {"codec": codec, "clevel": 1, "filters": filters, "nthreads": 1}
        path.write_bytes(blosc2.open(str(path)).copy(cparams=cparams).to_cframe())


OURS = "blosc2"
#: The suffix of a file, how a volume is written, how a box of it is read.
FORMATS: dict[str, tuple[str, Callable[[Path, Array], None], Callable[[str, Box], Array]]] = {
    OURS: (".b2nd", write_blosc2, read_blosc2),
    "npy": (".npy", np.save, read),
    "zarr": (".zarr", write_zarr, read),
    "zarr sharded": (".zarr", partial(write_zarr, sharded=True), read),
    "blosc2 zstd": (".b2nd", partial(write_blosc2, zstd=True), read_blosc2),
}


def convert_scans(folder: Path, data: Path) -> None:
    """What is written in each format: a folder for each scan, .npy files in it."""
    from ctfm.loading import convert_scan, store_recipe

    scans = {"view_0": ("pretraining", str(make_pretraining_scan(folder, data)), None)}
    for index, row in enumerate(make_training_set(folder, data, scans=2)):
        scans[f"patch_{index}"] = ("whole_body", row["image"], row["label"])
    for name, (task, *source) in scans.items():
        volume, target = convert_scan(*source, store_recipe(task)), folder / "originals" / name
        target.mkdir(parents=True)
        np.save(target / "image.npy", volume.image)
        if volume.label is not None:
            np.save(target / "label.npy", volume.label)


def write_copies(name: str, folder: Path) -> None:
    """Write the scans in a format, `COPIES` for each access, and see that they can be read."""
    (suffix, write, read_box), box = FORMATS[name], np.s_[5:55, 6:66, 7:77]
    for scan in (folder / "originals").iterdir():
        (first := folder / name / f"{scan.name}_0").mkdir(parents=True)
        for file in scan.iterdir():
            voxels, path = np.load(file), first / f"{file.stem}{suffix}"
            write(path, voxels)
            np.testing.assert_array_equal(read_box(str(path), box), voxels[box])
        for copy in range(1, COPIES // (1 if scan.name == "view_0" else 2)):
            shutil.copytree(first, folder / name / f"{scan.name}_{copy}")
    os.sync()  # pages that are not on disk are not dropped


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def drop_pages(folder: Path) -> None:
    """Take files out of the page cache, which a file that is mapped would stay in."""
    opened.cache_clear()
    for file in files_in(folder):
        with open(file, "rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bytes_from_disk() -> int:
    """What this process has had read so far."""
    return int(Path("/proc/self/io").read_text().partition("\nread_bytes: ")[2].split()[0])


def read_ahead_kib(folder: Path) -> int | None:
    """What the kernel reads around a page that is missing; None: the file system has no disk."""
    number = folder.stat().st_dev
    disk = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    files = [f for d in (disk, disk.parent) for f in d.glob("queue/read_ahead_kb")]  # or partition
    return int(files[0].read_text()) if files else None


def read_boxes(name: str, boxes: list[tuple[list[str], Box]]) -> int:
    """Bytes of their voxels."""
    return sum(FORMATS[name][2](file, box).nbytes for files, box in boxes for file in files)


def measure(name: str, case: Case, folder: Path, seconds: float) -> NDArray[np.float64]:
    """Crops, seconds, bytes of voxels and bytes from disk of passes that take this long."""
    total, random, scans = np.zeros(4), np.random.default_rng(SEED), []
    forked = partial(ProcessPoolExecutor, mp_context=get_context("fork"))
    readers: Callable[[int], Executor] = forked if case.processes else ThreadPoolExecutor
    for scan in sorted((folder / name).glob(f"{case.access}_*")):
        original = folder / "originals" / scan.name.rpartition("_")[0] / "image.npy"
        scans.append((list(map(str, scan.iterdir())), np.load(original, "r").shape))

    def read_pass(pool: Executor) -> NDArray[np.float64]:
        boxes = [(f, case.draw(shape, random)) for f, shape in scans for _ in range(case.boxes)]
        shares = [boxes[i :: case.readers] for i in range(case.readers)]
        before, start = bytes_from_disk(), time.perf_counter()
        size = sum(pool.map(partial(read_boxes, name), shares))
        elapsed = time.perf_counter() - start
        return np.array([len(boxes), elapsed, size, bytes_from_disk() - before])

    for file in files_in(folder / name):
        file.read_bytes()
    with readers(case.readers) as pool:
        read_pass(pool)
        while not case.cold and total[1] < seconds:
            total += read_pass(pool)
    while total[1] < seconds:
        drop_pages(folder / name)
        with readers(case.readers) as pool:  # the store's files are open while their thread lives
            total += read_pass(pool)
    return total


def run_engine(name: str, folder: Path, seconds: float) -> Result:
    """All figures of a format, by unit."""
    if not (folder / name).exists():
        with ThreadPoolExecutor(1) as pool:  # what it opens to see is closed with its thread
            pool.submit(write_copies, name, folder).result()
    result: Result = {"crops/s": {}, "MB/s": {}, "read / needed": {}, "MB on disk": {}}
    for figure, case in CASES.items():
        crops, elapsed, size, fetched = measure(name, case, folder, seconds)
        if case.cold and fetched < size / 10:
            continue  # the pages were not dropped
        result["crops/s"][figure] = crops / elapsed
        result["MB/s"][figure] = size / elapsed / 1e6
        if case.cold and case.readers == 1:
            result["read / needed"][figure] = fetched / size
    for access in ("view", "patch"):
        scans = (folder / name).glob(f"{access}_*")
        blocks = sum(file.stat().st_blocks for scan in scans for file in files_in(scan))
        result["MB on disk"][f"{access}, a scan"] = blocks * 512 / COPIES / 1e6
    return result


def run_engines(folder: Path, options: argparse.Namespace) -> dict[str, Result]:
    """Medians over rounds in which each engine has its turn, in a process of its own."""
    zarr_python = shutil.which(options.zarr_python) or "false"
    check = subprocess.run([zarr_python, "-c", "import zarr"], capture_output=True)
    if check.returncode:
        print(f"zarr: skipped, {options.zarr_python} does not have it: pass --zarr-python")
    absent = "zarr" if check.returncode else "-"
    rounds: dict[str, list[Result]] = {n: [] for n in FORMATS if not n.startswith(absent)}
    for name in list(rounds) * ROUNDS:
        python = zarr_python if name.startswith("zarr") else sys.executable
        arguments = [f"--engine={name}", f"--folder={folder}", f"--seconds={options.seconds}"]
        done = subprocess.run([python, __file__, *arguments], check=True, stdout=subprocess.PIPE)
        rounds[name].append(json.loads(done.stdout))
    units = rounds[OURS][0]
    return {
        name: {u: {f: median(r[u][f] for r in found) for f in units[u]} for u in units}
        for name, found in rounds.items()
    }


def main() -> None:
    from benchmarks.reporting import Row, report  # imports torch

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--folder", type=Path, help="on a disk; default: a temporary folder")
    parser.add_argument("--seconds", type=float, default=0.6, help="of each measurement")
    parser.add_argument("--zarr-python", default=sys.executable, help="interpreter that has Zarr")
    parser.add_argument("--engine", choices=FORMATS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        print(json.dumps(run_engine(options.engine, options.folder, options.seconds)))
        return
    if name := missing(options.data):
        sys.exit(f"error: {options.data} has no {name}: pass --data FOLDER")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        convert_scans(Path(name), options.data)
        results, read_ahead = run_engines(Path(name), options), read_ahead_kib(Path(name))
    if not results[OURS]["read / needed"]:
        print("cold: skipped, pages of files in this folder cannot be dropped: pass --folder")
    rows = [
        Row(figure, peer, ours, results[peer][unit][figure], unit, target, unit == "crops/s")
        for unit, target in (("crops/s", None), ("read / needed", "<= 3"), ("MB on disk", None))
        for figure, ours in results[OURS][unit].items()
        for peer in list(results)[1:]
    ]
    speeds = {name: result["MB/s"] for name, result in results.items()}
    report("store_format", rows, copies=COPIES, read_ahead_kib=read_ahead, mb_per_s=speeds)


if __name__ == "__main__":
    main()

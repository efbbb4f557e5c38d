"""Are the results of two trees of this project the same, byte for byte?

For changes that move code and are to change nothing: run it on the tree before and on the tree
after, on the same machine, and compare.

    python tests/same_bytes.py --root TREE --ct SCAN.nii.gz --out after.json
    python tests/same_bytes.py --compare before.json after.json

It uses only what stays when modules move: the command line, the bundles' configs, and files. Each
step runs in a process of its own on one thread of the CPU, two steps at a time; networks are
narrow, and their weights are made here. What is hashed is the content of arrays, tensors, tables
and reports, without times, paths and versions. It takes some minutes on two cores.

Left out are DALI, DICOM, the viewer, trainings in several processes, the files of stores (what is
trained from them is compared), pictures, and the commands that compare, rank, index and search.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import torch
from monai.networks.nets.segresnet_ds import SegResEncoder, SegResNetDS
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from same_bytes_steps import AUTO3DSEG, DONE, DRAWN, ENCODER, PRETRAIN, SCANS, Step

#: Items of reports, and scalars of TensorBoard, that are others in each run, or name a place.
PASSING = {
    "source",
    "sources",
    "file",
    "started",
    "finished",
    "seconds",
    "peak_memory_mib",
    "versions",
    "version",
    "ctfm_version",
    "provenance",
    "views_per_second",
    "share_of_time_waiting_for_data",
}
#: Files that consist of places and names of modules.
NAMING = {"algo_object.json"}


def prepare(work: Path) -> None:
    """Write data lists, the input of AutoRunner, and weights, always the same.

    Args:
        work: where the phantoms are. BatchNorm's statistics are those of a torso's middle.
    """
    torsos = [{"image": f"ct{i}.nii.gz", "label": f"label{i}.nii.gz"} for i in range(4)]
    heads = [{"image": f"head{i}.nii.gz", "label": i % 2, "subject": i} for i in range(8)]
    for name, rows, cut in (("torsos", torsos, 3), ("heads", heads, 4)):
        lists = {"training": rows[:cut], "validation": rows[cut:], "test": rows[cut:]}
        (work / name / "datalist.json").write_text(json.dumps(lists))
    (work / "auto3dseg.json").write_text(json.dumps(AUTO3DSEG))
    scan: Any = nib.load(work / SCANS[0])
    hu = np.asanyarray(scan.dataobj).astype(np.float32)
    middle = hu[tuple(slice((n - 48) // 2, (n + 48) // 2) for n in hu.shape)]
    for name, outputs in (("encoder", 0), ("whole_body", 118), ("tumors", 3)):
        torch.manual_seed(1)
        more = {"dsdepth": 2, "out_channels": outputs}
        network = SegResNetDS(**ENCODER, **more) if outputs else SegResEncoder(**ENCODER)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm3d):
                layer.momentum = None
        with torch.no_grad():
            network.train()(torch.from_numpy((middle + 1024) / 3072).clip(0, 1)[None, None])
        torch.save(network.state_dict(), work / f"{name}.pt")


def python(root: Path, work: Path, step: Step) -> str:
    """Run Python with the package of a tree, and return what it prints.

    Args:
        root: of the tree.
        work: the folder to work in.
        step: what Python is given.

    Raises:
        RuntimeError: it failed.
    """
    environment = os.environ | {
        "PYTHONPATH": str(root / "scripts"),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    typed = [sys.executable, *(word.replace("ROOT", str(root)) for word in step)]
    done = subprocess.run(
        typed, cwd=work, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(typed)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def run(root: Path, ct: Path | None) -> dict[str, str]:
    """Run all steps of a tree, and hash what they write.

    Args:
        root: of the tree.
        ct: a real CT; None: the steps that need it, and those of bundles that the tree has not,
            are left out.

    Raises:
        RuntimeError: a step failed, or Python finds another copy of the package.
    """
    with tempfile.TemporaryDirectory(prefix="same_bytes_") as folder, ThreadPoolExecutor(2) as pool:
        work = Path(folder).resolve()
        where = "from importlib.util import find_spec; print(find_spec('ctfm').origin)"
        package = python(root, work, ["-c", where]).strip()
        if not Path(package).is_relative_to(root):
            raise RuntimeError(f"Python takes the package from {package}, not from {root}")
        for name in ("torsos", "heads"):
            (work / name).mkdir()
        if ct is not None:
            (work / "given.nii.gz").write_bytes(ct.read_bytes())
        embeds = (root / "bundles" / PRETRAIN / "configs" / "inference.json").is_file()
        absent = {"given.nii.gz"} if ct is None else set()
        absent |= set() if embeds else {"embeddings_pretrain"}

        def run_all(steps: list[Step]) -> None:
            for step in steps:
                if not absent.intersection(step):
                    python(root, work, step)

        list(pool.map(run_all, DRAWN))
        prepare(work)
        list(pool.map(run_all, DONE))
        return of_folder(work)


def of_arrays(*arrays: Any) -> str:
    """Hash types, shapes and values."""
    hashed = hashlib.sha256()
    for array in map(np.asarray, arrays):
        hashed.update(f"{array.dtype.str}{array.shape}".encode() + array.tobytes())
    return hashed.hexdigest()


def of_image(path: Path) -> str:
    """Hash an image's voxels as they are stored, and its affine.

    Raises:
        RuntimeError: all voxels are the same: that would prove nothing.
    """
    image: Any = nib.load(path)
    voxels = np.asanyarray(image.dataobj)
    if (voxels == voxels.flat[0]).all():
        raise RuntimeError(f"{path}: all voxels are the same")
    return of_arrays(voxels, image.affine)


def of_text(content: Any) -> str:
    """Hash what JSON can hold, without what passes."""

    def kept(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: kept(value) for key, value in node.items() if key not in PASSING}
        return [kept(value) for value in node] if isinstance(node, list) else node

    return hashlib.sha256(json.dumps(kept(content), sort_keys=True).encode()).hexdigest()


def of_file(path: Path) -> str | None:
    """Hash the content of a file; None: it is of a kind that is not compared."""
    match path.suffix:
        case ".gz":
            return of_image(path)
        case ".pt" | ".safetensors":
            safe = path.suffix == ".safetensors"
            state = load_file(path) if safe else torch.load(path, weights_only=True)
            model = state.get("model", state)
            return of_text({name: of_arrays(tensor.numpy()) for name, tensor in model.items()})
        case ".json":
            return of_text(json.loads(path.read_text()))
        case ".csv":
            return of_text(path.read_text())
        case ".parquet":
            return of_text(pq.ParquetFile(path).read().to_pydict())
    return None


def of_curves(folder: Path) -> str:
    """Hash what a training logged for TensorBoard: losses, rates and scores."""
    rows = []
    for file in folder.iterdir():
        events = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
        for tag in set(events.Tags()["scalars"]) - PASSING:
            rows += [[tag, event.step, event.value] for event in events.Scalars(tag)]
    return of_text(sorted(rows))


def of_folder(folder: Path) -> dict[str, str]:
    """Hash all files below a folder that are compared, by their paths."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in NAMING]
    found = {path: of_file(path) for path in files}
    found |= {path: of_curves(path) for path in folder.rglob("tensorboard")}
    named = {path.relative_to(folder).as_posix(): value for path, value in found.items() if value}
    return dict(sorted(named.items()))


def compare(one: Path, two: Path) -> int:
    """Print the names that differ, or that one file lacks; return how many there are."""
    a, b = (json.loads(path.read_text()) for path in (one, two))
    different = [name for name in sorted(a | b) if a.get(name) != b.get(name)]
    for name in different:
        place = "" if name in a and name in b else f" (only in {one if name in a else two})"
        print(f"{name}{place}")
    print(f"{len(different)} of {len(a | b)} differ")
    return len(different)


def main() -> int:
    """Run a tree, or compare two runs; return the exit status."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--root", type=Path, help="the tree whose steps are run")
    parser.add_argument("--ct", type=Path, help="a real CT, segmented as well")
    parser.add_argument("--out", type=Path, help="the JSON file to write: names and hashes")
    parser.add_argument("--compare", type=Path, nargs=2, metavar="JSON", help="two such files")
    given = parser.parse_args()
    if given.compare:
        return int(compare(*given.compare) > 0)
    if not (given.root and given.out):
        parser.error("give --root and --out, or --compare")
    torch.set_num_threads(1)
    found = run(given.root.resolve(), given.ct)
    given.out.write_text(json.dumps(found, indent=4) + "\n")
    print(f"{len(found)} hashes -> {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

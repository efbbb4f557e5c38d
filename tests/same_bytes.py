"""Show that a change of the code leaves results the same, byte for byte.

Runs what users run in a checkout (label maps, embeddings, trainings, a store, triage) on phantoms,
and on a CT of your own, and writes a SHA-256 of each result. It imports nothing of the package, so
that it runs on any version of it:

    python tests/same_bytes.py --root BEFORE --out before.json
    python tests/same_bytes.py --root . --out after.json
    python tests/same_bytes.py --compare before.json after.json

Results are the same on one machine with one number of threads only. Some two minutes on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import torch
from monai.networks.nets.segresnet_ds import SegResEncoder, SegResNetDS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from support import TINY, TINY_PRETRAIN, TINY_TRIAGE, make_ct, save

SIZE: dict[str, Any] = {"init_filters": 4, "blocks_down": (1, 1, 1, 1, 1)}
CLASS_IDS = [1, 3, 5]
TRAINING = {"epochs": 2, "batch_size": 1, "learning_rate": 0.005, "val_interval": 1}
PRETRAINING = {
    **TRAINING, "batch_size": 2, "iterations": 3, "crops": 3, "warmup_epochs": 1,
    "save_iterations": 1,
}  # fmt: skip
Digests = dict[str, str]


class Checkout:
    """One version of the project.

    Args:
        root: the checkout.
        work: folder for what its commands write.
    """

    def __init__(self, root: Path, work: Path) -> None:
        self.root = root
        self.work = work

    def ctfm(self, *arguments: object) -> None:
        """Run ``ctfm …``."""
        self._run("-m", "ctfm", *map(str, arguments))

    def bundle(self, name: str, *stems: str, **overrides: Any) -> None:
        """Run stacked configs of a bundle; ids are spelled with ``__``."""
        configs = self.root / "bundles" / name / "configs"
        arguments = {
            "config_file": [str(next(configs.glob(f"{stem}.*"))) for stem in stems],
            "bundle_root": str(configs.parent),
            **{key.replace("__", "::"): value for key, value in overrides.items()},
        }
        file = self.work / "arguments.json"
        file.write_text(json.dumps(arguments))
        self._run("-m", "monai.bundle", "run", "--args_file", str(file))

    def _run(self, *arguments: str) -> None:
        fixed = {"PYTHONPATH": str(self.root / "scripts"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.work,
            env={**os.environ, **fixed},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}")


def digest(*arrays: Any) -> str:
    """SHA-256 of types, shapes and values."""
    total = hashlib.sha256()
    for array in map(np.asarray, arrays):
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def volumes(folder: Path) -> Iterator[tuple[str, str]]:
    """Each NIfTI file below a folder: values and affine."""
    for path in sorted(folder.rglob("*.nii*")):
        image = nib.load(path)
        yield path.relative_to(folder).as_posix(), digest(image.dataobj, image.affine)


def tables(folder: Path) -> Iterator[tuple[str, str]]:
    """Each table and each list of measurements below a folder, as written."""
    for path in sorted([*folder.rglob("*.csv"), *folder.rglob("*_statistics.json")]):
        yield path.relative_to(folder).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()


def trained(models: Path, out: Path) -> str:
    """The weights that a training leaves, and the loss of each iteration."""
    weights = torch.load(models / "last.pt", weights_only=True)
    state = next(v for k, v in weights.items() if k in ("network", "model", "state_dict"))
    losses = []
    for file in sorted((out / "tensorboard").iterdir()):
        events = EventAccumulator(str(file)).Reload()
        if "loss" in events.Tags()["scalars"]:
            losses += [event.value for event in events.Scalars("loss")]
    assert losses, f"no losses in {out}"
    return digest(*(state[name] for name in sorted(state)), losses)


def prepare(work: Path) -> None:
    """A data set of five tiny cases, their scans alone, and weights that nobody trained."""
    rows = []
    for i in range(5):
        hu, label = make_ct(seed=i)
        save(hu, work / "data" / f"s{i}" / "ct.nii.gz")
        save(label, work / "data" / f"s{i}" / "labels.nii.gz")
        rows.append({"image": f"s{i}/ct.nii.gz", "label": f"s{i}/labels.nii.gz"})
    datalist = {"training": rows[:3], "validation": rows[3:], "test": rows[3:]}
    (work / "data" / "datalist.json").write_text(json.dumps(datalist))
    labelled = [{"image": row["image"], "label": i % 2} for i, row in enumerate(rows)]
    heads = {"training": labelled[:3], "validation": labelled[3:], "test": labelled[3:]}
    torch.manual_seed(0)
    segmenter = SegResNetDS(3, in_channels=1, out_channels=118, dsdepth=2, **SIZE)
    encoder = SegResEncoder(3, in_channels=1, **SIZE)
    for network, name in ((segmenter, "segmenter.pt"), (encoder, "encoder.pt")):
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
        torch.save(network.state_dict(), work / name)
    (work / "heads.json").write_text(json.dumps(heads))


def phantoms(tree: Checkout) -> Iterator[tuple[str, str]]:
    """Drawn bodies and their labels."""
    (tree.work / "phantoms").mkdir()
    for kind in ("torso", "head"):
        ct, label = (tree.work / "phantoms" / f"{kind}_{n}.nii.gz" for n in ("ct", "labels"))
        tree.ctfm("phantom", kind, "--out", ct, "--label", label, "--spacing", "5,5,5")
    yield from volumes(tree.work / "phantoms")


def label_maps(tree: Checkout, scans: list[Path]) -> Iterator[tuple[str, str]]:
    """Whole body, as ways through the code that differ."""
    shared = [
        *map(str, scans), "--checkpoint", str(tree.work / "segmenter.pt"), "--preview", "false",
        "--network_def::init_filters", "4", "--network_def::blocks_down", "[1,1,1,1,1]",
        "--network_def::dsdepth", "2", "--patch", "[48,48,48]", "--spacing", "[3.0,3.0,3.0]",
        "--bundle", str(tree.root / "bundles" / "ct_fm_whole_body_segmentation"),
    ]  # fmt: skip
    ways = {
        "plain": ["--statistics", "true"],
        "linear": ["--inversion", "linear", "--amp", "False"],
        "some": ["--classes", "liver,spleen", "--confidence", "true"],
    }
    for name, options in ways.items():
        out = tree.work / "labels" / name
        tree.ctfm("segment", *shared, "-o", out, *options)
        for path, value in (*volumes(out), *tables(out)):
            yield f"{name}/{Path(path).name}", value


def embeddings(tree: Checkout, scans: list[Path]) -> Iterator[tuple[str, str]]:
    """The feature extractor's table."""
    folder = tree.work / "embeddings"
    tree.bundle(
        "ct_fm_feature_extractor", "inference", **TINY_PRETRAIN, input=list(map(str, scans)),
        checkpoint=str(tree.work / "encoder.pt"), output_dir=str(folder), progress=False,
    )  # fmt: skip
    table = pq.read_table(folder / "embeddings.parquet").sort_by("scan").to_pydict()
    yield "table", digest(*(np.array(table[name]) for name in ("scan", "kind", "embedding")))


def trainings(tree: Checkout) -> Iterator[tuple[str, str]]:
    """Two epochs of each bundle that trains: from files, and from stores of the same scans."""
    data, work = tree.work / "data", tree.work
    segmenting = {
        **TINY, **TRAINING, "dataset_dir": str(data), "class_ids": CLASS_IDS,
        "network_def__out_channels": len(CLASS_IDS) + 1,
    }  # fmt: skip
    pretraining = {**TINY_PRETRAIN, **PRETRAINING, "dataset_dir": str(data)}
    triage = {
        **TINY_TRIAGE, **TRAINING, "dataset_dir": str(data), "datalist": str(work / "heads.json"),
        "input_check": "off",
    }  # fmt: skip
    stores = {}
    for task in ("whole_body", "pretraining"):
        stores[task] = str(work / "stores" / task)
        tree.ctfm("store", "build", data / "datalist.json", "--task", task,
                  "--out", stores[task], "--spacing", "3,3,3", "--workers", "1")  # fmt: skip
    body, pretrain = "ct_fm_whole_body_segmentation", "ct_fm_pretrain"
    head = "ct_fm_head_ct_triage"
    for name, bundle, stems, overrides in (
        ("whole_body", body, ("train", "from_scratch"), segmenting),
        ("whole_body_store", body, ("train", "from_scratch", "store"),
         {**segmenting, "store": stores["whole_body"]}),
        ("pretraining", pretrain, ("train",), pretraining),
        ("pretraining_store", pretrain, ("train", "store"),
         {**pretraining, "store": stores["pretraining"]}),
        ("triage", head, ("train", "from_scratch"), triage),
    ):  # fmt: skip
        out, models = work / "trainings" / name / "out", work / "trainings" / name / "models"
        tree.bundle(bundle, *stems, **overrides, output_dir=str(out), ckpt_dir=str(models))
        yield name, trained(models, out)


def run(root: Path, scan: Path | None) -> Digests:
    """All digests of a checkout."""
    digests: Digests = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare(work)
        tree = Checkout(root.resolve(), work)
        scans = [work / "phantoms" / "torso_ct.nii.gz"]
        if scan:
            scans.append(shutil.copy(scan, work / "scan.nii.gz"))
        steps = {
            "phantoms": phantoms(tree),
            "label_maps": label_maps(tree, scans),
            "embeddings": embeddings(tree, scans),
            "trainings": trainings(tree),
        }
        for step, results in steps.items():
            for name, value in results:
                print(step, name, value[:12], flush=True)
                digests[f"{step}/{name}"] = value
    return digests


def compare(before: Path, after: Path) -> int:
    """Print the names whose digests differ; how many they are."""
    one, other = (json.loads(path.read_text()) for path in (before, after))
    names = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    for name in names:
        print(f"differs: {name}")
    print(f"{len(names)} of {len(one.keys() | other.keys())} results differ")
    return len(names)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--ct", type=Path, help="a CT of your own, beside the phantoms")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--compare", type=Path, nargs=2)
    options = parser.parse_args()
    if options.compare:
        sys.exit(min(1, compare(*options.compare)))
    text = json.dumps(run(options.root, options.ct), indent=1)
    print(text) if options.out is None else options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()

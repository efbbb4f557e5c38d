"""Real CTs: are a liver, a kidney and a vertebra found by an encoder that was pretrained here?

A narrow encoder is pretrained through the bundle for some minutes, from several seeds, on two real
CTs and phantoms, without labels. Then organs of one CT are looked for, as `ctfm locate` does: in a
copy of it that is warped, turned, scaled, resampled and noisier, and in the other CT. Beside each
trained encoder stands one with random weights.

    make bench NAME=locating_real_ct ARGS="--data FOLDER [--seeds 3]"

FOLDER holds ct_torso_3mm.nii.gz and ct_abdomen_3mm.nii.gz with their labels, which are test files
of TotalSegmentator. The scans that are searched are among those that are trained on: this tells
whether the tools work end to end on real CT, not how an encoder generalises.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from benchmarks.bundles import DATA, NARROW_PRETRAINING, run_bundle
from benchmarks.locating.run import altered
from benchmarks.reporting import Row, report
from ctfm.contract import TOTALSEGMENTATOR_V2
from ctfm.loading import build_store
from ctfm.phantoms import draw_torso, save_phantom
from ctfm.protocols import (
    SearchAnswers,
    best_window,
    find_candidates,
    load_cases,
    random_candidates,
    search,
)

SCANS = {
    "torso": ("ct_torso_3mm.nii.gz", "ct_torso_3mm_labels_fast.nii.gz"),
    "abdomen": ("ct_abdomen_3mm.nii.gz", "ct_abdomen_3mm_labels.nii.gz"),
}
ORGANS = ("liver", "kidney_right", "kidney_left", "vertebrae_L1")
#: The abdomen has 30 slices; a patch of 32 would leave one window along it.
SPACING, PATCH = (3.0, 3.0, 3.0), (16, 32, 32)
PHANTOMS, BATCH_SIZE = range(2), 16
#: Largest displacement of the warp, mm, and voxels over which it is smooth.
WARP_MM, SMOOTH = 9.0, 12.0
TRAINING: dict[str, Any] = {
    **NARROW_PRETRAINING,
    "epochs": 24,
    "patch": list(PATCH),
    "spacing": list(SPACING),
}


def warped(row: dict[str, Any], folder: Path, number: int) -> dict[str, Any]:
    """A copy that is bent smoothly, then altered as in the benchmark of searches."""
    generator = np.random.default_rng(number)
    bent: dict[str, Any] = {}
    shape = nib.load(row["image"]).shape
    fields = [ndimage.gaussian_filter(generator.normal(size=shape), SMOOTH) for _ in range(3)]
    size = nib.load(row["image"]).header.get_zooms()[0]
    grid = np.indices(shape, dtype=np.float32)
    places = [g + f / np.abs(f).max() * WARP_MM / size for g, f in zip(grid, fields, strict=True)]
    for key, order in (("image", 1), ("label", 0)):
        stored: Any = nib.load(row[key])
        values = np.asarray(stored.dataobj, np.float32)
        fill = -1000.0 if key == "image" else 0.0
        moved = ndimage.map_coordinates(values, places, order=order, cval=fill)
        path = folder / f"bent{number}_{key}.nii.gz"
        nib.save(nib.Nifti1Image(moved.round().astype(np.int16), stored.affine), path)
        bent[key] = str(path)
    return altered(bent, folder, number)


def prepare(folder: Path, data: Path) -> None:
    """The store that is trained on: no labels in it."""
    training = [{"image": str(data / image)} for image, _ in SCANS.values()]
    for seed in PHANTOMS:
        path = folder / f"phantom_{seed}.nii.gz"
        save_phantom(draw_torso(seed), path)
        training.append({"image": str(path)})
    datalist = folder / "training.json"
    datalist.write_text(json.dumps({"training": training}))
    build_store(str(datalist), str(folder / "store"), "pretraining", spacing=SPACING, workers=1)


def train(folder: Path, seed: int) -> tuple[str, float]:
    """Pretrain as a user does; checkpoint and seconds."""
    name = f"seed_{seed}"
    settings = {
        "store": str(folder / "store"),
        "output_dir": str(folder / name),
        "ckpt_dir": str(folder / name),
        "seed": seed,
        **TRAINING,
    }
    seconds = run_bundle("ct_fm_pretrain", ("train", "store"), folder, **settings)
    return str(folder / name / "last.pt"), seconds


def pairs(folder: Path, data: Path) -> dict[str, list[Any]]:
    """Query and target of each task, as scans with their windows and organs."""
    ids = [i for i, name in TOTALSEGMENTATOR_V2.items() if name in ORGANS]
    rows = {
        name: {"image": str(data / image), "label": str(data / label)}
        for name, (image, label) in SCANS.items()
    }
    for number, name in enumerate(SCANS):
        rows[f"{name}, altered"] = warped(rows[name], folder, number)
    cases = dict(
        zip(
            rows,
            load_cases([*rows.values()], str(folder), ids, SPACING, PATCH, 0.625, "off"),
            strict=True,
        )
    )
    asked = [
        ("torso", "torso, altered"),
        ("abdomen", "abdomen, altered"),
        ("torso", "abdomen"),
        ("abdomen", "torso"),
    ]
    return {f"{query} -> {target}": [cases[query], cases[target]] for query, target in asked}


def forward(answers: SearchAnswers) -> dict[str, tuple[float, float]]:
    """Organ -> distance in mm and whether the answer lies inside, from the first scan only."""
    mine = np.flatnonzero(answers.queries == 0)
    return {
        TOTALSEGMENTATOR_V2[int(answers.class_ids[i])]: (
            float(answers.distances_mm[i]),
            float(answers.inside[i]),
        )
        for i in mine
    }


def look(encoders: Sequence[Any], tasks: dict[str, list[Any]]) -> dict[str, Any]:
    """Task -> organ -> distances of each encoder, and whether they lie inside."""
    found: dict[str, Any] = {}
    for one in encoders:
        network = one.network()
        for task, cases in tasks.items():
            answers = forward(search(cases, network, BATCH_SIZE))
            for organ, (distance, inside) in answers.items():
                place = found.setdefault(task, {}).setdefault(organ, {"mm": [], "inside": []})
                place["mm"].append(distance)
                place["inside"].append(inside)
    return found


def rows_of(tasks: dict[str, list[Any]], ours: Any, theirs: Any) -> list[Row]:
    rows = []
    for task, cases in tasks.items():
        limit = forward(best_window(cases))
        for organ in ORGANS:
            mine, random = ours[task][organ], theirs[task][organ]
            figure = f"{organ}, {task}: distance (nearest window {limit[organ][0]:.0f} mm)"
            medians = statistics.median(mine["mm"]), statistics.median(random["mm"])
            rows.append(Row(figure, "random weights", *medians, "mm", None, larger_is_better=False))
    for name, key, larger in (("median distance", "mm", False), ("share inside", "inside", True)):
        for kind, chosen in (
            ("altered copies", [t for t in tasks if "altered" in t]),
            ("the other scan", [t for t in tasks if "altered" not in t]),
        ):
            total = statistics.median if key == "mm" else statistics.mean
            mine, random = (
                float(total([v for t in chosen for o in ORGANS for v in each[t][o][key]]))
                for each in (ours, theirs)
            )
            unit = "mm" if key == "mm" else ""
            title = f"{name}, all organs, {kind}"
            rows.append(Row(title, "random weights", mine, random, unit, None, larger))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    data = options.data.resolve()
    if not (data / SCANS["torso"][0]).exists():
        sys.exit(f"error: {data} has no {SCANS['torso'][0]}: pass --data FOLDER")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, data)
        runs = [train(folder, seed) for seed in range(options.seeds)]
        trained = find_candidates([path for path, _ in runs])
        tasks = pairs(folder, data)
        ours = look(trained, tasks)
        theirs = look(random_candidates(trained, options.seeds), tasks)
        rows = rows_of(tasks, ours, theirs)
    seconds = statistics.median(seconds for _, seconds in runs)
    rows.insert(0, Row("training of an encoder, wall time", None, seconds, None, "s", None))
    report("locating_real_ct", rows, ours=ours, random=theirs, **TRAINING)


if __name__ == "__main__":
    main()

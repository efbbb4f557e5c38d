"""From phantoms to label maps and scores in a few minutes: no weights, no network, no GPU.

    make demo                      phantoms, datalist, encoder, training, inference, evaluation
    make demo CT=path/to/scan      your own CT, with the published weights

Each step is a command that can be typed, printed before it runs. Results: demo_output/.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from steps import CTFM, RUN, configs, heading, start_afresh, step, typed

from ctfm.base import UserError, explain_in_one_line

ROOT = Path(__file__).resolve().parents[1]
# relative to ROOT, where every command runs
BUNDLE = Path("bundles/ct_fm_whole_body_segmentation")
OUT = Path("demo_output")
DATA, ENCODER, CACHE = OUT / "dataset", OUT / "encoder.safetensors", OUT / "cache"
STORE, SCAN = OUT / "store", OUT / "unseen_phantom.nii.gz"
MODELS, CURVES = OUT / "models", OUT / "training"
LABELS, SCORES, OWN = OUT / "segmentation", OUT / "evaluation", OUT / "own_ct"
#: What a run on phantoms replaces, once its mark says that it was a demo that made it.
MADE = (DATA, ENCODER, CACHE, STORE, SCAN, MODELS, CURVES, LABELS, SCORES)

PUBLISHED = "project-lighter/whole_body_segmentation"
WEIGHTS = ("model.pt", "model.safetensors")
NARROW_ENCODER = f"""
import torch
from monai.networks.nets.segresnet_ds import SegResEncoder
from safetensors.torch import save_file
torch.manual_seed(0)
encoder = SegResEncoder(init_filters=8, in_channels=1, blocks_down=(1, 2, 2, 4, 4))
save_file(encoder.state_dict(), '{ENCODER}')
"""
BANNER = f"""\
The whole chain on CT phantoms, in about five minutes on two CPU cores. Nothing here is pretrained:
a narrow encoder with random values stands in for CT-FM's. Ctrl-C stops.
Commands run in {ROOT}"""
CAVEAT = """\
Phantoms and a random start: the figure shows that the chain works. It says nothing about CT-FM, nor
about real CT.
"""


def phantoms() -> None:
    """The whole chain on phantoms, afresh each time."""
    started = time.monotonic()
    start_afresh(OUT, MADE)
    print(BANNER)
    datalist, model = DATA / "datalist.json", MODELS / "model.pt"
    data = {"dataset_dir": DATA, "ckpt_dir": MODELS, "cache_dir": CACHE}
    heading("1/7  Nine CT phantoms, stored as TotalSegmentator's data set is released")
    step("phantoms", [*CTFM, "phantom", "dataset"], root=DATA, subjects=9, spacing="3,3,3")
    heading("2/7  Their masks become label maps: 7 to train on, 1 to validate, 1 to test")
    step("datalist", [*CTFM, "datalist", "totalsegmentator"], root=DATA, out=datalist)
    heading("3/7  The scans are converted once, to be read by region in training")
    build = [*CTFM, "store", "build", str(datalist)]
    step("store", build, task="whole_body", out=STORE, spacing="5,5,5")
    heading("4/7  An encoder as CT-FM's, at a quarter of its width and with random values")
    step("encoder", [sys.executable, "-c", NARROW_ENCODER])
    step("encoder", [*CTFM, "weights", "verify"], source=ENCODER)
    heading("5/7  Training: the encoder is loaded, all of it or none, and 17 organs are learned")
    has_dali = find_spec("nvidia") and find_spec("nvidia.dali")
    loading = ["store", "dali"] if has_dali else ["store"]
    training = bundle("train", "group", "narrow", *loading, "few_minutes")
    step("training", RUN, **training, **data, store=STORE, encoder=ENCODER, output_dir=CURVES)
    heading("6/7  Inference on a phantom that the training has not seen")
    test = json.loads(datalist.read_text())["test"]
    shutil.copyfile(DATA / test[0]["image"], SCAN)
    inference = bundle("inference", "group", "narrow")
    step(
        "inference",
        RUN,
        **inference,
        input=SCAN,
        checkpoint=model,
        output_dir=LABELS,
        progress=False,
    )
    heading("7/7  Scores of that phantom against its true labels")
    evaluation = bundle("train", "evaluate", "group", "narrow")
    step("evaluation", RUN, **evaluation, split="test", **data, output_dir=SCORES)
    closing(time.monotonic() - started)


def closing(seconds: float) -> None:
    """Say what was made, where it lies, and how to go on."""
    scores = json.loads((SCORES / "metrics.json").read_text())
    dice = scores["overall"]["estimates"]["dice"]["mean"]
    heading(f"Done in {seconds / 60:.1f} minutes: mean Dice {dice:.2f}")
    print(CAVEAT)
    for path, what in (
        (LABELS / "unseen_phantom_preview.png", "picture"),
        (LABELS / "unseen_phantom_seg.nii.gz", "label map"),
        (LABELS / "unseen_phantom_seg.json", "names, volumes"),
        (SCORES / "metrics_summary.csv", "scores"),
        (MODELS / "model.pt", "network"),
        (CURVES / "tensorboard", "curves"),
    ):
        print(f"  {what:<16}{path.resolve()}")
    print("\nYour own CT, by the published weights, which are downloaded (349 MB):\n")
    print("    make demo CT=path/to/ct.nii.gz")
    print("\nYour own training, on TotalSegmentator v2 or on masks in its layout, in DIR:\n")
    encoder = BUNDLE / "models" / "ct_fm_encoder.safetensors"
    fetch = [*CTFM, "weights", "fetch", "project-lighter/ct_fm_feature_extractor"]
    print(typed(fetch, out=encoder))
    print(typed([*CTFM, "datalist", "totalsegmentator"], root="DIR", out="DIR/datalist.json"))
    print(typed(RUN, **bundle("train"), dataset_dir="DIR"))
    print(f"\nKnobs and overlays: {(BUNDLE / 'docs' / 'README.md').resolve()}")


def own_ct(ct: Path) -> None:
    """Segment a user's scans with the published weights, or say what is missing.

    Args:
        ct: file, folder or pattern.

    Raises:
        UserError: there is no CT, or no weights. Nothing is segmented then.
    """
    import torch

    heading("1/3  The input")
    describe_scans(str(ct))
    models = [BUNDLE / "models" / name for name in WEIGHTS]
    weights = next((path for path in models if path.is_file()), None)
    inference = bundle("inference") | {"input": ct, "output_dir": OWN}
    inference["checkpoint"] = weights or models[-1]
    if not torch.cuda.is_available():
        inference["overlap"] = "0.25"  # a quarter of the windows of the published 0.625
    heading("2/3  The published weights")
    if weights is None:
        print(f"None in {BUNDLE / 'models'}: downloading 349 MB from the Hugging Face hub.")
        fetch = [*CTFM, "weights", "fetch", PUBLISHED]
        try:
            step("download", fetch, out=models[-1])
        except UserError as error:
            print("\nNothing was segmented. Once online:\n")
            print(typed(fetch, out=models[-1]), typed(RUN, **inference), sep="\n\n", end="\n\n")
            raise UserError(
                "the published weights could not be downloaded, and a CT is segmented with no "
                "others: see above for the two commands that go on"
            ) from error
    step("weights", [*CTFM, "weights", "verify"], source=inference["checkpoint"])
    heading("3/3  Inference")
    step("inference", RUN, **inference)
    heading(f"Done: label maps, volumes and pictures are in {OWN.resolve()}")


def describe_scans(source: str) -> None:
    """Read each scan and print what it is.

    Raises:
        UserError: none of them is a CT, with the reason of the last one.
    """
    from nibabel.orientations import aff2axcodes

    from ctfm.imaging import check_ct, find_scans, read_scan

    good, reason = 0, ""
    for row in find_scans(source, output_dir=str(OWN)):
        path = row["image"]
        try:
            image = read_scan(path)
            print(path)
            affine, shape = np.asarray(image.affine, dtype=float), image.shape[1:]
            spacing = np.linalg.norm(affine[:3, :3], axis=0)
            sides = [round(n * mm) for n, mm in zip(shape, spacing, strict=True)]
            print(f"  voxels   {times(shape)} of {times(f'{mm:.3g}' for mm in spacing)} mm")
            print(f"  size     {times(sides)} mm, axes to {' '.join(aff2axcodes(affine))}")
            print(f"  values   {float(image.min()):g} to {float(image.max()):g}")
            check_ct(image, path)
            print("  checks   passed: a three-dimensional CT in Hounsfield units")
            good += 1
        except UserError as error:
            reason = str(error)
            print(f"  refused  {reason.removeprefix(f'{path}: ')}")
    if not good:
        raise UserError(reason)


def times(values: Any) -> str:
    """``512 x 512 x 300``."""
    return " x ".join(map(str, values))


def bundle(entry: str, *overlays: str) -> dict[str, Any]:
    """Options that run an entry point of the bundle with overlays, the bundle's or the demo's."""
    return configs(BUNDLE, entry, *overlays)


def main() -> None:
    """Parse the command line, and run one of the two demos."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    formats = "NIfTI, NRRD, MHA/MHD or the folder of a DICOM series; or a folder of scans"
    parser.add_argument("--ct", help=f"your own scan: {formats}")
    ct = parser.parse_args().ct
    explain_in_one_line()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # steps are stopped as by Ctrl-C
    path = None if ct is None else Path(ct).expanduser().absolute()
    os.chdir(ROOT)
    if path is None:
        phantoms()
    else:
        own_ct(path)


if __name__ == "__main__":
    main()

"""Is it noticed that front and back of a scan are exchanged, and is nobody told so falsely?

Each patient's scan is checked as it is and with its front-back axis flipped in the header. The
weights and the limit of `ctfm.imaging.checks.front` were chosen on patients of odd number; those of
even number, and the trunks, are reported apart.

    make bench NAME=front_and_back ARGS="--data FOLDER"

FOLDER holds, at any depth, pt_N_ct.nii.gz (OpenKBP, necks) and STS_N_ct.nii.gz (TCIA's
Soft-tissue-Sarcoma: arms and legs), and the trunks that are listed here.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from pathlib import Path

import numpy as np
from monai.data import MetaTensor

from benchmarks.bundles import DATA
from benchmarks.reporting import Row, report
from ctfm.imaging import inspect_scan, read_scan

PATIENT = re.compile(r"(?:pt|STS)_(\d+)_ct\.nii\.gz")
TRUNKS = (
    "ct_torso_3mm.nii.gz",
    "ct_abdomen_3mm.nii.gz",
    "real/files/lung_cancer_LUNG1-001.nii.gz",
    "real/files/liver_mets_CRLM-CT-1004.nii.gz",
)
TEXT = "front and back may be exchanged"


def warned(image: MetaTensor) -> bool:
    """Whether the input check says that front and back may be exchanged."""
    return any(text.startswith(TEXT) for text in inspect_scan(image, None).warnings)


def flipped(image: MetaTensor) -> MetaTensor:
    """The same voxels under a header that exchanges front and back."""
    affine = image.affine.numpy().copy()
    affine[1] *= -1
    return MetaTensor(image.as_tensor(), affine=affine)


def shares(paths: list[Path]) -> tuple[float, float, float]:
    """Share told falsely, share of the flipped ones found, seconds a scan (median)."""
    false, found, seconds = [], [], []
    for path in paths:
        image = read_scan(str(path))
        start = time.perf_counter()
        false.append(warned(image))
        seconds.append(time.perf_counter() - start)
        found.append(warned(flipped(image)))
    return float(np.mean(false)), float(np.mean(found)), statistics.median(seconds)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    data = parser.parse_args().data
    odd, even = [], []
    for path in sorted(data.rglob("*_ct.nii.gz")):
        if match := PATIENT.fullmatch(path.name):
            (odd if int(match[1]) % 2 else even).append(path)
    groups = {
        "patients of odd number (chosen on)": odd,
        "patients of even number": even,
        "trunks": [data / name for name in TRUNKS if (data / name).is_file()],
    }
    rows = []
    for name, paths in groups.items():
        if not paths:
            print(f"skipped: {name}: none in {data}")
            continue
        false, found, seconds = shares(paths)
        label = f"{len(paths)} {name}"
        rows += [
            Row(f"told falsely, {label}", None, false, None, "share", "<= 0.01"),
            Row(f"flipped ones found, {label}", None, found, None, "share", ">= 0.8"),
            Row(f"input check, {label}", None, seconds, None, "s", None),
        ]
    report("front_and_back", rows)


if __name__ == "__main__":
    main()

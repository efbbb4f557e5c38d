"""What tests of the Auto3DSeg template share: a tiny task and its AutoRunner."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import yaml
from monai.apps.auto3dseg import AutoRunner, DataAnalyzer
from monai.networks.nets.segresnet_ds import SegResEncoder

from ctfm.auto3dseg.algo import CTFMAlgo
from support import ROOT, make_ct, save

TEMPLATES = ROOT / "algorithm_templates"
NARROW = {"init_filters": 4, "blocks_down": [1, 1, 1, 1, 1], "dsdepth": 2}
#: Options with which a fold trains in seconds.
TINY: dict[str, Any] = {
    "roi_size": [48, 48, 48],
    "batch_size": 1,
    "num_epochs": 2,
    "num_epochs_per_validation": 1,
    "precise_statistics_batches": 1,
    "overlap": 0.25,
    "num_workers": 0,
    "network": NARROW,
    "class_names": [
        {"name": "spleen", "index": 1},
        {"name": "kidney_left", "index": 3},
        {"name": "liver", "index": 5},
    ],
}


def make_task(root: Path, cases: int = 4) -> dict[str, Any]:
    """Write CTs with labels in two folds, and one to test on, t, in another orientation.

    Its true label, r, is in no list.

    Returns:
        An input for AutoRunner.
    """
    rows = []
    for i in range(cases):
        hu, label = make_ct(seed=i)
        save(hu, root / "data" / f"c{i}.nii.gz")
        save(label, root / "data" / f"l{i}.nii.gz")
        rows.append({"image": f"c{i}.nii.gz", "label": f"l{i}.nii.gz", "fold": i % 2})
    for name, array in zip("tr", make_ct(seed=cases), strict=True):
        voxels, affine = turned(array)
        save(voxels, root / "data" / f"{name}.nii.gz", affine)
    lists = {"training": rows, "testing": [{"image": "t.nii.gz"}]}
    (root / "list.json").write_text(json.dumps(lists))
    return {
        "modality": "CT",
        "datalist": str(root / "list.json"),
        "dataroot": str(root / "data"),
        "pretrained": None,
        **TINY,
    }


def turned(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A volume of axes RAS in axes PIR, without its last slices, and its affine."""
    axes = [nib.orientations.axcodes2ornt(codes) for codes in ("RAS", "PIR")]
    image = nib.Nifti1Image(array, np.diag([3.0, 3.0, 3.0, 1.0]))
    found = image.as_reoriented(nib.orientations.ornt_transform(*axes)).slicer[:, :, :36]
    return np.asarray(found.dataobj), found.affine


def runner(work_dir: Path, source: dict[str, Any], **options: Any) -> AutoRunner:
    """AutoRunner on this template, with analysis on the CPU."""
    made = AutoRunner(
        work_dir=str(work_dir),
        input=dict(source),
        algos=["segresnetctfm"],
        templates_path_or_url=str(TEMPLATES),
        **options,
    )
    made.set_analyze_params({"do_ccp": False, "device": "cpu", "worker": 0})
    return made


def make_fold(
    work: Path, source: dict[str, Any], fold: int = 0, tracking_uri: str | None = None
) -> CTFMAlgo:
    """Analyse the data and make the folder of a fold, as AutoRunner does."""
    work.mkdir(parents=True, exist_ok=True)
    lists = work / "list.json"
    shutil.copyfile(source["datalist"], lists)
    (work / "input.yaml").write_text(yaml.safe_dump({**source, "datalist": str(lists)}))
    statistics = str(work / "datastats.yaml")
    analyzer = DataAnalyzer(str(lists), source["dataroot"], statistics, device="cpu", worker=0)
    analyzer.get_all_case_stats()
    algo = CTFMAlgo(template_path=str(TEMPLATES))
    algo.name = "segresnetctfm"
    algo.set_data_stats(statistics)
    algo.set_mlflow_tracking_uri(tracking_uri)
    algo.set_data_source(str(work / "input.yaml"))
    algo.export_to_disk(str(work), f"segresnetctfm_{fold}", fold=fold)
    return algo


def narrow_encoder(path: Path, blocks: Sequence[int] = (1, 1, 1, 1, 1)) -> SegResEncoder:
    """An encoder that fits the narrow network, saved."""
    torch.manual_seed(3)
    encoder = SegResEncoder(in_channels=1, init_filters=4, blocks_down=tuple(blocks))
    torch.save(encoder.state_dict(), path)
    return encoder

"""The steps that `same_bytes` runs: commands and bundles, on phantoms, with narrow networks.

A step is what Python is given. ROOT stands for the tree; other paths are relative to the folder
that steps run in.
"""

from __future__ import annotations

from typing import Any

Step = list[str]
Options = dict[str, Any]

WHOLE_BODY, TUMORS = "ct_fm_whole_body_segmentation", "ct_fm_msd_tumor_segmentation"
TRIAGE, PRETRAIN = "ct_fm_head_ct_triage", "ct_fm_pretrain"
EXTRACTOR, TASK = "ct_fm_feature_extractor", "Task07_Pancreas"
SCANS = ["torsos/ct0.nii.gz", "torsos/ct1.nii.gz"]
ENCODER: Options = {"in_channels": 1, "init_filters": 8, "blocks_down": [1, 1, 1, 1, 1]}
NARROW: Options = {f"network_def::{key}": ENCODER[key] for key in ("init_filters", "blocks_down")}
SMALL: Options = {"patch": [16, 32, 32], "spacing": [6.0, 6.0, 6.0], "num_workers": 0, **NARROW}
LABELS: Options = SMALL | {"patch": [48, 48, 48], "network_def::dsdepth": 2}
HEADS: Options = SMALL | {"spacing": [12.0, 7.0, 7.0], "network_def::hidden_channels": [8]}
MAPS: Options = LABELS | {"overlap": 0.25, "preview": False, "progress": False}
SHORT: Options = {
    "epochs": 2,
    "val_interval": 1,
    "learning_rate": 0.005,
    "precise_statistics_batches": 1,
    "encoder": "encoder.pt",
}
TRAINED: Options = LABELS | SHORT | {"batch_size": 1, "val_overlap": 0.25}
WHOLE: Options = TRAINED | {
    "dataset_dir": "torsos",
    "class_ids": [1, 2, 3, 5, 6, 51, 52],
    "network_def::out_channels": 8,
}
PRETRAINED: Options = SMALL | {
    "dataset_dir": "torsos",
    "store": "store_views",
    "embedding_dim": 128,
    "epochs": 2,
    "iterations": 3,
    "batch_size": 2,
    "crops": 3,
    "warmup_epochs": 1,
    "learning_rate": 0.001,
    "monitor_iterations": 1,
    "save_iterations": 1,
}
AUTO3DSEG: Options = {
    "modality": "CT",
    "datalist": f"{TASK}/datalist.json",
    "dataroot": TASK,
    "class_names": ["pancreas", "cancer"],
    "num_epochs": 1,
    "num_epochs_per_validation": 1,
    "roi_size": [48, 48, 48],
    "network": ENCODER | {"dsdepth": 2},
    "pretrained": "encoder.pt",
    "num_workers": 0,
    "precise_statistics_batches": 1,
    "overlap": 0.25,
}


def ctfm(*words: str, **options: Any) -> Step:
    """A command of the package."""
    return ["-m", "ctfm", *words, *(str(x) for k, v in options.items() for x in (f"--{k}", v))]


def bundle(out: str, name: str, *configs: str, **options: Any) -> Step:
    """Stacked configs of a bundle; results lie in the folder `out`, weights in its ``models``."""
    files = [f"ROOT/bundles/{name}/configs/{config}" for config in configs]
    where = {"bundle_root": f"ROOT/bundles/{name}", "output_dir": out, "ckpt_dir": f"{out}/models"}
    given = {"config_file": files, **where, **options}
    words = [str(word) for key, value in given.items() for word in (f"--{key}", value)]
    return ["-m", "monai.bundle", "run", *words]


def segment(out: str, **options: Any) -> Step:
    """The whole body by its command."""
    where = {"bundle": f"ROOT/bundles/{WHOLE_BODY}", "checkpoint": "whole_body.pt"}
    return ctfm("segment", SCANS[1], out=out, **where, **MAPS, **options)


def embed(out: str, name: str, *overlays: str) -> Step:
    """Embeddings of two torsos."""
    options = SMALL | {"input": SCANS, "checkpoint": "encoder.pt", "progress": False}
    return bundle(out, name, "inference.json", *overlays, **options)


def whole_body(out: str, **options: Any) -> Step:
    """The whole body by its bundle."""
    return bundle(out, WHOLE_BODY, "inference.json", checkpoint="whole_body.pt", **MAPS | options)


def pretrain(out: str, *overlays: str, **options: Any) -> Step:
    """A short pretraining."""
    return bundle(out, PRETRAIN, "train.json", *overlays, **PRETRAINED, **options)


#: What is drawn, before all else. In each list, steps run one after the other.
DRAWN: list[list[Step]] = [
    [
        ctfm(
            "phantom", "head", out=f"heads/head{i}.nii.gz", spacing="6,6,6", seed=i, bleed=i % 2 > 0
        )
        for i in range(8)
    ],
    [
        ctfm(
            "phantom",
            "torso",
            out=f"torsos/ct{i}.nii.gz",
            label=f"torsos/label{i}.nii.gz",
            spacing="5,5,6",
            seed=i,
            oblique_degrees=5 * i,
        )
        for i in range(4)
    ],
    [
        ctfm("phantom", "msd", root=".", task=TASK, subjects=4, tests=1, spacing="6,6,6"),
        ctfm("datalist", "msd", root=TASK, out=f"{TASK}/datalist.json", folds=2, workers=1),
    ],
]
#: What is done with it; the lists that take longest come first.
DONE: list[list[Step]] = [
    [
        ctfm(
            "store",
            "build",
            "torsos/datalist.json",
            "pretraining",
            "store_views",
            spacing="6,6,6",
            workers=1,
        ),
        pretrain("pretraining"),
        pretrain("pretraining_store", "store.yaml"),
        pretrain("simclr", "store.yaml", "simclr.yaml"),
        pretrain(
            "vicreg",
            "store.yaml",
            "vicreg.yaml",
            "intrasample.yaml",
            **{"initial_network::projection::widths": [128, 64, 64]},
        ),
    ],
    [
        bundle("training", WHOLE_BODY, "train.json", **WHOLE),
        bundle("training", WHOLE_BODY, "train.json", "evaluate.yaml", **WHOLE),
        ctfm(
            "store",
            "build",
            "torsos/datalist.json",
            "whole_body",
            "store_labels",
            spacing="6,6,6",
            workers=1,
        ),
        bundle(
            "training_store",
            WHOLE_BODY,
            "train.json",
            "from_scratch.yaml",
            "store.yaml",
            store="store_labels",
            **WHOLE,
        ),
    ],
    [
        [
            "-m",
            "monai.apps.auto3dseg",
            "AutoRunner",
            "run",
            "--algos",
            "segresnetctfm",
            "--work_dir",
            "auto3dseg",
            "--input",
            "auto3dseg.json",
            "--ensemble",
            "False",
            "--templates_path_or_url",
            "ROOT/algorithm_templates",
        ],
        ctfm("auto3dseg", "infer", "auto3dseg", f"{TASK}/imagesTs", out="auto3dseg_maps"),
    ],
    [
        whole_body("label_maps", input=SCANS),
        *(
            whole_body(f"given_{way}", input="given.nii.gz", spacing=[4.0, 4.0, 4.0], inversion=way)
            for way in ("nearest", "linear")
        ),
    ],
    [
        bundle(
            "tumors",
            TUMORS,
            "inference.json",
            "pancreas.yaml",
            input=f"{TASK}/imagesTs",
            checkpoint="tumors.pt",
            **MAPS,
        ),
        *(
            bundle(
                "tumor_training",
                TUMORS,
                "train.json",
                "pancreas.yaml",
                *more,
                dataset_dir=TASK,
                **TRAINED,
            )
            for more in ([], ["evaluate.yaml"])
        ),
    ],
    [
        bundle("triage", TRIAGE, "train.json", dataset_dir="heads", batch_size=2, **HEADS, **SHORT),
        bundle(
            "triage",
            TRIAGE,
            "inference.json",
            input="heads",
            saliency=True,
            progress=False,
            **HEADS,
        ),
    ],
    [
        embed("embeddings", EXTRACTOR),
        embed("embeddings_mir", EXTRACTOR, "mir.yaml"),
        embed("embeddings_pretrain", PRETRAIN),
    ],
    [
        segment("segment_statistics", statistics=True, confidence=True),
        segment("segment_classes", classes="organs"),
        segment("segment_linear", inversion="linear"),
    ],
]

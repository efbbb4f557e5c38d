"""What cannot work is refused before any training starts: one line, with what to do."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import nibabel as nib
from monai.auto3dseg.utils import datafold_read
from monai.bundle import ConfigParser

from ctfm.auto3dseg.decisions import is_ct
from ctfm.auto3dseg.options import DEFAULTS, Options
from ctfm.auto3dseg.statistics import Statistics
from ctfm.base.errors import UserError
from ctfm.imaging.file_names import is_nifti
from ctfm.imaging.grids import AFFINE_TOLERANCE_MM, farthest_corner_mm
from ctfm.imaging.hounsfield import AIR_HU
from ctfm.weights.layouts import Weights
from ctfm.weights.loading import read_encoder

__all__ = [
    "check_fold",
    "check_grids",
    "check_input",
    "check_intensities",
    "check_labels",
    "check_task",
    "check_tests",
    "encoder_of",
    "with_encoder",
]

logger = logging.getLogger(__name__)

MIN_TRAINING_CASES = 2


def with_encoder(source: dict[str, Any]) -> dict[str, Any]:
    """The user's input file; without Hounsfield units no encoder is taken unless it is named."""
    if is_ct(str(source["modality"])) or "pretrained" in source:
        return source
    logger.warning(
        "modality is %s: CT-FM's encoder has seen CT in Hounsfield units alone: training the same "
        "network from scratch",
        source["modality"],
    )
    return {**source, "pretrained": None}


def check_task(source: Mapping[str, Any], statistics: Statistics, pretrained: Any) -> None:
    """Is it CT of one channel, and can Auto3DSeg read its input file to the end?

    Args:
        source: the user's input file.
        statistics: of the data.
        pretrained: option of that name.

    Raises:
        UserError: no.
    """
    if nested := [key for key in source if "::" in key or "#" in key]:
        raise UserError(
            f"{nested[0]} in the input file: Auto3DSeg's ensemble cannot read such ids there; "
            "write network: {init_filters: 16}, or use set_training_params"
        )
    modality = str(source["modality"])
    if not is_ct(modality) and pretrained is not None:
        raise UserError(
            f"modality is {modality}: CT-FM's encoder has seen CT in Hounsfield units alone; set "
            "pretrained: null in the input file to train the same network from scratch, each scan "
            "brought to zero mean and unit variance"
        )
    extra = source.get("extra_modalities")
    several = [case for case in statistics.cases if case.channels != 1]
    if extra or several:
        shown = f"extra_modalities {extra}" if extra else f"{several[0].channels} channels"
        where = "" if extra else f" in {several[0].image}"
        raise UserError(
            f"{shown}{where}: CT-FM's encoder takes one channel, the CT; leave the others out of "
            "the datalist, or use a stock template"
        )


def check_fold(
    fold: int,
    training: Sequence[Mapping[str, Any]],
    validation: Sequence[Mapping[str, Any]],
    options: Options,
    statistics: Statistics,
) -> None:
    """Has a fold cases on both sides, and every class to learn from?

    Raises:
        UserError: no. A class that only validation lacks is told, and left out of its mean.
    """
    if len(training) < MIN_TRAINING_CASES or not validation:
        raise UserError(
            f"fold {fold} has {len(training)} cases to train on and {len(validation)} to validate "
            f"on: it needs at least {MIN_TRAINING_CASES} and 1; give fewer folds or more cases"
        )
    found = {_path(case.image): case.labels for case in statistics.cases}
    rows = [*training, *validation]
    missing = [row["image"] for row in rows if _path(row["image"]) not in found]
    if missing:
        raise UserError(
            f"{len(missing)} cases could not be analysed (first: {missing[0]}): see the messages "
            "of the analysis, or take them out of the datalist"
        )
    for part, what in ((training, "train"), (validation, "validate")):
        present = frozenset(chain.from_iterable(found[_path(row["image"])] for row in part))
        recipe = options.recipe
        lacking = [
            name
            for name, values in zip(recipe.class_names, recipe.class_index, strict=True)
            if not present & set(values)
        ]
        text = f"fold {fold} has no case of {', '.join(lacking)} to {what} on"
        if lacking and what == "train":
            raise UserError(f"{text}: move cases between the folds of the datalist")
        if lacking:
            logger.warning("%s: its mean Dice leaves that out", text)


def check_labels(options: Options, statistics: Statistics) -> None:
    """Are all label values in the list of classes?

    Raises:
        UserError: no; names the first such case.
    """
    listed = {0, *chain.from_iterable(options.recipe.class_index)}
    for case in statistics.cases:
        if unknown := sorted(case.labels - listed):
            raise UserError(
                f"the label of {case.image} holds the value {unknown[0]}, which no class has: "
                f"class_names stand for {sorted(listed - {0})}; add it, or correct the label"
            )


def check_intensities(options: Options, statistics: Statistics) -> None:
    """May the images be CT in Hounsfield units? Reading them in training asks for air as well.

    Raises:
        UserError: no; names the first such case.
    """
    if options.recipe.intensity != "hu" or options.recipe.input_check != "error":
        return
    for case in statistics.cases:
        if case.lowest >= AIR_HU:
            raise UserError(
                f"{case.image}: its lowest value is {case.lowest:g}, and air has less than "
                f"{AIR_HU} HU: not CT in Hounsfield units; export it again, or set input_check: "
                "warn in the input file if it is"
            )


def check_grids(rows: Sequence[Mapping[str, Any]]) -> None:
    """Do labels lie on their images' grids? Headers of NIfTI files tell.

    Raises:
        UserError: a file is missing, has several channels, or another grid than its image.
    """
    for row in rows:
        for key in ("image", "label"):
            if not isinstance(row.get(key), str):
                raise UserError(f"the datalist has {key} {row.get(key)!r}: give one path a case")
            if not Path(row[key]).exists():
                raise UserError(f"{row[key]}: no such file: check datalist and dataroot")
        if all(is_nifti(row[key]) for key in ("image", "label")):
            _check_grid(row["image"], row["label"])


def _check_grid(image_path: str, label_path: str) -> None:
    image: Any = nib.load(image_path)
    if image.ndim > 3 and math.prod(image.shape[3:]) > 1:
        raise UserError(
            f"{image_path}: has {math.prod(image.shape[3:])} channels or time points: CT-FM's "
            "encoder takes one channel, the CT"
        )
    label: Any = nib.load(label_path)
    if image.shape[:3] != label.shape[:3]:
        raise UserError(
            f"{label_path}: has {label.shape} voxels, its image {image.shape}: give its own label"
        )
    apart = farthest_corner_mm(image.shape[:3], label.affine, image.affine)
    if not apart <= AFFINE_TOLERANCE_MM:
        raise UserError(
            f"{label_path}: its voxels lie up to {apart:.3g} mm from its image's: give its own "
            "label"
        )


def check_tests(datalist: str | Path, base: str | Path) -> None:
    """Say where there is nothing to predict, and refuse test files that are not there.

    Raises:
        UserError: a file is missing.
    """
    rows = json.loads(Path(datalist).read_text(encoding="utf-8")).get("testing")
    if not rows:
        logger.warning(
            "%s: no test files (list 'testing'): the ensemble will predict nothing; "
            "`ctfm auto3dseg infer` predicts any scan later",
            datalist,
        )
    for row in rows or ():
        path = row["image"] if isinstance(row, dict) else row
        if not isinstance(path, str):
            raise UserError(f"the datalist has test image {path!r}: give one path, the CT")
        if not (Path(base) / path).exists():
            raise UserError(f"{Path(base) / path}: no such test file: check datalist and dataroot")


def check_input(file: str) -> str:
    """Look at a task's files without analysing the data: headers, paths, encoder.

    Args:
        file: input of AutoRunner (YAML or JSON).

    Returns:
        What was found, in one line.

    Raises:
        UserError: something cannot work.
    """
    source = ConfigParser.load_config_file(file)
    for key in ("modality", "datalist", "dataroot"):
        if key not in source:
            raise UserError(f"{file}: has no {key}: Auto3DSeg needs modality, datalist, dataroot")
    if not Path(source["datalist"]).is_file():
        raise UserError(f"{source['datalist']}: no such datalist: check the path in {file}")
    source = with_encoder(source)
    pretrained = {**DEFAULTS, **source}["pretrained"]
    check_task(source, Statistics(()), pretrained)
    lists = ConfigParser.load_config_file(source["datalist"])
    if not lists.get("training"):
        raise UserError(f"{source['datalist']}: has no cases in its list 'training'")
    training, _ = datafold_read(source["datalist"], source["dataroot"], fold=-1)
    check_grids(training)
    check_tests(source["datalist"], source["dataroot"])
    if pretrained is not None:
        encoder_of(str(pretrained))
    tests = len(lists.get("testing") or ())
    return f"{len(training)} cases to train on, {tests} to test on: files and headers are sound"


@lru_cache(maxsize=1)
def encoder_of(pretrained: str) -> Weights:
    """Read and audit a pretrained encoder; kept, since each fold is checked against it.

    Raises:
        UserError: there is none, or it is not sound.
    """
    return read_encoder(pretrained)


def _path(path: Any) -> str:
    return os.path.realpath(str(path))

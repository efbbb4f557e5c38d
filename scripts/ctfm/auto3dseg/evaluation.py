"""Scores of a network on the validation cases of its fold, each on the grid of its label file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from monai.engines import SupervisedEvaluator
from monai.handlers import MeanDice, from_engine
from monai.transforms import Compose
from torch import nn

from ctfm.auto3dseg.engines import device_of, inferer, validation_loader
from ctfm.auto3dseg.inference import MeanProbabilities, checkpoint_of, loaded
from ctfm.auto3dseg.options import Options
from ctfm.auto3dseg.transforms import OnOwnGridd
from ctfm.base.errors import explain_in_one_line

__all__ = ["segmentation_evaluator", "validate_fold"]


def segmentation_evaluator(
    options: Options,
    network: nn.Module,
    rows: list[dict[str, Any]],
    device: torch.device,
    world_size: int = 1,
    finally_do: Sequence[Any] = (),
) -> SupervisedEvaluator:
    """MONAI's evaluator: mean Dice over cases and classes.

    A class that neither label nor prediction of a case has is left out of that case.

    Args:
        options: of the fold.
        network: that gives logits.
        rows: cases.
        device: of the network.
        world_size: processes that share the cases.
        finally_do: transforms of a case with its prediction on its own grid.
    """
    recipe = options.recipe
    loader, image = validation_loader(options, rows, world_size)
    dice = MeanDice(
        include_background=recipe.sigmoid,
        num_classes=None if recipe.sigmoid else 1 + len(recipe.class_names),
        output_transform=from_engine(["pred", "label"]),
    )
    return SupervisedEvaluator(
        device=device,
        val_data_loader=loader,
        network=MeanProbabilities([network], recipe.sigmoid),
        inferer=inferer(recipe, options["amp"], options["batch_size"]),
        postprocessing=Compose([OnOwnGridd("pred", image, recipe.sigmoid), *finally_do]),
        key_val_metric={"val_mean_dice": dice},
        amp=False,
    )


def validate_fold(config_file: str | list[str], **overrides: Any) -> None:
    """Score a trained fold's checkpoint on its validation cases, and print the mean Dice.

    Args:
        config_file: the fold's configs.
        overrides: options by name.

    Raises:
        UserError: the fold is not trained, or an option has no sense.
    """
    explain_in_one_line()
    logging.basicConfig(level=logging.WARNING)
    options = Options.read(config_file, overrides)
    device = device_of(0)
    network, recipe = loaded(checkpoint_of(options.folder), device)
    _, validation = options.rows()
    carried = replace(options, recipe=recipe)
    evaluator = segmentation_evaluator(carried, network, validation, device)
    evaluator.run()
    dice = evaluator.state.metrics["val_mean_dice"]
    print(f"mean Dice of {len(validation)} cases: {float(dice):.4f}")

"""Options of a fold: decisions, above them the user's input file, above that the parameters."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from monai.auto3dseg.utils import datafold_read
from monai.bundle import ConfigParser

from ctfm.auto3dseg.decisions import named_classes
from ctfm.auto3dseg.recipe import Recipe
from ctfm.base.errors import UserError
from ctfm.contract.tasks import WHOLE_BODY

__all__ = ["DEFAULTS", "Options", "merge", "understood"]

logger = logging.getLogger(__name__)

#: Every option with its default; None: decided from the data.
DEFAULTS: dict[str, Any] = {
    "pretrained": "project-lighter/ct_fm_feature_extractor",
    "freeze_epochs": 0,
    "learning_rate": {"encoder": 2e-4, "decoder": 2e-4},
    "loader": None,
    "roi_size": None,
    "spacing": None,
    "batch_size": None,
    "num_epochs": None,
    "num_epochs_per_validation": None,
    "early_stopping_epochs": None,
    "class_names": None,
    "sigmoid": False,
    "intensity": None,
    "hu_window": None,
    "input_check": None,
    "flips": None,
    "overlap": 0.625,
    "norm_statistics": "batch",
    "precise_statistics_batches": 50,
    "weight_decay": 1e-5,
    "amp": True,
    "cache": None,
    "num_workers": None,
    "seed": 0,
    "network": None,
    "mlflow_tracking_uri": None,
    "mlflow_experiment_name": "Auto3DSeg",
}
#: What the fold's own file holds beside them.
FIXED = (
    "fold",
    "modality",
    "ckpt_path",
    "data_list_file_path",
    "data_file_base_dir",
    "class_index",
    "store_path",
)
#: How the stock templates call them.
OTHER_NAMES = {"num_images_per_batch": "batch_size", "resample_resolution": "spacing"}
#: What the stock templates take beside them, and this one decides by itself.
STOCK_ALONE = (
    "auto_scale_allowed",
    "auto_scale_batch",
    "auto_scale_filters",
    "auto_scale_roi",
    "determ",
    "num_steps_per_image",
    "num_warmup_epochs",
    "pretrained_ckpt_name",
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a fold, understood and checked.

    Attributes:
        recipe: what the checkpoint carries.
        folder: of the fold; relative paths start there.
        values: all options as they were given.
    """

    recipe: Recipe
    folder: Path
    values: dict[str, Any]

    @classmethod
    def read(cls, config_file: str | Sequence[str], overrides: Mapping[str, Any]) -> Options:
        """Read a fold's configs, and put overrides above them.

        Args:
            config_file: the files in the fold's folder `configs`.
            overrides: options by name, or nested ids such as ``network::init_filters``.

        Raises:
            UserError: an option is unknown, or has no sense.
        """
        files = [config_file] if isinstance(config_file, str) else list(config_file)
        folder = Path(files[0]).absolute().parents[1]
        overrides = understood(overrides)
        values = merge(ConfigParser.load_config_files(files), overrides)
        if "class_names" in overrides and values["class_names"]:
            named = values["class_names"]
            values["class_names"], values["class_index"] = named_classes(named, values["sigmoid"])
        unknown = sorted(values.keys() - DEFAULTS.keys() - set(FIXED))
        if unknown:
            raise UserError(f"there is no option {unknown[0]!r}: choose from {', '.join(DEFAULTS)}")
        options = cls(recipe=Recipe.of(values), folder=folder, values=values)
        options.check()
        return options

    def __getitem__(self, name: str) -> Any:
        """An option as it was given."""
        return self.values[name]

    def check(self) -> None:
        """Look at what the recipe does not hold.

        Raises:
            UserError: an option has no sense.
        """
        for name in ("batch_size", "num_epochs", "num_epochs_per_validation"):
            if not isinstance(self[name], int) or self[name] < 1:
                raise UserError(f"{name} is {self[name]!r}: give a whole number from 1")
        if self["loader"] not in ("monai", "dali"):
            raise UserError(f"loader is {self['loader']!r}: choose monai or dali")
        if self["loader"] == "dali" and self["intensity"] != "hu":
            raise UserError(
                "loader: dali reads Hounsfield units from a store, and intensity is "
                f"{self['intensity']!r}: set loader to monai"
            )
        if not isinstance(self["freeze_epochs"], int) or self["freeze_epochs"] < 0:
            raise UserError(f"freeze_epochs is {self['freeze_epochs']!r}: give 0 or more")
        if self["pretrained"] is not None:
            self._check_pretrained()
        if min(self.learning_rates) <= 0:
            raise UserError(f"learning_rate is {self['learning_rate']!r}: give positive numbers")

    def _check_pretrained(self) -> None:
        """The encoder sees what it was pretrained on, or nothing is gained by it."""
        if self["intensity"] != "hu":
            raise UserError(
                "pretrained: CT-FM's encoder has seen CT in Hounsfield units alone, and intensity "
                f"is {self['intensity']!r}: set pretrained to null to train from scratch"
            )
        if self.recipe.hu_window != WHOLE_BODY.hu_window:
            raise UserError(
                f"pretrained: CT-FM's encoder expects hu_window {list(WHOLE_BODY.hu_window)}, and "
                f"it is {list(self.recipe.hu_window)}: set it so, or to null in the input file and "
                "make the folds anew, or set pretrained to null"
            )

    @property
    def learning_rates(self) -> tuple[float, float]:
        """Of the encoder and of the decoder; one number is that of both."""
        given = self["learning_rate"]
        rates = given if isinstance(given, Mapping) else {"encoder": given, "decoder": given}
        try:
            if unknown := rates.keys() - {"encoder", "decoder"}:
                raise KeyError(min(unknown))
            # YAML reads 1e-4 as text
            return float(rates["encoder"]), float(rates["decoder"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"learning_rate is {given!r}: give a number, or {{encoder: 1e-4, decoder: 2e-4}}"
            ) from error

    @property
    def pretrained(self) -> str | None:
        """The encoder's file as an absolute path, or a Hugging Face id; None: from scratch."""
        given = self["pretrained"]
        if given is None:
            return None
        inside = os.path.normpath(self.folder / str(given))
        return inside if Path(inside).exists() else str(given)

    @property
    def ckpt_dir(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / str(self["ckpt_path"])

    def rows(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Rows to train on and to validate on, paths absolute."""
        training, validation = datafold_read(
            datalist=str(self.folder / self["data_list_file_path"]),
            basedir=os.path.normpath(self.folder / self["data_file_base_dir"]),
            fold=int(self["fold"]),
        )
        return training, validation

    def smaller(self) -> Options | None:
        """Options that need less memory: half the batch, then smaller crops; None: none left."""
        batch, recipe = self["batch_size"], self.recipe
        if batch > 1:
            return replace(self, values={**self.values, "batch_size": batch // 2})
        found = recipe.smaller()
        if found is None:
            return None
        values = {**self.values, "roi_size": list(found.roi_size)}
        return replace(self, recipe=found, values=values)


def understood(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as this template knows them, where they are written for the stock templates.

    Those that have no meaning here are told and left out; `use_pretrain` and `pretrained_path`
    become `pretrained`.
    """
    found = dict(overrides)
    given = [name for name in STOCK_ALONE if name in found]
    for name in given:
        del found[name]
    if given:
        logger.warning("of stock templates alone, without effect here: %s", ", ".join(given))
    use, path = found.pop("use_pretrain", None), found.pop("pretrained_path", None)
    if use is False:
        found.setdefault("pretrained", None)
    elif path:
        found.setdefault("pretrained", path)
    return found


def merge(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Put overrides above values, nested ids (`a::b`, `a#b`) and dictionaries inside them.

    Raises:
        UserError: a nested id leads nowhere.
    """
    parser = ConfigParser(dict(values))
    for name, value in overrides.items():
        spelled = OTHER_NAMES.get(name, name)
        try:
            present = parser.get(spelled)
            inside = isinstance(value, Mapping) and isinstance(present, Mapping)
            parser.set({**present, **value} if inside else value, spelled)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(f"option {name!r} cannot be set ({error})") from error
    merged: dict[str, Any] = parser.config
    return merged

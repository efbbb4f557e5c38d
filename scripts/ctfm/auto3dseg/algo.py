"""What Auto3DSeg calls: make a folder for each fold, train there, and read the score."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai.apps.auto3dseg import BundleAlgo
from monai.bundle import ConfigParser

from ctfm.auto3dseg.checks import (
    check_fold,
    check_grids,
    check_intensities,
    check_labels,
    check_task,
    check_tests,
    encoder_of,
    with_encoder,
)
from ctfm.auto3dseg.options import Options
from ctfm.auto3dseg.planning import of_copy, plan
from ctfm.auto3dseg.results import read_score
from ctfm.auto3dseg.statistics import Statistics
from ctfm.auto3dseg.stored import check_loader
from ctfm.auto3dseg.tracking import check_tracking
from ctfm.base.errors import UserError, explain_in_one_line
from ctfm.weights.loading import load_encoder

__all__ = ["CTFMAlgo"]

logger = logging.getLogger(__name__)

CONFIG = "hyper_parameters.yaml"
#: Results of a fold that is made anew go there, beside the folds.
EARLIER = "earlier"


class CTFMAlgo(BundleAlgo):
    """MONAI's `BundleAlgo` for this template."""

    @property
    def folder(self) -> Path:
        """Of the fold."""
        return Path(self.output_path).absolute()

    @property
    def config_files(self) -> list[str]:
        """Configs of the fold."""
        return [str(path) for path in sorted((self.folder / "configs").glob("*.yaml"))]

    def export_to_disk(self, output_path: str, algo_name: str, **kwargs: Any) -> None:
        """Make the fold's folder; one that is there is moved aside, not deleted.

        Args:
            output_path: folder for it.
            algo_name: its name.
            kwargs: `fold`; or, as NNIGen and OptunaGen have it, `fill_with_datastats=False` and
                options: a copy of this fold with other parameters.

        Raises:
            UserError: the task cannot work, with what to do.
        """
        with _explained():
            folder = Path(output_path) / algo_name
            if not kwargs.pop("fill_with_datastats", True):
                kwargs["copy_of"] = self.folder
                kwargs["values"] = ConfigParser.load_config_file(self.folder / "configs" / CONFIG)
            _move_aside(folder)
            try:
                super().export_to_disk(output_path, algo_name, **kwargs)
            except UserError:
                shutil.rmtree(folder, ignore_errors=True)  # nothing but the template's files
                raise

    def fill_template_config(
        self, data_stats_filename: str, algo_path: str, **kwargs: Any
    ) -> dict[str, Any]:
        """Decide from the data, check, and write the fold's config.

        Args:
            data_stats_filename: ``datastats.yaml`` of the analysis.
            algo_path: folder of the fold.
            kwargs: `fold`; or what `export_to_disk` makes of a copy.

        Raises:
            UserError: the task cannot work, with what to do.
        """
        folder = Path(algo_path).absolute()
        if "copy_of" in kwargs:
            copied = of_copy(kwargs.pop("values"), kwargs.pop("copy_of"), folder, kwargs)
            return {CONFIG: _write(folder / "configs" / CONFIG, copied)}
        source = with_encoder(ConfigParser.load_config_file(self.data_list_file))
        source = {**source, **self._tracking()}
        statistics = Statistics.read(data_stats_filename)
        config = folder / "configs" / CONFIG
        defaults = ConfigParser.load_config_file(config)
        check_task(source, statistics, {**defaults, **source}["pretrained"])
        values = plan(source, statistics, defaults, folder, kwargs.get("fold", 0))
        _write(config, values)
        options = Options.read(str(config), {})
        training, validation = options.rows()
        check_loader(options)
        check_tracking(options)
        check_fold(options["fold"], training, validation, options, statistics)
        check_labels(options, statistics)
        check_intensities(options, statistics)
        if options["fold"] == 0:  # all folds have the same files
            check_grids([*training, *validation])
            check_tests(source["datalist"], source["dataroot"])
        if options.pretrained is not None:
            encoder_of(options.pretrained)
        return {CONFIG: values}

    def _tracking(self) -> dict[str, str]:
        """What AutoRunner was given for MLflow."""
        names = ("mlflow_tracking_uri", "mlflow_experiment_name")
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value is not None}

    def train(
        self,
        train_params: Mapping[str, Any] | None = None,
        device_setting: Mapping[str, Any] | None = None,
    ) -> subprocess.CompletedProcess[Any]:
        """Train the fold in a process of its own, by the interpreter that runs here.

        Args:
            train_params: options by name, or nested ids such as ``network::init_filters``.
            device_setting: see `AutoRunner.set_device_info`.

        Raises:
            UserError: an option has no sense, or the training failed.
        """
        self.device_setting.update(device_setting or {})
        with _explained():
            self._check(train_params or {})
            command = self.command(train_params or {})
            logger.info("%s", shlex.join(command))
            visible = str(self.device_setting["CUDA_VISIBLE_DEVICES"])
            if "," in visible:
                _put_torchrun_on_path()
            environment = {**os.environ, "CUDA_VISIBLE_DEVICES": visible}
            done = subprocess.run(command, env=environment, check=False)
            if done.returncode:
                raise UserError(
                    f"{self.folder.name}: its training ended with code {done.returncode}: the "
                    "reason stands above; running again goes on after the last complete epoch"
                )
        return done

    def _check(self, params: Mapping[str, Any]) -> None:
        """Look at the options again, with those of the training, before it starts."""
        options = Options.read(self.config_files, params)
        if options.recipe.sigmoid != Options.read(self.config_files, {}).recipe.sigmoid:
            raise UserError(
                "sigmoid: set it in the input file, since Auto3DSeg's ensemble reads it there, and "
                "make the folds anew (algo_gen=True)"
            )
        check_loader(options)
        check_tracking(options)
        beside = self.folder.parent / Path(self.data_stats_files).name  # in a moved work dir
        check_labels(options, Statistics.read(beside if beside.exists() else self.data_stats_files))
        training, validation = options.rows()
        for row in (*training, *validation):
            if not Path(row["image"]).exists():
                raise UserError(f"{row['image']}: no such file: generate the folds again")
        if options.pretrained is not None and not (options.ckpt_dir / "last.pt").exists():
            load_encoder(options.recipe.build(), options.pretrained)

    def command(self, params: Mapping[str, Any]) -> list[str]:
        """What is run; each value is spelled as Python does, which `fire` reads back as it was.

        Raises:
            UserError: several nodes are asked for.
        """
        if int(self.device_setting["NUM_NODES"]) > 1:
            raise UserError("several nodes: run torchrun with scripts/train.py on each of them")
        prefix = str(self.device_setting.get("CMD_PREFIX") or "")
        devices = len(str(self.device_setting["CUDA_VISIBLE_DEVICES"]).split(","))
        launcher = [sys.executable]
        if prefix and prefix != "None":
            launcher = shlex.split(prefix)
        elif devices > 1:
            launcher += ["-m", "torch.distributed.run", "--standalone"]
            launcher += [f"--nproc_per_node={devices}"]
        options = {"config_file": self.config_files, **params}
        script = str(self.folder / "scripts" / "train.py")
        return [*launcher, script, "run", *(f"--{key}={value!r}" for key, value in options.items())]

    def get_score(self, *_args: Any, **_kwargs: Any) -> float:
        """Best mean Dice of the fold, wherever its folder was moved to.

        Raises:
            UserError: it is not trained to the end.
        """
        config = ConfigParser.load_config_file(self.folder / "configs" / CONFIG)
        return read_score(self.folder / str(config["ckpt_path"]))


def _write(file: Path, values: dict[str, Any]) -> dict[str, Any]:
    ConfigParser.export_config_file(
        values, file, fmt="yaml", default_flow_style=None, sort_keys=False
    )
    return values


def _put_torchrun_on_path() -> None:
    """On several GPUs Auto3DSeg starts its ensemble by that name, after hours of training."""
    if shutil.which("torchrun") is None:
        parts = [os.environ.get("PATH", ""), str(Path(sys.executable).parent)]
        os.environ["PATH"] = os.pathsep.join(filter(None, parts))


@contextmanager
def _explained() -> Iterator[None]:
    """A user's error ends the program in one line."""
    try:
        yield
    except UserError:
        explain_in_one_line()
        raise


def _move_aside(folder: Path) -> None:
    """Auto3DSeg would delete a fold's folder with all its results."""
    if not (folder / "model").exists():
        return
    taken = folder.parent / EARLIER
    taken.mkdir(exist_ok=True)
    number = 1
    while (target := taken / f"{folder.name}.{number}").exists():
        number += 1
    folder.rename(target)
    logger.warning("%s is made anew; what was there is now %s", folder, target)

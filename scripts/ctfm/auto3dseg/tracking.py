"""MLflow, where it is asked for: losses, learning rate and Dice of a fold, beside TensorBoard."""

from __future__ import annotations

from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine
from monai.engines import SupervisedEvaluator
from monai.handlers import MLFlowHandler

from ctfm.auto3dseg.options import Options
from ctfm.base.errors import UserError
from ctfm.base.optional import require
from ctfm.training.handlers import training_loss

__all__ = ["check_tracking", "track"]


def check_tracking(options: Options) -> None:
    """Is MLflow there, and does it take such an address?

    Raises:
        UserError: not; says what to do.
    """
    uri = options["mlflow_tracking_uri"]
    if uri is None:
        return
    require("mlflow", purpose="write to mlflow_tracking_uri")
    if "://" not in str(uri) or str(uri).startswith("file://"):
        raise UserError(
            f"mlflow_tracking_uri is {uri!r}: MLflow writes to no folder any more: give "
            "sqlite:////absolute/path/mlflow.db, or the address of a server"
        )


def track(options: Options, trainer: Engine, evaluator: SupervisedEvaluator) -> None:
    """Let rank 0 write to MLflow; a training that goes on goes on in its run.

    Args:
        options: `mlflow_tracking_uri`, None writes nothing; `mlflow_experiment_name`.
        trainer: loss and learning rate at the end of each epoch.
        evaluator: Dice of each validation.
    """
    if options["mlflow_tracking_uri"] is None or idist.get_rank() != 0:
        return
    common: dict[str, Any] = {
        "tracking_uri": str(options["mlflow_tracking_uri"]),
        "experiment_name": str(options["mlflow_experiment_name"]),
        "run_name": f"{options.folder.parent.name}/{options.folder.name}",
    }
    # parameters of a run cannot change: those that a resumed training may change stay out
    fixed = {name: options[name] for name in ("fold", "pretrained", "modality", "class_names")}
    MLFlowHandler(
        **common,
        iteration_log=_ends_epoch,
        epoch_log=False,
        output_transform=training_loss,
        experiment_param=fixed,
        close_on_complete=True,
    ).attach(trainer)
    MLFlowHandler(**common, iteration_log=False).attach(evaluator)


def _ends_epoch(engine: Any, iteration: int) -> bool:
    return bool(iteration % engine.state.epoch_length == 0)

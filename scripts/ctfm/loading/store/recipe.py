"""What a store holds: the deterministic part of a task's preprocessing, as one value."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from ctfm.base.errors import UserError
from ctfm.contract.tasks import HEAD_CT_TRIAGE, PRETRAINING, WHOLE_BODY, Task, Triple
from ctfm.contract.tumors import TUMORS

__all__ = ["RECIPES", "StoreRecipe", "store_recipe"]


@dataclass(frozen=True, kw_only=True)
class StoreRecipe:
    """How a scan becomes a stored volume; two recipes with the same values are the same.

    Attributes:
        task: name, a key of `RECIPES`.
        axcodes: orientation of the stored axes.
        spacing: mm, in the order of `axcodes`.
        hu_window: HU outside are clipped; voxels are int16.
        foreground_hu: the volume is cropped to the box of voxels above this value.
        margin: voxels kept around that box, as far as there are any.
        version: of the code that converts; a change of what it computes raises it.
    """

    task: str
    axcodes: str
    spacing: Triple
    hu_window: tuple[float, float]
    foreground_hu: float
    margin: int = 0
    version: int = 1

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of all values."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @classmethod
    def of(cls, values: dict[str, Any]) -> StoreRecipe:
        """The recipe that `dataclasses.asdict` and JSON made these values of."""
        tuples: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**tuples)


def _of_task(name: str, task: Task, foreground_hu: float, margin: int = 0) -> StoreRecipe:
    windows = getattr(task, "windows", (task.hu_window,))
    assert task.spacing is not None
    return StoreRecipe(
        task=name,
        axcodes=task.axcodes,
        spacing=task.spacing,
        hu_window=(min(w[0] for w in windows), max(w[1] for w in windows)),
        foreground_hu=foreground_hu,
        margin=margin,
    )


#: CT-FM crops before it scales in pretraining and triage, so that "positive" means above 0 HU, and
#: after in segmentation, where it means above the lower end of the window.
RECIPES = {
    r.task: r
    for r in (
        _of_task("pretraining", PRETRAINING, 0.0),
        _of_task("whole_body", WHOLE_BODY, WHOLE_BODY.hu_window[0], WHOLE_BODY.foreground_margin),
        _of_task("head_ct_triage", HEAD_CT_TRIAGE, 0.0),
        *(
            _of_task(f"{name}_tumor", task, task.hu_window[0], task.foreground_margin)
            for name, task in TUMORS.items()
        ),
    )
}


def store_recipe(task: str, spacing: Triple | None = None) -> StoreRecipe:
    """The recipe of a task, at its own spacing or at another one.

    Args:
        task: a key of `RECIPES`.
        spacing: mm, axes SPL; None: as CT-FM was trained.

    Raises:
        UserError: there is no such task, or a spacing is not three positive numbers.
    """
    if task not in RECIPES:
        raise UserError(f"no task is called {task!r}: choose one of {', '.join(RECIPES)}")
    if spacing is None:
        return RECIPES[task]
    try:
        s, p, l = (float(mm) for mm in spacing)  # noqa: E741 - superior, posterior, left
    except (TypeError, ValueError):
        s = p = l = 0.0  # noqa: E741
    if not all(0 < mm < math.inf for mm in (s, p, l)):
        raise UserError(f"spacing is {spacing!r}: give three sizes in mm, as 1.5,1.5,1.5")
    return replace(RECIPES[task], spacing=(s, p, l))

"""`ctfm segment`: the inference of a bundle on scans, with the options that users ask for.

All that happens is in the bundle's ``configs/inference.json``; the same options work with
`python -m monai.bundle run`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ctfm.base.errors import UserError
from ctfm.base.options import nearest

__all__ = ["COMMAND", "find_bundle", "segment"]

#: What ``configs/metadata.json`` of the bundle says that this command runs.
COMMAND = "ctfm segment"


def segment(
    inputs: Sequence[str],
    out: str,
    bundle: str | None = None,
    classes: str | Sequence[str] | None = None,
    low_res: bool = False,
    checkpoint: str | None = None,
    overwrite: bool = False,
    **options: Any,
) -> str:
    """Segment scans, each on its own grid.

    Args:
        inputs: files, patterns in quotes, folders (searched), DICOM series.
        out: folder for ``NAME_seg.nii.gz``, names, pictures and ``report.json``.
        bundle: folder of the bundle; None: the one that this package came with.
        classes: names of the classes that are kept; None: all.
        low_res: at 3 mm in place of 1.5 mm.
        checkpoint: weights; None: ``models/model.pt`` of the bundle.
        overwrite: False leaves out scans whose result is there.
        options: keys of the bundle's ``configs/inference.json``: statistics, preview, dicom_seg,
            confidence, inversion, input_check, overlap, device, amp, and others.

    Returns:
        What was done, for the terminal.

    Raises:
        UserError: nothing to segment, no bundle, no weights, an unknown option, or scans failed;
            the others are then done.
    """
    if not inputs:
        raise UserError("no input is given: ctfm segment SCAN… -o FOLDER")
    root = find_bundle(bundle)
    configs = [root / "configs" / "inference.json"]
    known = json.loads(configs[0].read_text(encoding="utf-8"))
    _check_options(options, known)
    if low_res:
        configs.append(root / "configs" / "low_res.yaml")
    if checkpoint is not None:
        options["checkpoint"] = checkpoint
    if classes is not None:
        options["classes"] = _names(classes)
    _run(
        configs,
        bundle_root=str(root),
        input=[str(Path(one).expanduser()) for one in inputs],
        output_dir=str(Path(out).expanduser()),
        overwrite=overwrite,
        **options,
    )
    return f"label maps and report.json -> {out}"


def find_bundle(bundle: str | None = None) -> Path:
    """The bundle that segments: the folder that is named, or the one that lies with this package.

    Args:
        bundle: folder; None: the current folder, ``bundles/`` in it, and where this package lies
            (a checkout, or an unpacked bundle) are looked through.

    Raises:
        UserError: it has no ``configs/inference.json``, or none was found.
    """
    if bundle is not None:
        root = Path(bundle).expanduser()
        if not (root / "configs" / "inference.json").is_file():
            raise UserError(f"{root}: not a bundle (no configs/inference.json): give its folder")
        return root.resolve()
    for root in _places():
        if _runs_this(root):
            return root.resolve()
    raise UserError(
        "no segmentation bundle was found here or beside this package: add --bundle FOLDER, where "
        "FOLDER holds configs/inference.json"
    )


def _places() -> Iterator[Path]:
    package = Path(__file__).parents[1]
    for base in (Path(), package.parent, package.parents[1]):
        yield base
        yield from sorted((base / "bundles").glob("*"))


def _runs_this(root: Path) -> bool:
    try:
        metadata = json.loads((root / "configs" / "metadata.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(metadata, dict) and metadata.get("command") == COMMAND


def _check_options(options: dict[str, Any], known: dict[str, Any]) -> None:
    """Refuse an option that the config does not know: it would be ignored in silence."""
    knobs = [key for key, value in known.items() if not isinstance(value, dict | list)]
    for name in options:
        first = re.split("::|#", name)[0]
        if first not in known:
            shown = nearest(first, knobs if first == name else list(known), "--")
            raise UserError(f"there is no option --{name} of this bundle: {shown}")


def _names(classes: str | Sequence[str]) -> list[str]:
    names = classes.split(",") if isinstance(classes, str) else list(classes)
    return [str(name).strip() for name in names if str(name).strip()]


def _run(configs: Sequence[Path], **overrides: Any) -> None:
    """MONAI's own workflow, as its command line starts it."""
    from monai.bundle import ConfigWorkflow

    workflow = ConfigWorkflow(
        config_file=[str(path) for path in configs], workflow_type="infer", **overrides
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()

"""Commands that pack and check bundles."""

from __future__ import annotations

from ctfm.commands.calling import call, report

__all__ = ["pack", "verify"]


def pack(
    bundle: str,
    out: str = "dist",
    *,
    url_base: str | None = None,
    with_weights: bool = False,
    overlay: str | None = None,
) -> None:
    """Zip a bundle with a copy of this package, as the Model Zoo serves it.

    Args:
        bundle: bundle folder, such as bundles/ct_fm_whole_body_segmentation
        out: folder for the zip, its sha256 and model_info.json
        url_base: address that the zip will be found under; default: the file's name alone
        with_weights: add models/model.pt, and the files of large_files.yml that are there
        overlay: pack the bundle of one task: this overlay is applied to configs and metadata
    """
    report("ctfm.release:pack", **locals())


def verify(bundle: str) -> None:
    """Check a bundle folder or zip; one line a check.

    Args:
        bundle: bundle folder or zip
    """
    call("ctfm.release:verify_bundle", path=bundle)

"""What bundles have to repeat, since MONAI's tools and the Model Zoo read one folder, agrees."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract_differences import contract_differences
from contract_values import expected_values
from support import ROOT

BUNDLES = sorted(path.parent.parent for path in ROOT.glob("bundles/*/configs/metadata.json"))


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_configs_repeat_the_contract(bundle: Path) -> None:
    assert expected_values(bundle.name)
    assert contract_differences(bundle) == []


#: The Model Zoo looks for these in each folder; overlays change one thing alike in each bundle.
EQUAL = ("LICENSE", "configs/logging.conf")
#: Overlays that are equal in the bundles named here.
EQUAL_OVERLAYS = {
    "dali": ("msd_tumor_segmentation", "whole_body_segmentation"),
    "finetune_frozen": ("msd_tumor_segmentation", "whole_body_segmentation"),
    "from_scratch": ("head_ct_triage", "whole_body_segmentation"),
    "multi_gpu": ("head_ct_triage", "msd_tumor_segmentation", "whole_body_segmentation"),
}


@pytest.mark.parametrize("name", EQUAL)
def test_files_of_every_bundle_are_equal(name: str) -> None:
    assert len({(bundle / name).read_bytes() for bundle in BUNDLES}) == 1


@pytest.mark.parametrize("name", EQUAL_OVERLAYS)
def test_overlays_that_say_the_same_are_equal(name: str) -> None:
    folders = [ROOT / "bundles" / f"ct_fm_{task}" / "configs" for task in EQUAL_OVERLAYS[name]]
    contents = {(folder / f"{name}.yaml").read_bytes() for folder in folders}
    assert len(contents) == 1

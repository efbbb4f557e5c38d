"""Configs repeat numbers of the contract, since MONAI's tools read one file: they must agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract_differences import contract_differences
from contract_values import expected_values
from support import ROOT

BUNDLES = sorted(path.parent.parent for path in ROOT.glob("bundles/*/configs/inference.json"))


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_configs_repeat_the_contract(bundle: Path) -> None:
    assert expected_values(bundle.name)
    assert contract_differences(bundle) == []

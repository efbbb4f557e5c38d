"""Label maps that lie in the body as anatomy has it, and such that do not."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ctfm.contract.classes import TOTALSEGMENTATOR_V2
from ctfm.inference.anatomy import anatomy_warnings
from ctfm.phantoms.drawing import draw_torso

WORDS = ("left and right", "front and back", "head and feet")


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "SPL"])
def test_a_torso_lies_as_it_should(axcodes: str) -> None:
    torso = draw_torso(0, (4.0, 4.0, 4.0), axcodes)
    assert anatomy_warnings(torso.label, torso.affine, TOTALSEGMENTATOR_V2) == []


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_exchanged_axis_is_named(axis: int) -> None:
    torso = draw_torso(0, (4.0, 4.0, 4.0))
    affine = torso.affine.copy()
    affine[axis] *= -1
    (warning,) = anatomy_warnings(torso.label, affine, TOTALSEGMENTATOR_V2)
    assert f": {WORDS[axis]} may be exchanged in the scan's header" in warning


def test_real_labels(real_data: Path) -> None:
    for name in ("ct_torso_3mm_labels_fast.nii.gz", "ct_abdomen_3mm_labels.nii.gz"):
        image = nib.load(real_data / name)
        label = np.asanyarray(image.dataobj)
        assert anatomy_warnings(label, image.affine, TOTALSEGMENTATOR_V2) == []
        turned = np.diag([-1.0, 1, 1, 1]) @ image.affine
        (warning,) = anatomy_warnings(label, turned, TOTALSEGMENTATOR_V2)
        assert "left and right may be exchanged" in warning


def test_other_names_say_nothing() -> None:
    torso = draw_torso(0, (6.0, 6.0, 6.0))
    names = {i: f"class {i}" for i in range(1, 118)}
    assert anatomy_warnings(torso.label, -torso.affine, names) == []


def test_one_pair_the_right_way_round_outweighs_a_mistake() -> None:
    label = np.zeros((60, 20, 20), np.uint8)
    label[2:12], label[20:30], label[48:58] = 3, 5, 1  # left kidney, liver, spleen
    names = TOTALSEGMENTATOR_V2
    assert len(anatomy_warnings(label, np.diag([3.0, 3, 3, 1]), names)) == 1
    label[30:40] = 2  # right kidney
    assert anatomy_warnings(label, np.diag([3.0, 3, 3, 1]), names) == []

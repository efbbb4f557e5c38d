"""Windows of Hounsfield units, stacked along depth and taken apart again."""

from __future__ import annotations

import pickle

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import ScaleIntensityRange

from ctfm.base.errors import UserError
from ctfm.contract.tasks import HEAD_CT_TRIAGE
from ctfm.triage.hu_windows import HuWindowsd, StackWindowsd, unstacked

WINDOWS = HEAD_CT_TRIAGE.windows


@pytest.fixture
def image() -> MetaTensor:
    torch.manual_seed(0)
    return MetaTensor(
        torch.randn(1, 3, 4, 5) * 500, affine=torch.diag(torch.tensor([5.0, 2, 2, 1]))
    )


def test_windows_are_those_of_monai(image: MetaTensor) -> None:
    found = pickle.loads(pickle.dumps(HuWindowsd("image", WINDOWS)))({"image": image})["image"]
    for channel, (low, high) in zip(found, WINDOWS, strict=True):
        expected = ScaleIntensityRange(low, high, 0, 1, clip=True)(image)[0]
        torch.testing.assert_close(channel.as_tensor(), expected.as_tensor())
    assert torch.equal(found.affine, image.affine)


def test_depth_holds_one_window_after_the_other(image: MetaTensor) -> None:
    channels = HuWindowsd("image", WINDOWS)({"image": image})["image"]
    stacked = StackWindowsd("image")({"image": channels})["image"]
    assert stacked.shape == (1, 12, 4, 5)
    for i in range(4):
        assert torch.equal(stacked[0, 3 * i : 3 * i + 3], channels[i])
    assert torch.equal(stacked.affine, image.affine)
    assert torch.equal(unstacked(stacked[None], 4, "depth")[0], channels)
    kept = StackWindowsd("image", "channels")({"image": channels})["image"]
    assert torch.equal(unstacked(kept[None], 4, "channels")[0], channels)


def test_refusals() -> None:
    with pytest.raises(UserError, match="lower one first"):
        HuWindowsd("image", [[80, 0]])
    with pytest.raises(UserError, match="depth or channels"):
        StackWindowsd("image", "rows")

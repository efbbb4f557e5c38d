"""What a user may ask of label maps: some classes, how sure they are, and air left out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import SegResNetDS
from torch import Tensor, nn

from ctfm.inference.inferers.label_map import LabelMapInferer
from ctfm.inference.inferers.network_probe import probe_network
from ctfm.inference.inferers.windows import WindowLayout

ROI = (16, 16, 16)
OPTIONS: dict[str, Any] = {"overlap": 0.5, "mode": "gaussian"}


def network(classes: int) -> nn.Module:
    torch.manual_seed(classes)
    return SegResNetDS(
        init_filters=4, blocks_down=(1, 1, 1), out_channels=classes, dsdepth=2
    ).eval()


def volume() -> Tensor:
    return torch.rand(1, 1, 37, 29, 23, generator=torch.Generator().manual_seed(0))


def logits(image: Tensor, model: nn.Module) -> Tensor:
    with torch.no_grad():
        return SlidingWindowInferer(ROI, **OPTIONS)(image, model)


def labels(image: Tensor, model: nn.Module, **options: Any) -> Tensor:
    return LabelMapInferer(ROI, amp=False, **OPTIONS, **options)(image, model)


def almost_all(found: Tensor, expected: Tensor) -> bool:
    """But for ties, which round either way."""
    return bool((found == expected).double().mean() > 0.9999)


def test_classes_that_are_not_wanted_become_background() -> None:
    image, model = volume(), network(30)
    everything = logits(image, model).argmax(1, keepdim=True)
    found = everything.unique().tolist()
    assert len(found) >= 4, "there is something to leave out"
    first, second = found[-1], found[-3]
    wanted = torch.where((everything == first) | (everything == second), everything, 0)
    assert almost_all(labels(image, model, class_subset=[first, second]), wanted)


def test_wanted_classes_may_compete_with_one_another_alone() -> None:
    image, model = volume(), network(30)
    rows = torch.tensor([0, 2, 24])
    expected = rows[logits(image, model)[:, rows].argmax(1, keepdim=True)]
    found = labels(image, model, class_subset=[2, 24], compare_with="subset")
    assert almost_all(found, expected)


@pytest.mark.parametrize("classes", [3, 30])
def test_confidence_is_the_mean_margin_of_a_class(classes: int) -> None:
    image, model = volume(), network(classes)
    probabilities = logits(image, model).softmax(1)[0]
    best = probabilities.argmax(0)
    top = probabilities.topk(2, dim=0).values
    margins = top[0] - top[1]
    found = labels(image, model, confidence=True).meta["confidence"][0]
    for k in range(classes):
        expected = margins[best == k].mean()  # nan where the class is not found
        torch.testing.assert_close(found[k], expected, atol=1e-4, rtol=1e-3, equal_nan=True)


def test_windows_of_air_are_left_out() -> None:
    image, model = volume(), network(6)
    image[:, :, 20:] = 0.0
    calls: list[int] = []

    def counted(patches: Tensor) -> Any:
        calls.append(len(patches))
        return model(patches)

    everything, all_windows = labels(image, counted), sum(calls)
    calls.clear()
    found = labels(image, counted, skip_air=True)
    assert sum(calls) < all_windows
    assert bool((found[:, :, 32:] == 0).all()), "no window that was run reaches there"
    assert torch.equal(found[:, :, :16], everything[:, :, :16])


def test_nothing_but_air_is_background() -> None:
    image, model = torch.zeros(1, 1, 20, 20, 20), network(6)
    assert not labels(image, model, skip_air=True).any()
    assert labels(image, model, skip_air=True, confidence=True).meta["confidence"].isnan().all()


@pytest.mark.parametrize(("classes", "channels"), [(3, 3), (4, 4), (5, 4), (118, 4)])
def test_the_smaller_side_of_the_head_is_moved(classes: int, channels: int) -> None:
    """Of 4 features and 3 classes it is the classes."""
    layout = WindowLayout.over((20, 20, 20), ROI, 0.5)
    probe = probe_network(network(classes), volume()[0, :, :20, :20, :20], layout)
    assert (probe.head is not None) == (classes > 4)
    assert (probe.channels, probe.classes) == (channels, classes)

"""The labels of MONAI's sliding window and argmax, whatever the shapes."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import SegResNetDS
from torch import Tensor, nn

from ctfm.base.errors import UserError
from ctfm.inference.inferers.label_map import LabelMapInferer


def segresnet(classes: int = 5, depth: int = 2) -> SegResNetDS:
    """A tiny SegResNetDS whose classes all win somewhere."""
    torch.manual_seed(classes)
    network = SegResNetDS(
        init_filters=4, blocks_down=(1, 1, 1), out_channels=classes, dsdepth=depth
    )
    return network.eval()


def headless(classes: int = 5) -> nn.Module:
    """A network that does not end in a 1x1x1 convolution."""
    torch.manual_seed(classes)
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, classes, 1), nn.Softplus()
    ).eval()


def volume(*shape: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, 1, *shape, generator=torch.Generator().manual_seed(0))


def monai_logits(image: Tensor, network: nn.Module, roi: Sequence[int], **options: Any) -> Tensor:
    with torch.no_grad():
        return SlidingWindowInferer(roi, **options)(image, network)


def assert_labels(found: Tensor, logits: Tensor) -> None:
    """Labels are the largest logit, except for ties within 1e-4."""
    assert found.shape == (len(logits), 1, *logits.shape[2:])
    lost = logits.amax(1, keepdim=True) - logits.gather(1, found.long())
    assert lost.max() <= 1e-4
    assert (found[:, 0] == logits.argmax(1)).double().mean() >= 0.99999


#: Volumes, windows and overlaps.
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], Any]] = {
    "not divisible": ((37, 29, 33), (16, 16, 16), 0.625),
    "smaller than the window": ((9, 13, 11), (16, 16, 16), 0.5),
    "smaller on one axis": ((40, 11, 21), (16, 16, 16), 0.5),
    "one window": ((16, 16, 16), (16, 16, 16), 0.5),
    "one slice more": ((17, 16, 16), (16, 16, 16), 0.625),
    "anisotropic": ((30, 41, 19), (8, 24, 16), (0.5, 0.25, 0.0)),
    "whole axes": ((24, 20, 16), (8, -1, -1), 0.5),
    "no overlap": ((50, 16, 16), (16, 16, 16), 0.0),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("build", [segresnet, headless])
@pytest.mark.parametrize("mode", ["gaussian", "constant"])
def test_labels_are_those_of_monai(case: str, build: Any, mode: str) -> None:
    shape, roi, overlap = CASES[case]
    network, image = build(), volume(*shape)
    found = LabelMapInferer(roi, overlap=overlap, mode=mode, amp=False)(image, network)
    assert found.dtype == torch.uint8
    assert_labels(found, monai_logits(image, network, roi, overlap=overlap, mode=mode))


@pytest.mark.parametrize("classes", [1, 2, 118, 300])
@pytest.mark.parametrize("build", [segresnet, headless])
def test_numbers_of_classes(classes: int, build: Any) -> None:
    network, image = build(classes), volume(20, 17, 16)
    options: dict[str, Any] = {"overlap": 0.5, "mode": "gaussian"}
    found = LabelMapInferer((16, 16, 16), amp=False, **options)(image, network)
    assert found.dtype == (torch.uint8 if classes < 256 else torch.int16)
    assert_labels(found, monai_logits(image, network, (16, 16, 16), **options))


@pytest.mark.parametrize("padding_mode", ["constant", "replicate", "reflect", "circular"])
def test_padding(padding_mode: str) -> None:
    network, image = segresnet(), volume(30, 12, 10)
    options: dict[str, Any] = {"overlap": 0.5, "mode": "gaussian", "padding_mode": padding_mode}
    if padding_mode == "constant":
        options["cval"] = 0.3
    found = LabelMapInferer((16, 16, 16), amp=False, **options)(image, network)
    assert_labels(found, monai_logits(image, network, (16, 16, 16), **options))


@pytest.mark.parametrize("sw_batch_size", [3, 100])
def test_batches_of_windows_and_of_volumes(sw_batch_size: int) -> None:
    network, image = segresnet(), volume(37, 20, 33, batch=2)
    options: dict[str, Any] = {"overlap": 0.5, "mode": "gaussian"}
    inferer = LabelMapInferer((16, 16, 16), sw_batch_size, amp=False, **options)
    assert_labels(inferer(image, network), monai_logits(image, network, (16, 16, 16), **options))


def test_deep_supervision_gives_a_list() -> None:
    network, image = segresnet(depth=3), volume(24, 16, 16)
    expected = monai_logits(image, network, (16, 16, 16))
    network.train()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm3d):
            layer.eval()
    assert isinstance(network(image[..., :16, :, :]), list)
    assert_labels(LabelMapInferer((16, 16, 16), amp=False)(image, network), expected)


@pytest.mark.parametrize("accumulate", ["float32", "autocast"])
def test_bfloat16(accumulate: str) -> None:
    """The network is random, so that many logits are close to each other."""
    network, image = segresnet(), volume(37, 29, 33)
    options: dict[str, Any] = {"overlap": 0.625, "mode": "gaussian"}
    found = LabelMapInferer((16, 16, 16), accumulate=accumulate, **options)(image, network)
    logits = monai_logits(image, network, (16, 16, 16), **options)
    assert (found[:, 0] == logits.argmax(1)).double().mean() >= 0.97
    lost = logits.amax(1, keepdim=True) - logits.gather(1, found.long())
    assert lost.max() <= 0.02 * (logits.max() - logits.min())


def test_arguments_reach_the_network() -> None:
    def network(patches: Tensor, factor: float, *, offset: float) -> Tensor:
        return torch.cat([patches * factor, patches * 0 + offset], 1)

    image = volume(20, 16, 16)
    found = LabelMapInferer((16, 16, 16), amp=False)(image, network, 2.0, offset=1.0)
    assert torch.equal(found, (image < 0.5).to(torch.uint8))


def test_metadata_stay() -> None:
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0]))
    image = MetaTensor(volume(20, 16, 16), affine=affine, meta={"filename_or_obj": "a.nii"})
    network = segresnet()
    inferer = LabelMapInferer((16, 16, 16), amp=False, confidence=True)
    found, expected = inferer(image, network), SlidingWindowInferer((16, 16, 16))(image, network)
    assert isinstance(found, MetaTensor)
    assert torch.equal(found.affine, expected.affine)
    assert found.meta["filename_or_obj"] == "a.nii"
    assert found.meta["confidence"].shape == (1, 5)
    assert "confidence" not in image.meta


def test_integers_are_taken() -> None:
    image = (volume(20, 16, 16) * 100).to(torch.int16)
    found = LabelMapInferer((16, 16, 16), amp=False)(image, network := segresnet())
    assert_labels(found, monai_logits(image.float(), network, (16, 16, 16)))


def test_it_is_picklable() -> None:
    inferer = LabelMapInferer((16, 16, 16), overlap=0.5, class_subset=[1, 2])
    image, network = volume(20, 16, 16), segresnet()
    copy = pickle.loads(pickle.dumps(inferer))
    assert torch.equal(copy(image, network), inferer(image, network))


def test_the_network_is_left_as_it_was() -> None:
    network, image = segresnet(), volume(20, 16, 16)
    before = network(image[..., :16, :, :])
    keys = {name: set(vars(layer)) for name, layer in network.named_modules()}
    LabelMapInferer((16, 16, 16), amp=False)(image, network)
    assert {name: set(vars(layer)) for name, layer in network.named_modules()} == keys
    assert torch.equal(network(image[..., :16, :, :]), before)


@pytest.mark.parametrize(
    ("options", "shape", "told"),
    [
        ({"overlap": 1.0}, (1, 1, 16, 16, 16), "overlap"),
        ({"accumulate": "float16"}, (1, 1, 16, 16, 16), "accumulate"),
        ({"sw_batch_size": 0}, (1, 1, 16, 16, 16), "sw_batch_size"),
        ({"compare_with": "some"}, (1, 1, 16, 16, 16), "compare_with"),
        ({"class_subset": [1, 9]}, (1, 1, 16, 16, 16), r"class_subset has \[9\]"),
        ({}, (1, 16, 16, 16), "expected"),
    ],
)
def test_what_is_refused(options: dict[str, Any], shape: tuple[int, ...], told: str) -> None:
    with pytest.raises(UserError, match=told):
        LabelMapInferer((16, 16, 16), **options)(torch.zeros(shape), segresnet())


def test_outputs_that_are_no_logits_are_refused() -> None:
    image = volume(16, 16, 16)
    with pytest.raises(UserError, match="for each of their voxels"):
        LabelMapInferer((16, 16, 16))(image, nn.Conv3d(1, 2, 3, stride=2).eval())
    with pytest.raises(UserError, match="returns dict"):
        LabelMapInferer((16, 16, 16))(image, lambda patches: {"logits": patches})
    with pytest.raises(UserError, match="not finite"):
        LabelMapInferer((16, 16, 16), amp=False)(image, lambda patches: patches / 0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("build", [segresnet, headless])
def test_features_may_lie_in_memory_either_way(build: Any, amp: bool, layout: Any) -> None:
    network = build().to(memory_format=layout)

    def laid_out(patches: Tensor) -> Tensor:
        output = network(patches.contiguous(memory_format=layout))
        return output if build is segresnet else output.contiguous(memory_format=layout)

    image, options = volume(37, 29, 33), {"overlap": 0.5, "mode": "gaussian"}
    found = LabelMapInferer((16, 16, 16), amp=amp, **options)(image, laid_out)
    logits = monai_logits(image, network, (16, 16, 16), **options)
    if amp:
        assert (found[:, 0] == logits.argmax(1)).double().mean() >= 0.97
    else:
        assert_labels(found, logits)

"""Decisions, options and transforms of the Auto3DSeg template, each by itself."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Orientationd, Spacingd

from ctfm.auto3dseg import decisions, training
from ctfm.auto3dseg.engines import image_transforms
from ctfm.auto3dseg.options import DEFAULTS, Options, merge
from ctfm.auto3dseg.planning import plan
from ctfm.auto3dseg.recipe import load_model, save_model
from ctfm.auto3dseg.results import read_score
from ctfm.auto3dseg.statistics import Case, Statistics
from ctfm.auto3dseg.transforms import GroupsToChannelsd, OnOwnGridd
from ctfm.base.errors import UserError
from support import save

NARROW = {"init_filters": 4, "blocks_down": [1, 1, 1, 1, 1], "dsdepth": 1}


def statistics(
    *spacings: tuple[float, ...], shape: tuple[int, ...] = (100, 512, 512)
) -> Statistics:
    labels = frozenset({0, 1, 4})
    return Statistics(tuple(Case("x", 1, spacing, shape, labels, -1000) for spacing in spacings))


def options(tmp_path: Path, **changes: Any) -> Options:
    """Options as the file of a fold gives them."""
    folder = tmp_path / "work" / "segresnetctfm_0"
    lists = str(tmp_path / "work" / "list.json")
    source = {"modality": "ct", "datalist": lists, "dataroot": "/", "network": NARROW}
    values = plan(source, statistics((3, 1, 1)), DEFAULTS, folder, 0)
    file = folder / "configs" / "hyper_parameters.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(values))
    return Options.read(str(file), changes)


class TestDecisions:
    def test_spacing_is_the_median_and_of_thick_slices_finer(self) -> None:
        assert decisions.spacing(statistics((3, 1, 1), (2, 0.8, 0.8), (2.5, 0.9, 0.9))) == (
            2.5, 0.9, 0.9,
        )  # fmt: skip
        thick = statistics((5, 0.7, 0.7), (5, 0.7, 0.7), (1, 0.7, 0.7))
        assert decisions.spacing(thick) == (1.8, 0.7, 0.7)

    @pytest.mark.parametrize("memory", [None, 24.0])
    def test_roi_is_divisible_and_near_to_a_cube_in_mm(self, memory: float | None) -> None:
        roi = decisions.roi_size(statistics((3, 1, 1)), (3, 1, 1), memory)
        assert all(side % 16 == 0 and side >= 32 for side in roi)
        assert np.prod(roi) <= 96 * 160 * 160
        extent = np.multiply(roi, (3, 1, 1))
        assert extent.max() <= 1.6 * extent.min()

    def test_roi_does_not_exceed_the_scans(self) -> None:
        small = statistics((1, 1, 1), shape=(40, 20, 70))
        assert decisions.roi_size(small, (1, 1, 1), 24.0) == (48, 32, 80)

    def test_window_is_ctfms_for_its_encoder_and_of_the_labels_without_one(self) -> None:
        cases = [
            Case("x", 1, (1, 1, 1), (9, 9, 9), frozenset({0, 1}), -1000, foreground)
            for foreground in ((-100.0, 200.0), (-50.0, 300.0), None)
        ]
        found = [
            decisions.hu_window(Statistics(tuple(some)), {"pretrained": given, "intensity": "hu"})
            for some, given in ((cases, "encoder.pt"), (cases, None), (cases[2:], None))
        ]
        assert found == [(-1024, 2048), (-75, 250), (-1024, 2048)]

    @pytest.mark.parametrize("window", [(-1024, 2048), (20.0, 180.0)])
    def test_window_becomes_0_to_1_on_the_same_grid(
        self, window: tuple[float, float], tmp_path: Path
    ) -> None:
        hu = np.random.default_rng(0).normal(60, 300, (20, 21, 22)).astype(np.int16)
        hu[:6] = -1024  # cropped away
        save(hu, tmp_path / "ct.nii.gz")
        recipe = options(
            tmp_path, pretrained=None, spacing=[3, 3, 3], hu_window=list(window), input_check="off"
        ).recipe
        found = Compose(image_transforms(recipe))({"image": str(tmp_path / "ct.nii.gz")})["image"]
        low, high = window
        expected = (np.clip(hu, low, high) - low) / (high - low)
        back = Orientationd("image", axcodes="RAS", labels=None)({"image": found})["image"][0]
        start = np.rint(np.asarray(back.affine)[:3, 3] / 3).astype(int)
        box = tuple(slice(s, s + n) for s, n in zip(start, back.shape, strict=True))
        assert np.allclose(back, expected[box], atol=1e-5)

    def test_batch_follows_memory(self) -> None:
        whole = (96, 160, 160)
        found = [decisions.batch_size(whole, memory) for memory in (None, 8.0, 40.0, 80.0)]
        assert found == [1, 1, 2, 4]

    def test_epochs_fall_with_cases(self) -> None:
        assert [decisions.num_epochs(n) for n in (10, 100, 1000)] == [600, 400, 100]

    def test_classes_without_names_are_the_values_that_occur(self) -> None:
        found = decisions.classes(statistics((1, 1, 1)), None, sigmoid=False)
        assert found == (["class 1", "class 4"], [[1], [4]])

    @pytest.mark.parametrize(
        ("names", "expected"),
        [
            (["liver", "tumor"], True),
            (["kidney_left", "liver"], False),
            (["class 1"], False),
        ],
    )
    def test_no_flips_where_classes_have_sides(self, names: list[str], expected: bool) -> None:
        assert decisions.flips(names) is expected

    @pytest.mark.parametrize(
        ("intensity", "cached", "packages", "expected"),
        [
            ("hu", False, True, "dali"),
            ("hu", True, True, "monai"),
            ("hu", False, False, "monai"),
            ("scan", False, True, "monai"),
        ],
    )
    def test_crops_are_read_by_region_where_scans_do_not_fit_in_memory(
        self, intensity: str, cached: bool, packages: bool, expected: str
    ) -> None:
        assert decisions.loader(intensity, cached, packages) == expected


class TestOptions:
    def test_nested_ids_and_dictionaries_go_inside(self) -> None:
        merged = merge(DEFAULTS, {"learning_rate": {"encoder": 1}, "network": {"a": 1}})
        assert merged["learning_rate"] == {"encoder": 1, "decoder": 2e-4}
        assert merge(merged, {"network#a": 2, "network::b": 3})["network"] == {"a": 2, "b": 3}
        assert merge(DEFAULTS, {"num_images_per_batch": 7})["batch_size"] == 7

    def test_learning_rates_as_yaml_reads_them(self, tmp_path: Path) -> None:
        assert options(tmp_path, learning_rate="1e-4").learning_rates == (1e-4, 1e-4)

    def test_less_memory_means_half_the_batch_then_smaller_crops(self, tmp_path: Path) -> None:
        step: Options | None = options(tmp_path, batch_size=2, roi_size=[32, 48, 32])
        seen = []
        while step is not None:
            seen.append((step["batch_size"], step.recipe.roi_size))
            step = step.smaller()
        assert seen == [(2, (32, 48, 32)), (1, (32, 48, 32)), (1, (32, 32, 32))]

    def test_the_network_is_ct_fms_but_for_what_is_given(self, tmp_path: Path) -> None:
        network = options(tmp_path).recipe.network
        assert network == {**decisions.network(), **NARROW, "out_channels": 3}

    def test_paths_in_the_work_dir_are_relative(self, tmp_path: Path) -> None:
        assert options(tmp_path)["data_list_file_path"] == "../list.json"


def test_out_of_memory_goes_on_with_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def train(options: Options, *_: Any) -> None:
        tried.append((options["batch_size"], options.recipe.roi_size))
        if len(tried) < 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(training, "fit_fold", train)
    monkeypatch.setattr(training, "_log_to", lambda *_: None)
    given = options(tmp_path)
    file = str(given.folder / "configs" / "hyper_parameters.yaml")
    training.train_fold(file, batch_size=2, roi_size=[48, 48, 48])
    assert tried == [(2, (48, 48, 48)), (1, (48, 48, 48)), (1, (32, 48, 48))]


def test_out_of_memory_with_the_smallest_crop_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def train(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(training, "fit_fold", train)
    monkeypatch.setattr(training, "_log_to", lambda *_: None)
    given = options(tmp_path)
    file = str(given.folder / "configs" / "hyper_parameters.yaml")
    with (
        caplog.at_level(logging.WARNING, logger="ctfm"),
        pytest.raises(UserError, match="out of GPU memory with batch_size 1 and roi_size"),
    ):
        training.train_fold(file, batch_size=2, roi_size=[32, 32, 32])
    assert "going on with 1 and [32, 32, 32]" in caplog.text


def test_a_checkpoint_carries_its_network(tmp_path: Path) -> None:
    recipe = options(tmp_path, roi_size=[32, 48, 64]).recipe
    network = recipe.build()
    save_model(tmp_path / "model.safetensors", network.state_dict(), recipe)
    found, carried = load_model(tmp_path / "model.safetensors")
    assert carried == recipe
    assert all(torch.equal(network.state_dict()[k], v) for k, v in found.state_dict().items())


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "model.safetensors")
    with pytest.raises(UserError):
        load_model(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="train this fold first"):
        load_model(tmp_path / "nowhere")


def test_a_fold_without_score_is_not_trained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has not ended yet"):
        read_score(tmp_path)


def test_groups_become_channels() -> None:
    label = MetaTensor(torch.tensor([[[[0, 1, 2, 3]]]], dtype=torch.uint8))
    found = GroupsToChannelsd("label", [[1, 2], [2]])({"label": label})["label"]
    assert found.as_tensor().tolist() == [[[[0, 1, 1, 0]]], [[[0, 0, 1, 0]]]]


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("at_once", [1, 2, 9])
def test_own_grid_is_inversion_and_argmax(sigmoid: bool, at_once: int) -> None:
    torch.manual_seed(0)
    affine = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0]))
    transform = Compose(
        [
            Orientationd("image", axcodes="SPL", labels=None),
            Spacingd("image", pixdim=(4.0, 3.0, 3.0)),
        ]
    )
    item = transform({"image": MetaTensor(torch.rand(1, 12, 10, 8), affine=affine)})
    item["pred"] = MetaTensor(torch.rand(5, *item["image"].shape[1:]))
    whole = Invertd("pred", transform, "image", nearest_interp=False)(dict(item))["pred"]
    found = OnOwnGridd("pred", transform, sigmoid, at_once=at_once)(item)["pred"]
    expected = whole > 0.5 if sigmoid else whole.argmax(0, keepdim=True)
    assert torch.equal(found.as_tensor(), expected.as_tensor().to(torch.uint8))
    assert torch.equal(found.affine, affine.double())

"""The contract against the networks it describes and against the table of TotalSegmentator."""

from __future__ import annotations

import dataclasses
import math

import pytest
from monai.networks.nets import SegResNetDS
from monai.networks.nets.segresnet_ds import SegResEncoder

from ctfm.base.errors import UserError
from ctfm.contract import tasks as contract
from ctfm.contract.classes import (
    CLASS_GROUPS,
    TOTALSEGMENTATOR_V1,
    TOTALSEGMENTATOR_V2,
    class_group,
)
from ctfm.contract.tumors import DECATHLON_TUMORS, TUMORS
from ctfm.loading.store.recipe import store_recipe


def test_encoder_has_the_tensors_and_parameters_that_the_contract_states() -> None:
    encoder = SegResEncoder(**contract.ENCODER.arguments)
    assert len(encoder.state_dict()) == contract.ENCODER.tensors
    assert sum(p.numel() for p in encoder.parameters()) == contract.ENCODER.parameters


def test_segmentation_network_carries_that_encoder() -> None:
    network = SegResNetDS(**{**contract.SEGRESNET.arguments, "init_filters": 2})
    names = [n for n in network.state_dict() if n.startswith(contract.SEGRESNET.encoder_prefix)]
    assert len(names) == contract.ENCODER.tensors
    assert network.shape_factor() == [contract.ENCODER.divisor] * 3


def test_pretraining_patch_is_the_patch_in_mm_rounded_up_to_the_divisor() -> None:
    task = contract.PRETRAINING
    divisor = contract.ENCODER.divisor
    voxels = tuple(
        math.ceil(mm // spacing / divisor) * divisor
        for mm, spacing in zip(task.patch_mm, task.spacing, strict=True)
    )
    assert voxels == task.patch


@pytest.mark.parametrize(
    "task",
    [
        contract.PRETRAINING,
        contract.WHOLE_BODY,
        contract.HEAD_CT_TRIAGE,
        contract.SEMANTIC_SEARCH,
        *TUMORS.values(),
    ],
)
def test_patches_fit_the_network(task: contract.Task) -> None:
    assert task.patch is not None
    assert all(side % contract.ENCODER.divisor == 0 for side in task.patch)
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.axcodes = "RAS"  # type: ignore[misc]


def test_every_tumor_task_of_the_decathlon_is_there() -> None:
    """A patch costs no more than whole-body segmentation's; recipes of stores have the spacing."""
    tasks = TUMORS.values()
    assert len(DECATHLON_TUMORS) == len(tasks), "two rows have one folder"
    whole_body = math.prod(contract.WHOLE_BODY.patch or ())
    assert all(math.prod(task.patch or ()) <= whole_body for task in tasks)
    assert {name: task.spacing for name, task in TUMORS.items()} == {
        name: store_recipe(f"{name}_tumor").spacing for name in TUMORS
    }


def test_class_names_and_ids_are_those_of_totalsegmentator() -> None:
    peer = pytest.importorskip(
        "totalsegmentator.map_to_binary", reason="TotalSegmentator's table is not installed"
    )
    assert peer.class_map["total"] == TOTALSEGMENTATOR_V2
    assert peer.class_map["total_v1"] == TOTALSEGMENTATOR_V1


@pytest.mark.parametrize(
    ("group", "classes", "in_v2"),
    [
        ("v2", 117, 117),
        ("v1", 104, 97),
        ("organs", 17, 17),
        ("vertebrae", 24, 24),
        ("cardiac", 18, 11),
        ("muscles", 21, 21),
        ("ribs", 24, 24),
        ("merlin", 20, 20),
    ],
)
def test_groups_have_the_published_sizes(group: str, classes: int, in_v2: int) -> None:
    found = class_group(group)
    assert (len(found.ids), len(found.v2_ids)) == (classes, in_v2)
    assert len(found.missing_in_v2) == classes - in_v2


def test_v1_groups_partition_the_v1_classes() -> None:
    names = ("organs", "vertebrae", "cardiac", "muscles", "ribs")
    ids = sorted(i for name in names for i in CLASS_GROUPS[name].ids)
    assert ids == list(TOTALSEGMENTATOR_V1)


def test_unknown_group_is_refused_with_the_choices() -> None:
    with pytest.raises(UserError, match="choose one of v2, v1, organs"):
        class_group("bones")

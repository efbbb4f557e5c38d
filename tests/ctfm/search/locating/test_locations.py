"""Places as users give them, and what is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from ctfm.base.errors import UserError
from ctfm.contract.classes import TOTALSEGMENTATOR_V2
from ctfm.imaging.class_names import class_id_of
from ctfm.search.locating.locations import PreparedScan, find_location, triple
from ctfm.search.options import LocationOptions

OBLIQUE = np.array([[-2.9, 0.3, 0, 40], [0.3, 2.9, 0.2, -9], [0, -0.2, 3.1, 800], [0, 0, 0, 1.0]])


@pytest.fixture
def scan() -> PreparedScan:
    """A liver (5) of two voxels, a spleen (1) of one."""
    labels = np.zeros((10, 12, 14), np.int32)
    labels[2, 3, 4] = labels[4, 3, 4] = 5
    labels[7, 8, 9] = 1
    stored = MetaTensor(torch.zeros(1, 10, 12, 14), affine=torch.from_numpy(OBLIQUE))
    return PreparedScan("a.nii.gz", stored, stored, labels, TOTALSEGMENTATOR_V2)


def mm(*voxel: float) -> np.ndarray:
    return (OBLIQUE @ [*voxel, 1])[:3]


def test_a_point_in_mm_is_that_point(scan: PreparedScan) -> None:
    point = mm(7.2, 8.1, 8.9)
    place = find_location(scan, LocationOptions(point=point.tolist()))
    np.testing.assert_allclose(place.point, point)
    assert place.organ == 1, "the class there"
    assert find_location(scan, LocationOptions(point=mm(0, 0, 0).tolist())).organ is None


@pytest.mark.parametrize("given", [{"voxel": (7, 8, 9)}, {"voxel": "7,8,9"}])
def test_a_voxel_is_its_middle(given: dict[str, Any], scan: PreparedScan) -> None:
    place = find_location(scan, LocationOptions(**given))
    np.testing.assert_allclose(place.point, mm(7, 8, 9))
    assert place.organ == 1


def test_an_organ_is_its_centre_of_mass(scan: PreparedScan) -> None:
    for organ in ("liver", "5", 5):
        place = find_location(scan, LocationOptions(organ=organ))
        np.testing.assert_allclose(place.point, mm(3, 3, 4))
        assert place.organ == 5


def test_without_names_nobody_guesses(scan: PreparedScan) -> None:
    nameless = PreparedScan("a.nii.gz", scan.stored, scan.image, scan.labels)
    assert find_location(nameless, LocationOptions(organ=5)).organ == 5
    with pytest.raises(
        UserError, match=r"'liver': no names of classes lie beside the labels of a.nii.gz"
    ):
        find_location(nameless, LocationOptions(organ="liver"))
    with pytest.raises(UserError, match="do not show class 7: they show class 1, class 5"):
        find_location(nameless, LocationOptions(organ=7))


def test_an_organ_beside_a_point_says_what_the_answer_is_held_against(scan: PreparedScan) -> None:
    place = find_location(scan, LocationOptions(voxel=(0, 0, 0), organ="spleen"))
    assert place.organ == 1
    np.testing.assert_allclose(place.point, mm(0, 0, 0))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "no place is given"),
        ({"organ": "livr"}, "did you mean liver"),
        ({"organ": "pancreas"}, r"do not show pancreas: they show spleen, liver$"),
        ({"point": (0, 0, 0)}, r"0,0,0 mm lies outside of a.nii.gz, which reaches over x .*, y .*"),
        ({"voxel": (10, 0, 0)}, "has no voxel 10,0,0: it has 10 x 12 x 14, counted from 0"),
        ({"voxel": (-1, 0, 0)}, "has no voxel -1,0,0"),
        ({"point": (1, 2)}, "give three numbers"),
        ({"point": "a,b,c"}, "give three numbers"),
        ({"point": 5}, "give three numbers"),
        ({"point": (1, 2, float("nan"))}, "give three numbers"),
        ({"voxel": True}, "give three numbers"),
    ],
)
def test_what_is_no_place_is_refused(
    given: dict[str, Any], message: str, scan: PreparedScan
) -> None:
    with pytest.raises(UserError, match=message):
        find_location(scan, LocationOptions(**given))


def test_an_organ_needs_labels(scan: PreparedScan) -> None:
    with pytest.raises(UserError, match="add --labels_query FILE"):
        find_location(
            PreparedScan("a.nii.gz", scan.stored, scan.image, None), LocationOptions(organ="liver")
        )


def test_ids_and_numbers() -> None:
    names = TOTALSEGMENTATOR_V2
    assert class_id_of("heart", names, "a") == class_id_of("51", names, "a") == 51
    assert triple("1, -2,3.5").tolist() == [1, -2, 3.5]
    with pytest.raises(UserError, match="there is no class '0'"):
        class_id_of(0, names, "a")

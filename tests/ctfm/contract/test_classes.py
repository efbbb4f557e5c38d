"""Classes as users name them."""

from __future__ import annotations

import pytest

from ctfm.base.errors import UserError
from ctfm.contract.classes import class_group, class_name, network_channels, v2_ids


def test_channels_of_the_classes_that_are_named() -> None:
    assert network_channels(None, range(1, 118)) is None
    assert network_channels("spleen", range(1, 118)) == [1]
    assert network_channels("liver, spleen", range(1, 118)) == [1, 5]
    assert network_channels(["vertebrae"], range(1, 118)) == v2_ids("vertebrae")


def test_channels_of_a_network_for_a_group() -> None:
    ids = class_group("vertebrae").v2_ids
    assert network_channels(["vertebrae_L5"], ids) == [1 + ids.index(27)]
    with pytest.raises(UserError, match="does not segment liver: leave it out of --classes"):
        network_channels(["liver"], ids)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("livr", "did you mean liver"),
        ("kidney", "kidney_left"),
        ("xyzzy", "see NAME_seg.json for the names"),
    ],
)
def test_unknown_class(name: str, advice: str) -> None:
    with pytest.raises(UserError, match=f"no class is called '{name}': .*{advice}"):
        network_channels([name], range(1, 118))


def test_a_class_without_a_name_is_called_by_its_id() -> None:
    assert [class_name(i) for i in (5, 51, 200)] == ["liver", "heart", "class 200"]

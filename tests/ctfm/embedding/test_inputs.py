"""What a transform tells a user reaches the user, with the file's name in front once."""

from __future__ import annotations

from typing import Any

import pytest
from monai.transforms import Compose

from ctfm.base.errors import UserError
from ctfm.embedding.inputs import apply_steps


def raising(error: Exception) -> Compose:
    def step(_item: Any) -> Any:
        raise error

    return Compose([step])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nothing lies above 0 HU", "a.nii.gz: nothing lies above 0 HU"),
        ("a.nii.gz: no CT", "a.nii.gz: no CT"),
        ("label.nii.gz: another grid", "label.nii.gz: another grid"),
    ],
)
def test_the_message_of_a_transform(text: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        apply_steps(raising(UserError(text)), {"image": 1}, "a.nii.gz", "label.nii.gz")
    assert str(caught.value) == told


def test_defects_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError) as caught:
        apply_steps(raising(ValueError("a defect")), {"image": 1}, "a.nii.gz")
    assert not isinstance(caught.value, UserError)
    assert apply_steps(Compose([]), {"image": 1}, "a.nii.gz") == {"image": 1}

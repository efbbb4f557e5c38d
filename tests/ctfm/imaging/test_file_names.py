"""Names of NIfTI files."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctfm.imaging.file_names import RESULT_SUFFIX, is_nifti


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.nii", True),
        ("a.NII.GZ", True),
        (f"a{RESULT_SUFFIX}", True),
        ("a.gz", False),
        ("a.nii.gz.part", False),
        ("a.nrrd", False),
    ],
)
def test_nifti_is_known_by_its_name(name: str, expected: bool) -> None:
    assert is_nifti(name) is expected
    assert is_nifti(Path("folder", name)) is expected

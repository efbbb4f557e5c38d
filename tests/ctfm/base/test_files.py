"""Files appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from ctfm.base.errors import UserError
from ctfm.base.files import atomic_path, run_folder, sha256


def test_file_appears_with_its_suffix_kept(tmp_path: Path) -> None:
    target = tmp_path / "sub" / "image.nii.gz"
    with atomic_path(target) as temporary:
        assert temporary.name.endswith(".nii.gz")
        temporary.write_text("x")
        assert not target.exists()
    assert target.read_text() == "x"
    assert [p.name for p in target.parent.iterdir()] == ["image.nii.gz"]


def write_half(target: Path, error: type[BaseException]) -> None:
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_after_an_error_and_the_old_file_stays(
    tmp_path: Path, error: type[BaseException]
) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(error):
        write_half(target, error)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"cannot write .*a.txt: No space left"),
        atomic_path(tmp_path / "a.txt"),
    ):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_in_time(tmp_path: Path) -> None:
    old, recent, other = (tmp_path / name for name in (".a.txt.x1.txt", ".a.txt.x2.txt", ".b.txt"))
    for path in (old, recent, other):
        path.write_text("half")
    for path in (old, other):
        os.utime(path, (time.time() - 7200,) * 2)
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("x")
    assert {p.name for p in tmp_path.iterdir()} == {"a.txt", recent.name, other.name}


def test_sha256_is_that_of_the_whole_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 8192
    (tmp_path / "f").write_bytes(content)
    assert sha256(tmp_path / "f") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("parts", "fold", "expected"),
    [
        (["", ""], 0, ""),
        ([""], None, ""),
        (["pancreas", "from_scratch"], 1, "/pancreas/from_scratch/fold1"),
        (["", "from_scratch"], 0, "/from_scratch"),
    ],
)
def test_runs_lie_apart(parts: list[str], fold: int | None, expected: str) -> None:
    assert run_folder(parts, fold) == expected

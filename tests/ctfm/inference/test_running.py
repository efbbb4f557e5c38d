"""`ctfm segment`: the bundle that it finds, the options that it knows, what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ctfm.base.errors import UserError
from ctfm.commands import run as typed
from ctfm.inference import running as segmenting
from ctfm.inference.running import COMMAND, find_bundle, segment
from support import ROOT


def bundle(folder: Path, command: str = COMMAND) -> Path:
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "inference.json").write_text(json.dumps({"overlap": 0.5, "input": "."}))
    (folder / "configs" / "metadata.json").write_text(json.dumps({"command": command}))
    return folder


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What would be run."""
    runs: list[dict] = []

    def note(configs: list[Path], **overrides: object) -> None:
        runs.append({"configs": [path.name for path in configs], **overrides})

    monkeypatch.setattr(segmenting, "_run", note)
    return runs


def test_finds_the_bundle_of_this_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_bundle().is_relative_to(ROOT / "bundles")


def test_bundle_of_the_current_folder_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle(tmp_path / "bundles" / "other", command="another")
    mine = bundle(tmp_path / "bundles" / "mine")
    monkeypatch.chdir(tmp_path)
    assert find_bundle() == mine.resolve()
    monkeypatch.chdir(bundle(tmp_path / "unpacked"))
    assert find_bundle() == (tmp_path / "unpacked").resolve()


def test_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="not a bundle"):
        find_bundle(str(tmp_path))
    monkeypatch.setattr(segmenting, "_places", lambda: iter([tmp_path]))
    with pytest.raises(UserError, match="add --bundle FOLDER"):
        find_bundle()


def test_passes_options_on(tmp_path: Path, ran: list[dict]) -> None:
    root = str(bundle(tmp_path / "b"))
    words = ["--bundle", root, "--classes", "spleen", "liver", "b.nii.gz", "--low_res"]
    typed(["segment", "a.nii.gz", *words, "--overlap", "0.25", "-o", "2026_11"])
    (found,) = ran
    assert found["configs"] == ["inference.json", "low_res.yaml"]
    assert found["input"] == ["a.nii.gz", "b.nii.gz"]
    assert found["classes"] == ["spleen", "liver"]
    assert (found["output_dir"], found["overlap"], found["overwrite"]) == ("2026_11", 0.25, False)


def test_what_is_wrong_is_said(tmp_path: Path, ran: list[dict]) -> None:
    root = str(bundle(tmp_path / "b"))
    with pytest.raises(UserError, match="no input"):
        segment([], "out", bundle=root)
    with pytest.raises(UserError, match="option --overlop of this bundle: did you mean --overlap"):
        segment(["a.nii"], "out", bundle=root, overlop=0.5)
    nested = {"netwrok::init_filters": 8}
    with pytest.raises(UserError, match="option --netwrok::init_filters of this bundle"):
        segment(["a.nii"], "out", bundle=root, **nested)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="out is missing: add --out OUT"):
        typed(["segment", "a.nii"])
    assert ran == []

"""The demo: its commands can be pasted, its steps end clearly, a CT needs the published weights."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from monai.bundle import ConfigParser

from ctfm.base.errors import UserError
from support import ROOT, WHOLE_BODY, make_ct, save


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The demo, as if it had been started in an empty folder."""
    monkeypatch.syspath_prepend(ROOT / "examples")  # as Python does for a script
    spec = spec_from_file_location("demo", ROOT / "examples" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    return module


def python(demo: ModuleType, code: str, **options: Any) -> None:
    demo.step("name", [sys.executable, "-c", code], **options)


def test_a_printed_command_is_the_one_that_runs(
    demo: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    code = "import sys; print(sys.argv[1:], 'as typed')"
    options = {"config_file": "['a.json','b.yaml']", "name": "it's $HOME", "path": "c" * 80}
    python(demo, code, **options)
    printed, _, output = capfd.readouterr().out.partition("\n\n")
    pasted = subprocess.check_output(["bash", "-c", printed], cwd=ROOT, text=True)
    assert pasted in output
    assert "it's $HOME" in pasted


def test_a_failing_step_is_named_with_its_exit_code(demo: ModuleType) -> None:
    with pytest.raises(UserError, match=r"step 'name' ended with exit code 3: .*SystemExit\(3\)"):
        python(demo, "raise SystemExit(3)")


def test_banners_are_left_out_and_progress_bars_kept(
    demo: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    banner = "2030-01-02 03:04:05,678 - INFO - --- input summary ---"
    python(demo, f"print('{banner}'); print('04:05:06 INFO epoch 1'); print(' 50%', end='\\r')")
    output = capfd.readouterr().out.partition("\n\n")[2]
    assert output.startswith("04:05:06 INFO epoch 1\n 50%\r")


def test_a_second_run_removes_only_what_the_first_one_made(demo: ModuleType) -> None:
    demo.start_afresh(demo.OUT, demo.MADE)
    demo.DATA.mkdir()
    demo.ENCODER.touch()
    demo.OWN.mkdir()
    demo.start_afresh(demo.OUT, demo.MADE)
    assert sorted(p.name for p in demo.OUT.iterdir()) == [".made_by_demo", "own_ct"]
    demo.DATA.mkdir()
    (demo.OUT / ".made_by_demo").unlink()
    with pytest.raises(UserError, match="not made by this demo"):
        demo.start_afresh(demo.OUT, demo.MADE)
    assert demo.DATA.exists()


def test_a_ct_is_checked_and_not_segmented_without_the_published_weights(
    demo: ModuleType,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scan = save(make_ct()[0], tmp_path / "ct.nii.gz")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="could not be downloaded"):
        demo.own_ct(scan)
    output = capfd.readouterr().out
    assert "40 x 40 x 40 of 3 x 3 x 3 mm" in output
    assert output.count(" weights fetch project-lighter/whole_body_segmentation") == 2
    assert "--checkpoint bundles/ct_fm_whole_body_segmentation/models/model.safetensors" in output
    assert not demo.OWN.exists()


def test_what_is_no_ct_is_refused_before_a_download(demo: ModuleType, tmp_path: Path) -> None:
    mask = save(make_ct()[1], tmp_path / "mask.nii.gz")
    with pytest.raises(UserError, match="label map or mask"):
        demo.own_ct(mask)


@pytest.mark.parametrize(
    ("entry", "overlays"), [("train", ["narrow", "few_minutes"]), ("inference", ["narrow"])]
)
def test_overlays_change_what_is_there(entry: str, overlays: list[str]) -> None:
    config = ConfigParser.load_config_file(WHOLE_BODY / "configs" / f"{entry}.json")
    known = set(ConfigParser(config).config)
    for overlay in overlays:
        changes = ConfigParser.load_config_file(ROOT / "examples" / f"{overlay}.yaml")
        assert {key.split("::")[0] for key in changes} - {"crops_per_scan"} <= known

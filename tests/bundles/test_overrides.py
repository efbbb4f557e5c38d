"""What is typed after `python -m monai.bundle run` does what it says, in every bundle."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from ctfm.base.errors import one_line
from support import EXTRACTOR, ROOT, TRIAGE, TUMORS, WHOLE_BODY, run_here

ENTRIES = sorted(
    path for path in ROOT.glob("bundles/*/configs/*.json") if path.name != "metadata.json"
)
OVERLAYS = sorted(path for path in ROOT.glob("bundles/*/configs/*.yaml"))


def of(path: Path) -> str:
    return f"{path.parents[1].name}-{path.stem}"


def content(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def parsed(path: Path, name: str, typed: Any) -> Any:
    """A checked option as the config sees it, where a user typed `typed`."""
    parser = ConfigParser(content(path))
    parser[name] = typed
    return parser.get_parsed_content(f"checked::{name}")


@pytest.mark.parametrize("path", ENTRIES, ids=of)
class TestEachEntry:
    def test_each_switch_is_checked(self, path: Path) -> None:
        document = content(path)
        switches = {key for key, value in document.items() if isinstance(value, bool)}
        assert set(document["checked"]) == {*switches, "device"}
        for name in switches:
            assert document["checked"][name]["name"] == name
            assert document["checked"][name]["value"] == f"@{name}"

    def test_nothing_else_reads_what_was_typed(self, path: Path) -> None:
        document = content(path)
        names = "|".join(document["checked"])
        rest = json.dumps({key: v for key, v in document.items() if key != "checked"})
        assert re.findall(rf"@(?:{names})\b(?!::)", rest) == []

    def test_words_switch(self, path: Path) -> None:
        for name in content(path)["checked"].keys() - {"device"}:
            for word in ("false", "False", "FALSE", "off", "no", "0", False, 0):
                assert parsed(path, name, word) is False
            for word in ("true", "True", "on", "yes", "1", True, 1):
                assert parsed(path, name, word) is True
            with pytest.raises(RuntimeError) as caught:
                parsed(path, name, "maybe")
            assert str(one_line(caught.value)).startswith(f"{name} is 'maybe': give true")

    def test_a_device_is_a_name(self, path: Path) -> None:
        assert parsed(path, "device", "cpu") == torch.device("cpu")
        assert parsed(path, "device", torch.device("cpu")) == torch.device("cpu")
        for word, message in (("cuda:99", "GPUs are found here: give"), ("gpu", "give cpu, cuda")):
            with pytest.raises(RuntimeError) as caught:
                parsed(path, "device", word)
            assert message in str(one_line(caught.value))

    def test_finished_scans_are_not_done_again_unless_asked_for(self, path: Path) -> None:
        assert content(path).get("overwrite", False) is False


@pytest.mark.parametrize("path", OVERLAYS, ids=of)
def test_overlays_read_what_was_checked(path: Path) -> None:
    names = {n for entry in path.parent.glob("*.json") for n in content(entry).get("checked", {})}
    if path.stem == "multi_gpu":  # it states the device itself
        names -= {"device"}
    text = path.read_text(encoding="utf-8")
    assert re.findall(rf"@(?:{'|'.join(sorted(names))})\b(?!::)", text) == []


@pytest.mark.parametrize("bundle", [WHOLE_BODY, TUMORS, TRIAGE, EXTRACTOR], ids=lambda b: b.name)
def test_random_weights_need_no_file_and_reports_say_so(
    bundle: Path, ct: Path, tmp_path: Path
) -> None:
    overrides: dict[str, Any] = {"amp": "false", "progress": "false", "input_check": "off"}
    if bundle in (WHOLE_BODY, TUMORS):
        overrides |= {"class_ids": [1, 2], "network_def__out_channels": 3, "preview": "false"}
        overrides |= {"skip_air": "false", "overlap": 0.0}
    if bundle == TRIAGE:
        overrides["ckpt_dir"] = str(tmp_path)
    out = tmp_path / "out"
    run_here(
        "inference",
        bundle=bundle,
        input=str(ct),
        output_dir=str(out),
        load_pretrain="False",
        device="cpu",
        **overrides,
    )
    if bundle in (WHOLE_BODY, TUMORS):
        report = json.loads((out / "report.json").read_text())
        assert report["checkpoint"] is None
        assert report["settings"]["amp"] is report["settings"]["skip_air"] is False
        assert not (out / "ct_preview.png").exists()
        assert nib.load(out / "ct_seg.nii.gz").shape == nib.load(ct).shape
        record = json.loads((out / "ct_seg.json").read_text())["made_by"]
        assert record["weights"] is None
        assert record["outputs"]["preview"] is False
    if bundle == TRIAGE:
        document = json.loads((out / "ct_triage.json").read_text())
        assert document["made_by"]["weights"] is None
        assert np.isfinite(document["probability"])

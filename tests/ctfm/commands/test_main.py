"""The command line, in this process where that is possible."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets.segresnet_ds import SegResEncoder

from ctfm import __version__
from ctfm.__main__ import main
from ctfm.base.errors import UserError
from ctfm.commands.tree import Command, all_commands
from ctfm.weights.loading import load_encoder

COARSE = (12.0, 12.0, 12.0)


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ctfm", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def type_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What happens when a user types ``ctfm …``."""

    def call(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["ctfm", *arguments])
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # put back when the test ends
        main()

    return call


def test_idle_threads_give_their_core_back(tmp_path: Path) -> None:
    """Torch reads it when it is imported."""
    code = "import os, sys; sys.argv[1:] = ['--version']; from ctfm.__main__ import main; main(); "
    code += "print(os.environ['OMP_WAIT_POLICY'])"
    environment = {name: v for name, v in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{__version__}\nPASSIVE\n"


def test_mistake_of_a_user_ends_in_one_line(tmp_path: Path) -> None:
    done = run("datalist", "totalsegmentator", "--root", "nowhere", "--out", "x.json", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: nowhere is not a folder: give the unpacked release, the folder of meta.csv"
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["segmnt"], "there is no ctfm segmnt: did you mean segment?"),
        (["cut"], "there is no ctfm cut: choose from segment, locate"),
        (["phantom", "leg"], "there is no ctfm phantom leg: choose from torso, head"),
        (["phantom"], "ctfm phantom needs one word more: torso, head, dataset, msd"),
        (["phantom", "torso"], "out is missing: add --out OUT"),
        (["phantom", "torso", "a", "b"], "b is one argument too many for ctfm phantom torso"),
        (
            ["phantom", "torso", "a", "--tumours", "2"],
            "--tumours .*did you mean --tumors",
        ),
        (["phantom", "torso", "a", "--table", "--noise_hu", "loud"], "--noise_hu is 'loud'"),
    ],
)
def test_a_mistyped_line_says_how_to_go_on(
    words: list[str], message: str, type_in: Callable[..., None]
) -> None:
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        type_in(*words)


@pytest.mark.parametrize("command", all_commands(), ids=lambda command: "-".join(command.words))
def test_unknown_option_is_a_mistake_of_the_user(
    command: Command, type_in: Callable[..., None]
) -> None:
    if command.words == ("segment",):  # which takes keys of a config, and checks them there
        return
    with pytest.raises(UserError, match=f"there is no option --colour of {command.name}: choose"):
        type_in(*command.words, "--colour", "blue")


@pytest.mark.parametrize("words", [["--version"], ["version"]])
def test_version(
    words: list[str], type_in: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(*words)
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize("body", ["torso", "head"])
def test_phantom(body: str, tmp_path: Path, type_in: Callable[..., None]) -> None:
    ct, labels = tmp_path / "ct.nii.gz", tmp_path / "labels.nii.gz"
    type_in("phantom", body, str(ct), "--label", str(labels), "--spacing", "(12, 12, 12)")
    image, label = nib.load(ct), nib.load(labels)
    assert image.shape == label.shape
    np.testing.assert_allclose(image.header.get_zooms(), COARSE)
    assert np.asarray(image.dataobj).min() < -900
    assert len(np.unique(np.asarray(label.dataobj))) > 2


def test_phantom_without_labels(tmp_path: Path, type_in: Callable[..., None]) -> None:
    type_in("phantom", "torso", str(tmp_path / "ct.nii.gz"), "--spacing", "12", "12", "12")
    assert [path.name for path in tmp_path.iterdir()] == ["ct.nii.gz"]


def test_data_set_to_datalist(
    tmp_path: Path, type_in: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = str(tmp_path / "release"), str(tmp_path / "datalist.json")
    type_in("phantom", "dataset", root, "--subjects", "3", "--spacing", "(15, 15, 15)")
    type_in("datalist", "totalsegmentator", "--root", root, "--out", out, "--workers", "1")
    content = json.loads(Path(out).read_text())
    listed = [row for part in ("training", "validation", "test") for row in content.get(part, [])]
    assert len(listed) == 3
    assert all((tmp_path / "release" / row["label"]).is_file() for row in listed)
    assert out in capsys.readouterr().out


def test_weights(
    tmp_path: Path, type_in: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    encoder = SegResEncoder(init_filters=4, in_channels=1, blocks_down=(1, 1, 1, 1, 1))
    torch.save(encoder.state_dict(), tmp_path / "encoder.pt")
    source, out = str(tmp_path / "encoder.pt"), str(tmp_path / "encoder.safetensors")
    type_in("weights", "convert", source, out)
    type_in("weights", "verify", out)
    count = f"{len(encoder.state_dict())} tensors"
    assert capsys.readouterr().out.count(count) == 2
    with pytest.raises(UserError, match="published"):
        type_in("weights", "verify", out, "--published")


def test_encoder_out_of_a_pretraining_checkpoint(
    tmp_path: Path,
    type_in: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    torch.manual_seed(0)
    encoder = SegResEncoder(init_filters=4, in_channels=1, blocks_down=(1, 1, 1, 1, 1))
    state = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    state |= {"projection.0.weight": torch.zeros(8, 64), "projection.0.bias": torch.zeros(8)}
    optimizer = torch.optim.AdamW(encoder.parameters()).state_dict()
    saved = {"model": state, "optimizer": optimizer, "scaler": None, "epoch": 450}
    torch.save(saved, tmp_path / "epoch_0450.pt")
    out = tmp_path / "models" / "ct_fm_encoder.safetensors"
    with caplog.at_level("INFO", logger="ctfm.weights"):
        type_in("weights", "extract", str(tmp_path / "epoch_0450.pt"), "--out", str(out))
    assert "2 other tensors of the file not used (first: projection.0.weight)" in caplog.text
    printed = capsys.readouterr().out
    assert f"{out}: encoder, a SegResEncoder" in printed
    assert "source: epoch_0450.pt" in printed
    fresh = SegResEncoder(init_filters=4, in_channels=1, blocks_down=(1, 1, 1, 1, 1))
    loaded = load_encoder(fresh, out).state_dict()
    assert all(torch.equal(loaded[name], t) for name, t in encoder.state_dict().items())


def test_bundle_that_is_none(tmp_path: Path, type_in: Callable[..., None]) -> None:
    with pytest.raises(UserError, match="no bundle"):
        type_in("pack", str(tmp_path), "--out", str(tmp_path / "dist"))
    with pytest.raises(UserError, match="checks failed"):
        type_in("verify", str(tmp_path))
    assert list(tmp_path.iterdir()) == []

"""The command line, in this process where that is possible."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets.segresnet_ds import SegResEncoder

from ctfm import __version__
from ctfm.__main__ import Commands, main
from ctfm.base.errors import UserError, one_line
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


def test_version(tmp_path: Path) -> None:
    done = run("version", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{__version__}\n", "")


def test_mistake_of_a_user_ends_in_one_line(tmp_path: Path) -> None:
    done = run("datalist", "totalsegmentator", "--root", "nowhere", "--out", "x.json", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: nowhere is not a folder: give the unpacked release, the folder of meta.csv"
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["cut"], ["phantom", "leg"], ["phantom", "torso"]])
def test_unknown_command_or_missing_argument_says_how_to_go_on(
    words: list[str], type_in: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        type_in(*words)
    assert caught.value.code == 2
    assert "Usage: ctfm" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("phantom.torso", ["ct.nii.gz"]),
        ("phantom.head", ["ct.nii.gz"]),
        ("phantom.dataset", ["folder"]),
        ("phantom.msd", ["folder"]),
        ("datalist.totalsegmentator", ["--root", ".", "--out", "x.json"]),
        ("datalist.msd", ["--root", ".", "--out", "x.json"]),
        ("datalist.ct", ["--root", ".", "--out", "x.json"]),
        ("datalist.idc", ["--out", "folder"]),
        ("datalist.sinoct", ["--root", ".", "--out", "x.json"]),
        ("datalist.cq500", ["--root", ".", "--out", "x.json"]),
        ("datalist.classification", ["t.csv", ".", "x.json", "--image", "i", "--label", "l"]),
        ("dicom.convert", ["folder", "--out", "folder"]),
        ("weights.inject", ["encoder.pt", "out.pt"]),
        ("auto3dseg.infer", ["work", "ct.nii.gz", "-o", "out"]),
        ("evaluate.classification", ["p.csv", "--label", "l", "--score", "s", "--out", "d"]),
        ("pack", ["bundle"]),
        ("rank", ["encoder.pt", "--data", "x.json"]),
        ("locate", ["a.nii.gz", "b.nii.gz"]),
        ("compare", ["a", "b"]),
        ("lesions", ["predictions", "references"]),
        ("protocol.organmnist3d", ["encoder.pt", "--data", "file.npz"]),
        ("protocol.mir", ["encoder.pt", "--data", "folder", "--scans", "folder"]),
        ("protocol.semantic", ["encoder.pt", "--data", "x.json"]),
        ("protocol.clustering", ["encoder.pt", "--data", "x.json"]),
        ("protocol.stability", ["encoder.pt", "--pairs", "x.csv"]),
        ("protocol.saliency", ["encoder.pt", "--data", "x.json"]),
        ("search", ["scan", "--index", "folder"]),
        ("index.add", ["folder", "--index", "folder"]),
        ("index.build", ["folder"]),
    ],
)
def test_unknown_option_is_a_mistake_of_the_user(
    command: str, arguments: list[str], type_in: Callable[..., None]
) -> None:
    with pytest.raises(UserError, match="there is no option --colour: choose from --") as caught:
        type_in(*command.split("."), *arguments, "--colour", "blue")
    taken = set(re.findall(r"--(\w+)", str(one_line(caught.value)))) - {"colour"}
    text = " ".join(str(inspect.getdoc(attrgetter(command)(Commands()))).split())
    if command != "weights.inject":  # its help speaks of the arguments of a network
        listed = re.search(r"options: ([\w, ]+)\.", text)
        assert listed, "the help lists no options"
        assert set(listed[1].split(", ")) == taken


@pytest.mark.parametrize("body", ["torso", "head"])
def test_phantom(body: str, tmp_path: Path, type_in: Callable[..., None]) -> None:
    ct, labels = tmp_path / "ct.nii.gz", tmp_path / "labels.nii.gz"
    type_in("phantom", body, str(ct), "--label", str(labels), "--spacing", "(12, 12, 12)")
    image, label = nib.load(ct), nib.load(labels)
    assert image.shape == label.shape
    np.testing.assert_allclose(image.header.get_zooms(), COARSE)
    assert np.asarray(image.dataobj).min() < -900
    assert len(np.unique(np.asarray(label.dataobj))) > 2


def test_phantom_without_labels(tmp_path: Path) -> None:
    Commands().phantom.torso(str(tmp_path / "ct.nii.gz"), spacing=COARSE)
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
    type_in("weights", "verify", out, "--published", "False")
    count = f"{len(encoder.state_dict())} tensors"
    assert capsys.readouterr().out.count(count) == 2
    with pytest.raises(UserError, match="published"):
        type_in("weights", "verify", out)


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


def test_each_command_says_what_it_does_and_takes() -> None:
    """Fire shows these in ``--help``."""
    commands = Commands()
    groups = [commands, *vars(commands).values()]
    for group in groups:
        for name, method in inspect.getmembers(group, inspect.ismethod):
            if name.startswith("_"):
                continue
            text = inspect.getdoc(method) or ""
            for parameter in inspect.signature(method).parameters:
                assert f"{parameter}: " in text, f"{name} does not explain {parameter}"
            assert text, name


def test_help_of_a_command_that_takes_any_option(
    type_in: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        type_in("segment", "--help")
    assert ended.value.code == 0
    assert "ctfm segment - Segment scans" in "".join(capsys.readouterr())

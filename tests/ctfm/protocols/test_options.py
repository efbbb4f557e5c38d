"""Options that protocols have in common."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ctfm.base.errors import UserError
from ctfm.networks.encoders import PooledEncoder
from ctfm.protocols.options import EncoderOptions, LabelledOptions


def test_labelled_scans_of_a_datalist(tmp_path: Path) -> None:
    rows = [{"image": f"{n}.nii.gz", "label": f"{n}_label.nii.gz"} for n in range(3)]
    data = tmp_path / "datalist.json"
    data.write_text(json.dumps({"validation": rows, "test": rows[:1]}))
    for path in (name for row in rows for name in row.values()):
        (tmp_path / path).touch()
    scans = LabelledOptions(classes="5,51", scans=2).read(str(data))
    assert [row["image"] for row in scans.rows] == [str(tmp_path / f"{n}.nii.gz") for n in (0, 1)]
    assert (scans.base_dir, scans.class_ids) == (str(tmp_path), [5, 51])
    assert LabelledOptions().read(str(data)).class_ids is None
    with pytest.raises(UserError, match="1 scan of list 'test': two or more are compared"):
        LabelledOptions(split="test").read(str(data), least=2)


def test_checkpoints_come_first_then_random_encoders(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = PooledEncoder(init_filters=4, in_channels=1, blocks_down=(1, 1))
    torch.save(network.state_dict(), tmp_path / "encoder.pt")
    options = EncoderOptions(random_seeds=2, device="cpu", batch_size=3)
    candidates = options.candidates([str(tmp_path / "encoder.pt")])
    names = ["encoder.pt", "random, seed 0", "random, seed 1"]
    assert [candidate.name for candidate in candidates] == names
    with pytest.raises(UserError, match="random_seeds is 0: give a number from 1"):
        EncoderOptions(random_seeds=0).candidates([str(tmp_path / "encoder.pt")])

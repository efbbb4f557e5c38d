"""`check` sees whatever is wrong with a store, and `info` says what it holds."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctfm.__main__ import main
from ctfm.base.errors import UserError
from ctfm.loading.store.building import build_store
from ctfm.loading.store.index import Store, StoredScan
from ctfm.loading.store.inspection import check, info
from ctfm.loading.store.volumes import read_array, voxel_digest, write_array
from store_support import SPACING, files, row
from support import make_ct, save

Datalist = Callable[..., str]


def first(store: Path) -> StoredScan:
    return Store(store).scans("training")[0]


def rewrite(path: Path, change: Callable[[np.ndarray, dict[str, Any]], np.ndarray | None]) -> None:
    """Write a file anew with other voxels or metadata, its digest right again."""
    voxels, meta = read_array(path)
    changed = change(voxels, meta)
    voxels = voxels if changed is None else changed
    if "voxels" in meta:
        meta["voxels"] = voxel_digest(voxels)
    path.unlink()
    other = path.with_name("other.b2nd")
    write_array(other, voxels, meta)
    other.rename(path)


def problems(store: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Lines of a check that finds something, read in a thread of its own each time."""
    with pytest.raises(UserError) as caught:
        check(store)
    lines = capsys.readouterr().err.splitlines()
    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
    assert str(caught.value).startswith(f"{count}, {store} is not sound: ")
    return lines


class TestCheck:
    def test_clean(self, store: Path) -> None:
        assert check(store) == f"{store}: 4 scans sound"
        assert check(str(store), prune=True) == f"{store}: 4 scans sound"

    @pytest.mark.parametrize("what", ["image", "label"])
    def test_flipped_bits(self, what: str, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = getattr(first(store), f"{what}_path")
        data = bytearray(path.read_bytes())
        middle = len(data) // 3
        for at in range(middle, middle + 16):
            data[at] ^= 0x5A
        path.write_bytes(data)
        lines = problems(store, capsys)
        assert all(line.startswith(f"s0/ct.nii.gz: {path}: ") for line in lines)
        assert any("damaged" in line for line in lines)

    @pytest.mark.parametrize("share", [0, 0.5, 0.99])
    def test_cut_short(self, share: float, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = first(store).image_path
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        (line,) = problems(store, capsys)
        assert f"{path}: damaged" in line

    def test_missing(self, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
        first(store).label_path.unlink()
        Store(store).scans("validation")[1].image_path.unlink()
        lines = problems(store, capsys)
        assert [line.split(":")[0] for line in lines] == ["s0/ct.nii.gz", "s3/ct.nii.gz"]
        assert all("no such file in the store" in line for line in lines)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda v, m: v.astype(np.int32), "voxels are int32, not int16"),
            (lambda v, m: v[1:], "23 x 24 x 24 voxels, store.json says 24 x 24 x 24"),
            (lambda v, m: v - 200, "holds -1224 to .* HU, the recipe -1024 to 2048"),
            (
                lambda v, m: m.update(affine=(np.diag([2, 1, 1, 1]) @ m["affine"]).tolist()),
                "mm, the recipe says 3 x 3 x 3",
            ),
            (
                lambda v, m: m.update(affine=(np.diag([-1, 1, 1, 1]) @ m["affine"]).tolist()),
                "axes SPR, the recipe says SPL",
            ),
            (lambda v, m: m.pop("affine") and None, r"metadata are damaged \(KeyError\)"),
        ],
    )
    def test_image(
        self,
        change: Callable[..., Any],
        message: str,
        store: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        rewrite(first(store).image_path, change)
        (line,) = problems(store, capsys)
        assert re.search(message, line)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda v, m: v.astype(np.int16), "voxels are int16, not uint8 or uint16"),
            (lambda v, m: np.where(v == 5, 6, v).astype(v.dtype), "which classes there are: 5, 6"),
            (lambda v, m: m["positions"].pop("3") and None, "which classes there are: 3"),
            (
                lambda v, m: m["positions"].update({"3": m["positions"]["1"]}),
                "positions of class 3",
            ),
            (
                lambda v, m: m["positions"].update({"1": m["positions"]["1"][:-4]}),
                "positions of class 1, which has",
            ),
            (
                lambda v, m: (
                    m["positions"].update(
                        {"1": np.frombuffer(m["positions"]["1"], np.int32) + 10**6}
                    )
                    or m["positions"].update({"1": m["positions"]["1"].tobytes()})
                ),
                "positions of class 1 lie outside it",
            ),
        ],
    )
    def test_label(
        self,
        change: Callable[..., Any],
        message: str,
        store: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        rewrite(first(store).label_path, change)
        (line,) = problems(store, capsys)
        assert re.search(message, line)

    def test_label_of_another_shape(self, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
        rewrite(first(store).label_path, lambda v, m: v[:, 1:])
        assert any("24 x 23 x 24 voxels" in line for line in problems(store, capsys))

    def test_voxels_exchanged(self, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The file is whole, its voxels are others: only the digest tells."""
        path = first(store).image_path
        voxels, meta = read_array(path)
        write_array(path.with_name("other.b2nd"), voxels[::-1], meta)
        path.with_name("other.b2nd").rename(path)
        (line,) = problems(store, capsys)
        assert line.endswith("damaged: its voxels are not those that were written")

    def test_strangers(self, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = first(store).image_path.parent
        before = files(store)
        strangers = [
            folder / ".0123.image.b2nd.xyz.b2nd",
            folder / "0123.image.b2nd",
            store / ".store.json.abc.json",
        ]
        for path in strangers:
            path.write_bytes(b"12345")
        lines = problems(store, capsys)
        assert {line.split(": ")[0] for line in lines} == {str(path) for path in strangers}
        assert check(store, prune=True) == (
            f"{store}: 4 scans sound; deleted what no row named: 3 files, 15 B"
        )
        assert files(store) == before
        check(store)

    def test_prune_keeps_what_rows_share(self, datalist: Datalist, tmp_path: Path) -> None:
        store = tmp_path / "out"
        arguments = str(store), "whole_body", None, SPACING, 1
        build_store(datalist({"training": [row(0)], "test": [row(0), row(2)]}), *arguments)
        build_store(datalist({"test": [row(0)]}), *arguments)
        assert "1 scan sound; deleted what no row named: 1 file, " in check(store, prune=True)
        assert len(files(store)) == 2

    def test_no_store(self, tmp_path: Path) -> None:
        for function in (check, info):
            with pytest.raises(UserError, match="no store here"):
                function(tmp_path)


class TestInfo:
    def test_table(self, store: Path) -> None:
        lines = info(store).splitlines()
        text = "\n".join(lines)
        assert "task      whole_body" in lines
        assert "voxels    3 x 3 x 3 mm, axes SPL, -1024 to 2048 HU" in lines
        assert "scans     4, with labels 2" in lines
        assert re.search(r"training +2, with labels 2\n +validation +2, with labels 0", text)
        assert "stored    4 different scans of 55.3 k voxels together" in lines
        assert "smallest 24 x 24 x 24, median 24 x 24 x 24, largest 24 x 24 x 24" in text
        assert "classes   3 in 2 scans with labels, named as in TotalSegmentator v2" in lines
        assert re.search(r" 1 spleen +2\n +3 kidney_left +2\n +5 liver +2\n", text)
        assert lines[-1] == "failed    0"

    def test_numbers(self, store: Path) -> None:
        scans = [s for split in ("training", "validation") for s in Store(store).scans(split)]
        arrays = [s.image((0, 0, 0), s.entry.shape) for s in scans]
        images = sum(s.image_path.stat().st_size for s in scans)
        labels = sum(s.label_path.stat().st_size for s in scans if s.entry.labelled)
        ratio = sum(a.nbytes for a in arrays) / images
        text = info(store)
        assert f"on disk   {(images + labels) / 1000:.1f} kB, " in text
        assert f"int16 {ratio:.1f} times that; labels {labels / 1000:.1f} kB" in text
        assert f"mean {np.mean([a.mean() for a in arrays]):.1f}, standard deviation" in text
        tops = [np.percentile(a, 99.5) for a in arrays]
        assert f"99.5 %  from {min(tops):.0f} to {max(tops):.0f}" in text

    def test_other_classes_have_no_names(
        self, scans: Path, datalist: Datalist, tmp_path: Path
    ) -> None:
        label = make_ct(seed=0, side=24)[1].astype(np.uint16)
        label[label == 5] = 500
        save(label, scans / "s0" / "labels.nii.gz")
        content = {"training": [row(0), row(1)]}
        build_store(datalist(content), str(tmp_path / "out"), "whole_body", None, SPACING, 1)
        text = info(tmp_path / "out")
        assert "classes   4 in 2 scans with labels\n" in text
        assert "spleen" not in text
        assert re.search(r"^ +500 +1$", text, re.MULTILINE)

    def test_failures_and_nothing_else(self, store: Path) -> None:
        content = json.loads((store / "store.json").read_text())
        content["scans"], content["failures"] = [], {"a.nii.gz": "no such file"}
        (store / "store.json").write_text(json.dumps(content))
        assert info(store).endswith("failed    1\n  a.nii.gz: no such file")
        content["scans"] = []


class TestCommands:
    @pytest.fixture
    def type_in(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
        """What happens when a user types ``ctfm store …``."""

        def call(*arguments: str) -> None:
            monkeypatch.setattr(sys, "argv", ["ctfm", "store", *arguments])
            monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # put back when the test ends
            main()

        return call

    def test_from_a_datalist_to_a_table(
        self,
        datalist: Datalist,
        tmp_path: Path,
        type_in: Callable[..., None],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        out = str(tmp_path / "out")
        words = ["--task", "whole_body", "--out", out, "--spacing", "3,3,4", "--workers", "1"]
        type_in("build", datalist(), *words, "--max_failures", "0.1", "--input_check", "warn")
        assert capsys.readouterr().out == f"{out}/store.json\n"
        assert Store(out).recipe.spacing == (3, 3, 4)
        type_in("check", out)
        assert capsys.readouterr().out == f"{out}: 4 scans sound\n"
        type_in("info", out)
        assert "3 x 3 x 4 mm" in capsys.readouterr().out
        first(Path(out)).label_path.unlink()
        with pytest.raises(UserError, match="1 problem"):
            type_in("check", out)
        with pytest.raises(UserError, match="1 problem"):
            type_in("check", out, "--prune")

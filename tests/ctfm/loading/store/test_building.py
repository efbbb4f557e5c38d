"""What is new or changed is converted, and nothing else; a bad scan does not stop the others."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctfm.base.errors import UserError
from ctfm.loading.store.building import build_store
from ctfm.loading.store.index import Store
from ctfm.loading.store.inspection import check
from store_support import SPACING, files, row
from support import make_ct, save

Datalist = Callable[..., str]


def again(source: str, store: Path, **options: Any) -> Path:
    arguments = {"spacing": SPACING, "workers": 1, **options}
    return build_store(source, str(store), "whole_body", **arguments)


@pytest.fixture
def counts(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """What the last build says it did."""
    caplog.set_level(logging.INFO, "ctfm.loading.store")

    def last() -> str:
        return caplog.records[-1].getMessage().partition(": ")[2]

    return last


def new_files(store: Path, before: dict[str, int]) -> set[str]:
    return {name for name, time in files(store).items() if before.get(name) != time}


class TestContent:
    def test_what_was_asked_for(self, store: Path) -> None:
        read = Store(store)
        assert [(e.split, e.name) for e in read.entries] == [
            ("training", "s0/ct.nii.gz"),
            ("training", "s1/ct.nii.gz"),
            ("validation", "s2/ct.nii.gz"),
            ("validation", "s3/ct.nii.gz"),
        ]
        assert [e.labelled for e in read.entries] == [True, True, False, False]
        assert len(files(store)) == 6
        for entry, scan in zip(read.entries, read.scans("training"), strict=False):
            hu, label = make_ct(seed=int(entry.name[1]), side=24)
            hu = hu.clip(-1024, 2048)
            assert entry.shape == hu.shape
            # RAS to SPL
            turned = np.transpose(hu[::-1, ::-1], (2, 1, 0))
            np.testing.assert_array_equal(scan.image((0, 0, 0), entry.shape), turned)
            turned = np.transpose(label[::-1, ::-1], (2, 1, 0))
            np.testing.assert_array_equal(scan.label((0, 0, 0), entry.shape), turned)

    def test_nothing_to_do(
        self, store: Path, datalist: Datalist, counts: Callable[[], str]
    ) -> None:
        before, index = files(store), (store / "store.json").read_bytes()
        again(datalist(), store)
        assert files(store) == before
        assert (store / "store.json").read_bytes() == index
        assert counts() == "4 scans, 0 converted, 4 were there already, 0 failed"

    def test_touched_moved_or_renamed(
        self, store: Path, datalist: Datalist, scans: Path, counts: Callable[[], str]
    ) -> None:
        before = files(store)
        os.utime(scans / "s0" / "ct.nii.gz", (1, 1))
        shutil.move(scans / "s2", scans / "häuser ☃")
        content = {"training": [row(0), row(1)], "test": [{"image": "häuser ☃/ct.nii.gz"}]}
        again(datalist(content), store)
        assert files(store) == before
        assert counts() == "3 scans, 0 converted, 3 were there already, 0 failed"
        assert Store(store).scans("test")[0].entry.name == "häuser ☃/ct.nii.gz"

    def test_changed_voxels(
        self, store: Path, datalist: Datalist, scans: Path, counts: Callable[[], str]
    ) -> None:
        before = files(store)
        save(make_ct(seed=9, side=24)[0], scans / "s1" / "ct.nii.gz")
        again(datalist(), store)
        scan = Store(store).scans("training")[1]
        key = scan.entry.key
        folder = f"scans/{key[:2]}/{key}"
        assert new_files(store, before) == {f"{folder}.image.b2nd", f"{folder}.label.b2nd"}
        assert counts() == "4 scans, 1 converted, 3 were there already, 0 failed"

    def test_changed_label(self, store: Path, datalist: Datalist, scans: Path) -> None:
        before = files(store)
        label = make_ct(seed=1, side=24)[1]
        label[label == 5] = 6
        save(label, scans / "s1" / "labels.nii.gz")
        again(datalist(), store)
        assert len(new_files(store, before)) == 2
        assert Store(store).scans("training")[1].positions.keys() == {1, 3, 6}

    def test_changed_spacing_and_back(self, store: Path, datalist: Datalist) -> None:
        before = files(store)
        again(datalist(), store, spacing=(4, 4, 4))
        assert len(new_files(store, before)) == 6
        assert all(e.shape[0] < 24 for e in Store(store).entries)
        both = files(store)
        again(datalist(), store)
        assert files(store) == both
        assert all(e.shape[0] == 24 for e in Store(store).entries)
        check(store, prune=True)
        assert files(store) == before

    def test_rows_of_another_spacing_are_not_passed_off(
        self, store: Path, datalist: Datalist, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A build at another spacing that was killed at once leaves no row of the old one."""
        from ctfm.loading.store import building

        def stopped(*_: object) -> Iterator[Any]:
            raise KeyboardInterrupt
            yield

        monkeypatch.setattr(building, "_in_parallel", stopped)
        with pytest.raises(KeyboardInterrupt):
            again(datalist(), store, spacing=(4, 4, 4))
        assert Store(store).recipe.spacing == (4, 4, 4)
        assert Store(store).entries == []
        with pytest.raises(KeyboardInterrupt):
            again(datalist(), store, spacing=(4, 4, 4))
        monkeypatch.undo()
        again(datalist(), store)
        with monkeypatch.context() as patch:
            patch.setattr(building, "_in_parallel", stopped)
            with pytest.raises(KeyboardInterrupt):
                again(datalist(), store)
        assert len(Store(store).entries) == 4

    def test_another_task(self, store: Path, datalist: Datalist) -> None:
        with pytest.raises(UserError, match="is a store for whole_body, not for pretraining"):
            build_store(datalist(), str(store), "pretraining", workers=1)

    def test_broken_index(self, store: Path, datalist: Datalist) -> None:
        """It says what helps, and that does help: what was converted is found again."""
        before = files(store)
        (store / "store.json").write_text("{")
        with pytest.raises(UserError, match="delete it and run `ctfm store build` again"):
            again(datalist(), store)
        (store / "store.json").unlink()
        again(datalist(), store)
        assert files(store) == before

    @pytest.mark.parametrize("what", ["image", "label"])
    def test_file_that_is_lost_or_cut_short(
        self, what: str, store: Path, datalist: Datalist
    ) -> None:
        before = files(store)
        lost, cut = (getattr(s, f"{what}_path") for s in Store(store).scans("training"))
        content = lost.read_bytes(), cut.read_bytes()
        lost.unlink()
        cut.unlink()
        cut.write_bytes(content[1][:100])
        again(datalist(), store)
        assert (lost.read_bytes(), cut.read_bytes()) == content
        assert len(new_files(store, before)) == 4  # a scan's image and label


class TestRows:
    def test_same_content_twice(
        self, datalist: Datalist, scans: Path, tmp_path: Path, counts: Callable[[], str]
    ) -> None:
        """Copies, links, and a scan in two lists are stored once and told apart by their rows."""
        (scans / "copy").mkdir()
        shutil.copy(scans / "s2" / "ct.nii.gz", scans / "copy" / "ct.nii.gz")
        (scans / "link.nii.gz").symlink_to(scans / "s2" / "ct.nii.gz")
        (scans / "folder").symlink_to(scans / "s2")
        names = ["s2/ct.nii.gz", "copy/ct.nii.gz", "link.nii.gz", "folder/ct.nii.gz"]
        rows = [{"image": name} for name in names]
        store = tmp_path / "out"
        again(datalist({"training": rows, "validation": rows[:1], "test": rows[:1]}), store)
        assert [e.name for e in Store(store).entries] == [*names, names[0], names[0]]
        assert len(files(store)) == 1
        assert counts() == "6 scans, 1 converted, 5 were there already, 0 failed"
        assert check(store).endswith("6 scans sound")

    def test_with_and_without_labels(self, datalist: Datalist, tmp_path: Path) -> None:
        content = {"training": [row(0)], "test": [{"image": row(0)["image"]}]}
        again(datalist(content), tmp_path / "out")
        assert [e.labelled for e in Store(tmp_path / "out").entries] == [True, False]

    def test_repeated_row_and_contradicting_rows(
        self, datalist: Datalist, tmp_path: Path, counts: Callable[[], str]
    ) -> None:
        again(datalist({"training": [row(0), row(1), row(0)]}), tmp_path / "out")
        assert [e.name[:2] for e in Store(tmp_path / "out").entries] == ["s0", "s1", "s0"]
        other = {**row(0), "label": row(1)["label"]}
        with pytest.raises(UserError, match=r"s0/ct\.nii\.gz is listed twice in training, not al"):
            again(datalist({"training": [row(0), other]}), tmp_path / "out")

    def test_other_values_are_kept(self, datalist: Datalist, tmp_path: Path) -> None:
        rows = [row(0, fold=3, notes=["a", None]), {"image": "s2/ct.nii.gz", "label": 1}]
        again(datalist({"training": rows}), tmp_path / "out")
        found = [entry.extra for entry in Store(tmp_path / "out").entries]
        assert found == [{"fold": 3, "notes": ["a", None]}, {"label": 1}]

    def test_bare_paths(self, datalist: Datalist, tmp_path: Path) -> None:
        """As the Medical Segmentation Decathlon lists its test set."""
        again(datalist({"test": ["s2/ct.nii.gz"]}), tmp_path / "out")
        assert Store(tmp_path / "out").scans("test")[0].entry.name == "s2/ct.nii.gz"

    def test_base_dir_and_absolute_paths(
        self, datalist: Datalist, scans: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "elsewhere.json"
        path.write_text(json.dumps({"training": [row(2), {"image": str(scans / "s3/ct.nii.gz")}]}))
        again(str(path), tmp_path / "out", base_dir=str(scans))
        assert len(Store(tmp_path / "out").entries) == 2

    def test_folder_and_file(self, scans: Path, tmp_path: Path) -> None:
        """The store may lie in the folder: nothing of it is taken for a scan."""
        again(str(scans), scans / "out", input_check="off")
        names = {s.entry.name for s in Store(scans / "out").scans("training")}
        assert {"s0/ct", "s3/ct", "s0/labels"} <= names
        again(str(scans / "s2" / "ct.nii.gz"), tmp_path / "one")
        assert [e.name for e in Store(tmp_path / "one").entries] == ["ct"]

    def test_scans_that_left_the_datalist(self, store: Path, datalist: Datalist) -> None:
        again(datalist({"training": [row(0)]}), store)
        assert [e.name for e in Store(store).entries] == ["s0/ct.nii.gz"]
        assert len(files(store)) == 6  # kept until they are pruned


class TestHeadersWithoutVoxels:
    """A header of MetaImage or NRRD may name the file that holds its voxels."""

    def write(self, folder: Path, hu: np.ndarray, name: str = "ct.mhd") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        x, y, z = hu.shape
        if name.endswith(".mhd"):
            text = (
                "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
                "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 3 3 3\n"
                f"DimSize = {x} {y} {z}\nElementType = MET_SHORT\nElementDataFile = ct.raw\n"
            )
        else:
            text = (
                "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\n"
                f"sizes: {x} {y} {z}\nspace directions: (3,0,0) (0,3,0) (0,0,3)\n"
                "kinds: domain domain domain\nendian: little\nencoding: raw\n"
                "space origin: (0,0,0)\ndata file: ct.raw\n"
            )
        (folder / name).write_text(text)
        (folder / "ct.raw").write_bytes(hu.astype("<i2").tobytes(order="F"))

    @pytest.mark.parametrize("name", ["ct.mhd", "ct.nhdr"])
    def test_voxels_count_as_content(self, name: str, tmp_path: Path) -> None:
        """Headers of scans from one scanner are alike to the byte."""
        first, second, third = (make_ct(seed=i, side=24)[0] for i in range(3))
        self.write(tmp_path / "in" / "a", first, name)
        self.write(tmp_path / "in" / "b", second, name)
        assert (tmp_path / "in/a" / name).read_bytes() == (tmp_path / "in/b" / name).read_bytes()
        again(str(tmp_path / "in"), tmp_path / "out")
        a, b = Store(tmp_path / "out").scans("training")
        assert a.entry.key != b.entry.key
        box = (0, 0, 0), (24, 24, 24)
        assert not np.array_equal(a.image(*box), b.image(*box))
        self.write(tmp_path / "in" / "a", third, name)
        again(str(tmp_path / "in"), tmp_path / "out")
        changed, same = Store(tmp_path / "out").scans("training")
        assert changed.entry.key != a.entry.key
        assert same.entry == b.entry
        assert not np.array_equal(changed.image(*box), a.image(*box))


class TestFailures:
    @pytest.fixture
    def broken(self, scans: Path) -> Path:
        (scans / "s3" / "ct.nii.gz").write_bytes(b"no scan")
        return scans

    def test_listed_with_its_reason(
        self, broken: Path, datalist: Datalist, tmp_path: Path, counts: Callable[[], str]
    ) -> None:
        store = tmp_path / "out"
        again(datalist(), store)
        failures = Store(store).failures
        assert list(failures) == ["s3/ct.nii.gz"]
        assert failures["s3/ct.nii.gz"].startswith("cannot be read")
        assert [e.name[:2] for e in Store(store).entries] == ["s0", "s1", "s2"]
        assert counts() == "3 scans, 3 converted, 0 were there already, 1 failed"
        assert check(store).endswith("3 scans sound")
        before = files(store)
        save(make_ct(seed=3, side=24)[0], broken / "s3" / "ct.nii.gz")
        again(datalist(), store)
        assert len(new_files(store, before)) == 1
        assert Store(store).failures == {}

    def test_a_scan_that_went_bad_leaves_its_row(
        self, store: Path, broken: Path, datalist: Datalist
    ) -> None:
        again(datalist(), store)
        assert [e.name[:2] for e in Store(store).entries] == ["s0", "s1", "s2"]

    def test_label_that_is_bad_in_one_list_only(
        self, scans: Path, datalist: Datalist, tmp_path: Path
    ) -> None:
        bad = {**row(0), "label": "s0/none.nii.gz"}
        again(datalist({"training": [row(0)], "test": [bad]}), tmp_path / "out")
        assert [e.split for e in Store(tmp_path / "out").entries] == ["training"]
        assert "none.nii.gz: No such file" in Store(tmp_path / "out").failures["s0/ct.nii.gz"]

    def test_threshold(self, scans: Path, datalist: Datalist, tmp_path: Path) -> None:
        """The finished ones stay; what stands behind in the list is not looked at any more."""
        rows = [row(0)] + [{"image": f"missing{i}.nii.gz"} for i in range(40)] + [row(1)]
        store = tmp_path / "out"
        with pytest.raises(UserError, match=r"^4 of 42 scans failed, more than max_failures"):
            again(datalist({"training": rows}), store)
        assert [e.name[:2] for e in Store(store).entries] == ["s0"]
        assert len(Store(store).failures) == 4
        before = files(store)
        again(datalist({"training": rows}), store, max_failures=1)
        assert len(Store(store).failures) == 40
        assert len(new_files(store, before)) == 2

    def test_none_is_tolerated(self, broken: Path, datalist: Datalist, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"^1 of 4 scans failed, .*cannot be read"):
            again(datalist(), tmp_path / "out", max_failures=0)

    def test_all_of_them(self, datalist: Datalist, tmp_path: Path) -> None:
        rows = [{"image": f"missing{i}.nii.gz"} for i in range(3)]
        with pytest.raises(UserError, match="no scan could be converted"):
            again(datalist({"training": rows}), tmp_path / "out")
        assert len(Store(tmp_path / "out").failures) == 3

    def test_colours_and_other_surprises(
        self, scans: Path, datalist: Datalist, tmp_path: Path
    ) -> None:
        colours = np.zeros((20, 20, 20), [("R", "u1"), ("G", "u1"), ("B", "u1")])
        save(colours, scans / "rgb.nii.gz")
        save(make_ct(side=24)[0][..., :3], scans / "thin.nii.gz")
        (scans / "empty.nii.gz").touch()
        (scans / "text.txt").write_text("no scan")
        (scans / "hollow").mkdir()
        names = ["rgb.nii.gz", "thin.nii.gz", "empty.nii.gz", "text.txt", "hollow", "s0"]
        rows = [row(0), *({"image": name} for name in names)]
        again(datalist({"training": rows}), tmp_path / "out", max_failures=1)
        failures = Store(tmp_path / "out").failures
        assert failures.keys() == set(names)
        assert all(reason and "\n" not in reason for reason in failures.values())
        assert len(Store(tmp_path / "out").entries) == 1


class TestMistakes:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"workers": 0}, "workers is 0: give a whole number from 1"),
            ({"workers": "two"}, "workers is 'two'"),
            ({"max_failures": 5}, "max_failures is 5: give a share from 0 to 1"),
            ({"max_failures": "few"}, "max_failures is 'few'"),
            ({"input_check": "maybe"}, "choose error, warn or off"),
            ({"spacing": (1, 2)}, "spacing is (1, 2): give three sizes in mm"),
        ],
    )
    def test_options(
        self, options: dict[str, Any], message: str, datalist: Datalist, tmp_path: Path
    ) -> None:
        with pytest.raises(UserError) as caught:
            again(datalist(), tmp_path / "out", **options)
        assert message in str(caught.value)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            "3",
            '{"training": 3}',
            '{"training": {"image": 1}}',
            '{"training": [[]]}',
            '{"training": [{"label": "a"}]}',
            '{"training": [{"image": ["a", "b"]}]}',
            "\x00\xff",
        ],
    )
    def test_datalist(self, text: str, tmp_path: Path) -> None:
        path = tmp_path / "list.json"
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(UserError, match=r"list\.json: not a datalist"):
            again(str(path), tmp_path / "out")

    def test_no_datalist_and_no_scans(self, datalist: Datalist, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no such datalist"):
            again("none.json", tmp_path / "out")
        with pytest.raises(UserError, match="names no scan"):
            again(datalist({"training": [], "folds": []}), tmp_path / "out")
        with pytest.raises(UserError, match="no task is called 'liver'"):
            build_store(datalist(), str(tmp_path / "out"), "liver")
        assert not (tmp_path / "out").exists()

    def test_folder_that_cannot_be_one(self, datalist: Datalist, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("a file")
        with pytest.raises(UserError, match="cannot write"):
            again(datalist(), tmp_path / "out")


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: writing one that does fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestFullDisk:
    def test_stops_at_once_and_leaves_nothing_half(
        self, datalist: Datalist, tmp_path: Path
    ) -> None:
        """It is no failure of the scan: with many scans the build would go on for hours."""
        store = tmp_path / "out"
        with (
            disk_of(8192),
            pytest.raises(UserError, match=r"cannot write .*b2nd: .*no partial file was left"),
        ):
            again(datalist(), store)
        assert Store(store).entries == []
        assert Store(store).failures == {}
        assert all(name.endswith("label.b2nd") for name in files(store))
        again(datalist(), store)
        assert len(Store(store).entries) == 4

    def test_what_was_finished_stays(self, datalist: Datalist, tmp_path: Path) -> None:
        store = tmp_path / "out"
        again(datalist({"training": [row(2)]}), store)
        before = files(store)
        with disk_of(8192), pytest.raises(UserError, match="cannot write"):
            again(datalist({"training": [row(2), row(3)]}), store)
        assert [e.name[:2] for e in Store(store).entries] == ["s2"]
        assert files(store) == before

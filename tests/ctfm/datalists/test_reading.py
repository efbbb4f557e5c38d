"""Datalists as configs read them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ctfm.base.errors import UserError
from ctfm.datalists.datalist import nested_subset, write_datalist
from ctfm.datalists.reading import few_shot, read_datalist

SUBJECTS = [f"s{i:04d}" for i in range(40)]


def row(subject: str, root: Path | None = None) -> dict[str, Any]:
    paths = {"image": f"{subject}/ct.nii.gz", "label": f"{subject}/labels.nii.gz"}
    return {key: str(root / path) if root else path for key, path in paths.items()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set of three scans, the last without a label, and its datalist."""
    for subject in SUBJECTS[:3]:
        (tmp_path / subject).mkdir()
        for path in row(subject).values():
            (tmp_path / path).touch()
    parts = {
        "training": [{**row("s0000"), "fold": 1}, row("s0001")],
        "test": [{"image": "s0002/ct.nii.gz"}],
    }
    write_datalist(
        tmp_path / "datalist.json",
        parts,
        name="Toy",
        description="three scans",
        licence="CC0",
        labels={1: "spleen"},
        provenance={},
    )
    return tmp_path


class TestReadDatalist:
    def test_paths_are_made_absolute_and_the_rest_is_kept(self, root: Path) -> None:
        rows = read_datalist(str(root / "datalist.json"), "training", str(root))
        assert rows == [{**row("s0000", root), "fold": 1}, row("s0001", root)]

    def test_list_without_labels(self, root: Path) -> None:
        rows = read_datalist(str(root / "datalist.json"), "test", str(root))
        assert rows == [{"image": str(root / "s0002" / "ct.nii.gz")}]

    def test_paths_are_absolute_below_a_relative_folder_too(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(root)
        for base in (".", f"../{root.name}"):
            rows = read_datalist("datalist.json", "training", base)
            assert all(Path(r["image"]).is_absolute() for r in rows)
            assert [Path(r["image"]).resolve() for r in rows] == [
                (root / s / "ct.nii.gz").resolve() for s in SUBJECTS[:2]
            ]

    def test_label_may_be_a_number(self, root: Path) -> None:
        (root / "x.json").write_text('{"training": [{"image": "s0000/ct.nii.gz", "label": 1}]}')
        rows = read_datalist(str(root / "x.json"), "training", str(root))
        assert rows == [{"image": str(root / "s0000" / "ct.nii.gz"), "label": 1}]

    def test_no_datalist(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"x\.json: no such datalist: make one with `ctfm data"):
            read_datalist(str(tmp_path / "x.json"), "training", str(tmp_path))
        with pytest.raises(UserError, match="no such datalist"):
            read_datalist(str(tmp_path), "training", str(tmp_path))

    def test_no_such_list(self, root: Path) -> None:
        message = r"has no list 'validation' \(it has training, test\): make it again"
        with pytest.raises(UserError, match=message):
            read_datalist(str(root / "datalist.json"), "validation", str(root))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (b"{", "not valid JSON"),
            (b"\xff\xfe\x00", "not valid JSON"),
            (b"{}", r"has no list 'training' \(it has none\)"),
            (b"[]", "not a datalist: it holds list"),
            (b'[{"image": "x"}]', "not a datalist: it holds list"),
            (b"3", "not a datalist: it holds int"),
            (b"null", "not a datalist: it holds NoneType"),
            (b'{"training": {"image": "x"}}', "has no list 'training'"),
            (b'{"training": [], "test": [1]}', r"has no list 'training' \(it has test\)"),
            (b'{"training": "x"}', "has no list 'training'"),
            (b'{"training": ["a.nii.gz"]}', r"entry 1 of list 'training' is 'a\.nii\.gz'"),
            (b'{"training": [{"label": "x"}]}', "entry 1 of list 'training' is {'label': 'x'}"),
            (b'{"training": [{"image": 5}]}', "entry 1 of list 'training' is {'image': 5}"),
            (b'{"training": [{"image": ""}]}', "entry 1 of list 'training' is {'image': ''}"),
        ],
    )
    def test_what_is_no_datalist(self, text: bytes, message: str, tmp_path: Path) -> None:
        (tmp_path / "x.json").write_bytes(text)
        with pytest.raises(UserError, match=rf"x\.json: .*{message}"):
            read_datalist(str(tmp_path / "x.json"), "training", str(tmp_path))

    def test_files_that_are_not_there(self, root: Path) -> None:
        (root / "s0000" / "labels.nii.gz").unlink()
        first = root / "s0000" / "labels.nii.gz"
        with pytest.raises(UserError, match="1 files of list 'training' are not there") as caught:
            read_datalist(str(root / "datalist.json"), "training", str(root))
        assert f"(first: {first})" in str(caught.value)
        with pytest.raises(UserError, match=r"4 files .* pass --dataset_dir, the folder that"):
            read_datalist(str(root / "datalist.json"), "training", str(root / "elsewhere"))


class TestFewShot:
    ROWS = [row(subject, Path("scans")) for subject in SUBJECTS]  # noqa: RUF012

    def subjects(self, rows: list[dict[str, Any]]) -> list[str]:
        return [Path(r["image"]).parent.name for r in rows]

    @pytest.mark.parametrize("seed", [0, 1])
    def test_draws_as_the_datalist_command_does(self, seed: int) -> None:
        for scans, options in ((10, {"scans": 10}), (0.05, {"fraction": 0.05})):
            drawn = few_shot(self.ROWS, scans, seed)
            assert self.subjects(drawn) == nested_subset(SUBJECTS, seed=seed, **options)
            assert all(r in self.ROWS for r in drawn)

    def test_nested_and_independent_of_order_and_folder(self) -> None:
        draws = [self.subjects(few_shot(self.ROWS, n)) for n in (5, 10, 20, 40)]
        assert [len(d) for d in draws] == [5, 10, 20, 40]
        assert all(set(a) < set(b) for a, b in pairwise(draws))
        elsewhere = [row(subject, Path("other")) for subject in reversed(SUBJECTS)]
        assert self.subjects(few_shot(elsewhere, 10)) == draws[1]

    def test_another_seed_draws_others(self) -> None:
        assert few_shot(self.ROWS, 10, seed=1) != few_shot(self.ROWS, 10, seed=0)

    def test_scans_of_one_folder_are_told_apart_by_file(self) -> None:
        for folder in ("scans/imagesTr/", ""):
            rows = [{"image": f"{folder}{s}.nii.gz"} for s in SUBJECTS]
            drawn = few_shot(rows, 40)
            assert [r["image"] for r in drawn] == [r["image"] for r in rows]

    def test_scans_of_the_same_name_are_told_apart_by_more_folders(self) -> None:
        rows = [{"image": f"scans/{site}/{s}/ct.nii.gz"} for site in "ab" for s in SUBJECTS]
        drawn = few_shot(rows, 80)
        assert sorted(r["image"] for r in drawn) == sorted(r["image"] for r in rows)
        rows = [{"image": f"scans/{site}/images/ct.nii.gz"} for site in SUBJECTS]
        assert len(few_shot(rows, 40)) == 40

    def test_a_scan_that_is_listed_twice(self) -> None:
        with pytest.raises(UserError, match=r"scans/s0003/ct\.nii\.gz is listed twice"):
            few_shot([*self.ROWS, self.ROWS[3]], 5)

    @pytest.mark.parametrize("scans", [41, 0, -1, 2.5])
    def test_number_out_of_range(self, scans: float) -> None:
        with pytest.raises(UserError, match=rf"scans is {scans}: .* from 1 to 40, all of them"):
            few_shot(self.ROWS, scans)

    @pytest.mark.parametrize("share", [0.0, -0.5])
    def test_share_out_of_range(self, share: float) -> None:
        with pytest.raises(UserError, match=f"fraction is {share}: give a number above 0"):
            few_shot(self.ROWS, share)

    def test_a_whole_number_may_be_written_as_one_with_a_point(self) -> None:
        assert few_shot(self.ROWS, 20.0) == few_shot(self.ROWS, 20)

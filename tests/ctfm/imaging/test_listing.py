"""Which scans a user means, and what their results are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctfm.base.errors import UserError
from ctfm.imaging.listing import REFUSED, find_scans, stem
from dicom_support import fake_series
from support import make_ct, save


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def names(source: object, **options: object) -> list[str]:
    return [row["name"] for row in find_scans(source, **options)]  # type: ignore[arg-type]


class TestNames:
    """A result's name depends on its own scan alone."""

    def test_a_scan_keeps_its_path_below_the_given_folder(self, tmp_path: Path) -> None:
        touch(tmp_path / "in" / "p1" / "ct.nii.gz")
        assert names(str(tmp_path / "in")) == ["p1/ct"]
        touch(tmp_path / "in" / "p2" / "ct.nii.gz")
        assert names(str(tmp_path / "in")) == ["p1/ct", "p2/ct"]

    def test_a_file_given_by_name_is_called_after_itself(self, tmp_path: Path) -> None:
        files = [str(touch(tmp_path / name)) for name in ("p1/a.nii.gz", "p2/b.mha")]
        assert names(files[0]) == ["a"]
        assert names(files) == ["a", "b"]

    def test_a_pattern_is_the_folder_in_which_it_begins_to_vary(self, tmp_path: Path) -> None:
        touch(tmp_path / "p1" / "ct.nii.gz")
        assert names(str(tmp_path / "*" / "ct.nii.gz")) == ["p1/ct"]
        touch(tmp_path / "p2" / "ct.nii.gz")
        assert names(str(tmp_path / "p*" / "*.nii.gz")) == ["p1/ct", "p2/ct"]
        assert names(str(tmp_path / "**" / "ct.nii.gz")) == ["p1/ct", "p2/ct"]

    def test_scans_that_would_get_one_name_are_refused(self, tmp_path: Path) -> None:
        files = [str(touch(tmp_path / name)) for name in ("p1/ct.nii.gz", "p2/ct.nii.gz")]
        rows = find_scans([*files, str(touch(tmp_path / "other.nii.gz"))])
        assert [row.get(REFUSED, "").split(":")[0] for row in rows] == [
            "",
            f"its results would be called ct, as those of {files[1]}",
            f"its results would be called ct, as those of {files[0]}",
        ]

    def test_the_same_scan_given_twice_is_one(self, tmp_path: Path) -> None:
        file = str(touch(tmp_path / "p1" / "ct.nii.gz"))
        assert names([file, file]) == ["ct"]


class TestLinks:
    def test_linked_folders_are_followed(self, tmp_path: Path) -> None:
        touch(tmp_path / "elsewhere" / "deep" / "ct.nii.gz")
        fake_series(tmp_path / "elsewhere" / "series")
        touch(tmp_path / "in" / "p1" / "ct.mha")
        (tmp_path / "in" / "p2").symlink_to(tmp_path / "elsewhere")
        assert names(str(tmp_path / "in")) == ["p1/ct", "p2/deep/ct", "p2/series"]

    def test_circles_and_second_ways_are_noticed(self, tmp_path: Path) -> None:
        touch(tmp_path / "in" / "p1" / "ct.nii.gz")
        (tmp_path / "in" / "p1" / "up").symlink_to(tmp_path / "in")
        (tmp_path / "in" / "a").symlink_to(tmp_path / "in" / "p1")
        assert names(str(tmp_path / "in")) == ["p1/ct"]


class TestFindScans:
    def test_folder_is_searched_and_results_are_named_apart(self, tmp_path: Path) -> None:
        for name in ("s1/ct.nii.gz", "s2/ct.nii.gz", "s2/ct.mha", "s2/notes.txt", "s2/.hidden.nii"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        rows = find_scans(str(tmp_path))
        assert [row["name"] for row in rows] == ["s1/ct", "s2/ct", "s2/ct"]
        assert [REFUSED in row for row in rows] == [False, True, True]
        assert rows[1][REFUSED].startswith(
            f"its results would be called s2/ct, as those of {tmp_path}"
        )

    def test_glob_and_single_file(self, ct: Path) -> None:
        assert find_scans(str(ct.parent / "*.nii.gz")) == find_scans(str(ct))
        assert find_scans(str(ct)) == [{"image": str(ct), "name": "ct"}]

    def test_links_are_named_after_themselves(self, ct: Path, tmp_path: Path) -> None:
        links = tmp_path / "links"
        links.mkdir()
        (links / "b.nii.gz").symlink_to(ct)
        save(make_ct()[0], links / "a.nii.gz")
        assert [row["name"] for row in find_scans(str(links))] == ["a", "b"]

    def test_results_inside_the_input_are_not_taken_for_input(self, ct: Path) -> None:
        save(make_ct()[1], ct.parent / "out" / "ct_seg.nii.gz")
        out = str(ct.parent / "out")
        assert [row["name"] for row in find_scans(str(ct.parent), output_dir=out)] == ["ct"]

    def test_all_of_the_input_in_the_output_folder_is_an_error(self, ct: Path) -> None:
        with pytest.raises(UserError, match="lie in the output folder: choose another one"):
            find_scans(str(ct), output_dir=str(ct.parent))

    @pytest.mark.parametrize(("source", "message"), [("nowhere", "no such"), ("", "no input")])
    def test_nothing_there_is_an_error(self, source: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            find_scans(source)

    def test_empty_folder_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"no scan in this folder.*\.nrrd"):
            find_scans(str(tmp_path))


class TestFindSeries:
    def test_each_series_is_a_scan_beside_loose_files(self, tmp_path: Path) -> None:
        for name in ("p1/1.2.840.5", "p1/thin.nii", "p2/1.2.840.5", ".hidden/s"):
            fake_series(tmp_path / name)
        for name in ("p1/ct.nii.gz", "p1/1.2.840.5/notes.txt"):
            (tmp_path / name).touch()
        rows = find_scans(str(tmp_path))
        assert [row["name"] for row in rows] == [
            *("p1/1.2.840.5", "p1/ct", "p1/thin.nii"),
            "p2/1.2.840.5",
        ]
        assert rows[0]["image"] == str(tmp_path / "p1" / "1.2.840.5")

    def test_folder_that_is_a_series(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        series = fake_series(tmp_path / "thorax 1.25")
        expected = [{"image": str(series), "name": "thorax 1.25"}]
        assert find_scans(str(series)) == find_scans(f"{series}/") == expected
        monkeypatch.chdir(series)
        assert find_scans(".") == expected
        (series / "sub").mkdir()
        monkeypatch.chdir(series / "sub")
        assert find_scans("..") == expected

    def test_pattern(self, tmp_path: Path) -> None:
        for name in ("p1/ct", "p2/ct", "p2/pet"):
            fake_series(tmp_path / name)
        assert names(str(tmp_path / "*" / "ct")) == ["p1/ct", "p2/ct"]
        assert names(str(tmp_path / "*" / "ct") + "/") == ["p1/ct", "p2/ct"]

    def test_series_and_file_of_one_name(self, tmp_path: Path) -> None:
        fake_series(tmp_path / "a")
        (tmp_path / "a.nii.gz").touch()
        rows = find_scans(str(tmp_path))
        assert [row["name"] for row in rows] == ["a", "a"]
        assert all(REFUSED in row for row in rows)

    @pytest.mark.parametrize("pattern", ["s/image0", "s/image*", "*/*", "s/x.dcm", "DICOMDIR"])
    def test_single_files_are_refused_in_one_line(self, pattern: str, tmp_path: Path) -> None:
        series = fake_series(tmp_path / "s")
        (series / "x.dcm").touch()
        (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
        with pytest.raises(UserError, match=r"one DICOM file, not a scan: give the folder /") as e:
            find_scans(str(tmp_path / pattern))
        assert str(e.value).endswith(str((tmp_path / pattern).parent).replace("*", "s"))

    def test_results_inside_a_series(self, tmp_path: Path) -> None:
        series = fake_series(tmp_path / "s")
        out = series / "out"
        fake_series(out / "copied")
        assert names(str(series), output_dir=str(out)) == ["s"]

    def test_names_of_folders_are_whole(self, tmp_path: Path) -> None:
        assert stem(str(fake_series(tmp_path / "ct.nii.gz"))) == "ct.nii.gz"
        assert stem("ct.nii.gz") == "ct"

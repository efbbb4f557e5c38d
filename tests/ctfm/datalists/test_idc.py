"""The selection over the Imaging Data Commons, on a small index of the same columns."""

from __future__ import annotations

import csv
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from ctfm.base.errors import UserError
from ctfm.datalists.datasets import idc_index as _idc_index
from ctfm.datalists.datasets.idc import idc
from ctfm.datalists.datasets.series_descriptions import described_as_localizer, described_thickness

duckdb = pytest.importorskip("duckdb", reason="needs the extra idc: ct-fm-bundles[idc]")

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
COLUMNS = {
    "Modality": "CT",
    "SeriesInstanceUID": "1.2.3",
    "StudyInstanceUID": "1.2",
    "PatientID": "P-1",
    "collection_id": "lungs",
    "license_short_name": "CC BY 4.0",
    "source_DOI": "10.7937/abc",
    "series_size_MB": 100.5,
    "instanceCount": 120,
    "series_init_idc_version": 2,
    "SOPClassUID": CT_IMAGE,
    "SeriesDescription": "LUNG 1.25 MM",
    "series_aws_url": "s3://idc-open-data/0a/*",
}


def write_index(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A Parquet file; each row names what it has otherwise than `COLUMNS`."""
    types = {str: "VARCHAR", int: "BIGINT", float: "DOUBLE"}
    columns = ", ".join(f"{name} {types[type(value)]}" for name, value in COLUMNS.items())
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE series ({columns})")
        for row in rows:
            values = list({**COLUMNS, **row}.values())
            connection.execute(
                f"INSERT INTO series VALUES ({', '.join('?' * len(values))})", values
            )
        connection.execute(f"COPY series TO '{path}' (FORMAT parquet)")
    return path


def row(uid: str, **changes: Any) -> dict[str, Any]:
    return {"SeriesInstanceUID": uid, "series_aws_url": f"s3://idc-open-data/{uid}/*", **changes}


@pytest.fixture
def index(tmp_path: Path) -> str:
    rows = [
        row("1.1"),
        row("1.2", PatientID="P 2/x", license_short_name="CC BY-NC 3.0", collection_id="heads"),
        row("1.3", series_init_idc_version=15),
        row("1.4", instanceCount=50),
        row("1.5", SeriesDescription="LUNG 0.6 mm"),
        row("1.6", SeriesDescription="Topogram", instanceCount=60),
        row("1.7", SOPClassUID="1.2.840.10008.5.1.4.1.1.7"),
        row("1.8", Modality="MR"),
        row("1.9", SeriesDescription=None, source_DOI=None, license_short_name=None),
    ]
    return str(write_index(tmp_path / "index.parquet", rows))


def table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def selected(out: Path) -> list[str]:
    return sorted(one["SeriesInstanceUID"] for one in table(out / "series.csv"))


def test_selection(tmp_path: Path, index: str) -> None:
    out = tmp_path / "out"
    summary = json.loads(idc(out, index=index).read_text())
    assert selected(out) == ["1.1", "1.2", "1.9"]
    reasons = {
        one["SeriesInstanceUID"]: (one["reason"], one["detail"])
        for one in table(out / "excluded.csv")
    }
    assert reasons == {
        "1.3": ("newer than the version asked for", "15, later than 14"),
        "1.4": ("too few slices", "50, fewer than 51"),
        "1.5": ("slice thickness", "SeriesDescription 0.6 mm, not 1 to 5 mm"),
        "1.6": ("localizer", "SeriesDescription"),
        "1.7": ("not CT", "SOPClassUID 1.2.840.10008.5.1.4.1.1.7"),
    }
    assert summary["selected"] == {"patients": 2, "series": 3, "terabytes": 0.000302}
    assert summary["licences"] == {
        "CC BY 4.0": {"series": 1, "terabytes": 0.000101},
        "CC BY-NC 3.0": {"series": 1, "terabytes": 0.000101},
        "none stated": {"series": 1, "terabytes": 0.000101},
    }
    assert summary["collections"]["heads"]["cite"] == ["https://doi.org/10.7937/abc"]
    assert any("SliceThickness" in text for text in summary["not_in_the_index"])
    assert sum(summary["left_out"].values()) == len(reasons)


def test_manifest_copies_each_series_into_a_folder_of_its_own(tmp_path: Path, index: str) -> None:
    out = tmp_path / "out"
    idc(out, index=index)
    assert (out / "manifest.s5cmd").read_text().splitlines() == [
        "cp --if-size-differ s3://idc-open-data/1.2/* dicom/heads/P_2_x/1.2/",
        "cp --if-size-differ s3://idc-open-data/1.1/* dicom/lungs/P-1/1.1/",
        "cp --if-size-differ s3://idc-open-data/1.9/* dicom/lungs/P-1/1.9/",
    ]
    folders = [one["folder"] for one in table(out / "series.csv")]
    assert folders == ["dicom/heads/P_2_x/1.2", "dicom/lungs/P-1/1.1", "dicom/lungs/P-1/1.9"]


def test_commercial_use_takes_known_licences_alone(tmp_path: Path, index: str) -> None:
    out = tmp_path / "out"
    idc(out, index=index, commercial=True)
    assert selected(out) == ["1.1"]
    details = {
        one["SeriesInstanceUID"]: one["detail"]
        for one in table(out / "excluded.csv")
        if one["reason"] == "licence"
    }
    assert details == {"1.2": "CC BY-NC 3.0", "1.9": "none stated"}


@pytest.mark.parametrize("licence", ["CC BY 3.0", "CC BY 4.0", "CC BY-SA 4.0", "CC0 1.0"])
def test_licences_for_commercial_use(tmp_path: Path, licence: str) -> None:
    index = write_index(tmp_path / "i.parquet", [row("1", license_short_name=licence)])
    idc(tmp_path / "out", index=str(index), commercial=True)
    assert selected(tmp_path / "out") == ["1"]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("heads", ["1.2"]),
        (" heads,", ["1.2"]),
        (("heads", "heads"), ["1.2"]),
        ("heads,lungs", ["1.1", "1.2", "1.9"]),
    ],
)
def test_collections(tmp_path: Path, index: str, given: Any, names: list[str]) -> None:
    summary = json.loads(idc(tmp_path / "out", index=index, collections=given).read_text())
    assert selected(tmp_path / "out") == names
    assert set(summary["only_collections"]) == set(summary["collections"])


def test_version_and_thresholds_are_options(tmp_path: Path, index: str) -> None:
    out = tmp_path / "out"
    idc(out, index=index, idc_version=15, min_slices=50, min_thickness=0.5)
    assert selected(out) == ["1.1", "1.2", "1.3", "1.4", "1.5", "1.9"]


def test_draws_are_nested_and_differ_by_seed(tmp_path: Path) -> None:
    rows = [row(f"1.{number}") for number in range(30)]
    index = str(write_index(tmp_path / "i.parquet", rows))

    def draw(limit: int, seed: int = 0) -> set[str]:
        idc(tmp_path / "out", index=index, limit=limit, seed=seed)
        return set(selected(tmp_path / "out"))

    assert len(draw(5)) == 5
    assert draw(5) < draw(10)
    assert draw(10, seed=1) != draw(10)
    assert {one["reason"] for one in table(tmp_path / "out" / "excluded.csv")} == {"not drawn"}


def test_same_bytes_again(tmp_path: Path, index: str) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    for out in (first, second):
        idc(out, index=index)
    for path in first.iterdir():
        assert (second / path.name).read_bytes() == path.read_bytes()


def test_control_characters_stay_out_of_tables(tmp_path: Path) -> None:
    rows = [row("1", SeriesDescription="SliceTh-3_SliceInc-\x01_Größe\n2")]
    idc(tmp_path / "out", index=str(write_index(tmp_path / "i.parquet", rows)))
    (one,) = table(tmp_path / "out" / "series.csv")
    assert one["SeriesDescription"] == "SliceTh-3_SliceInc- _Größe 2"
    assert one["described_thickness_mm"] == "3.0"


def test_nothing_touches_the_network(
    tmp_path: Path, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    idc(tmp_path / "out", index=index)
    assert _idc_index.OFFLINE == {"autoinstall_known_extensions": "false"}


def test_summary_is_told(tmp_path: Path, index: str, capsys: pytest.CaptureFixture[str]) -> None:
    idc(tmp_path / "out", index=index)
    said = capsys.readouterr().err
    assert "3 series, 0.000302 TB (CC BY 4.0: 1 series" in said
    assert "s5cmd --no-sign-request" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"index": "nowhere.parquet"}, "nowhere.parquet: no such index"),
        ({"collections": "hands"}, "no CT in a collection hands: choose from heads, lungs"),
        ({"limit": 4}, "limit is 4: 3 series are selected"),
        ({"limit": 0}, "limit is 0"),
        ({"idc_version": "v14"}, "idc_version is 'v14'"),
        ({"min_slices": 500}, r"none of 8 CT series of index\.parquet is selected \("),
    ],
)
def test_mistakes(tmp_path: Path, index: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        idc(tmp_path / "out", **{"index": index, **options})
    assert not (tmp_path / "out").exists()


def test_file_that_is_no_index(tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT 'CT' AS Modality) TO '{other}' (FORMAT parquet)")
    with pytest.raises(UserError, match="not an index of the Imaging Data Commons"):
        idc(tmp_path / "out", index=str(other))
    other.write_text("text")
    with pytest.raises(UserError, match="not an index of the Imaging Data Commons"):
        idc(tmp_path / "out", index=str(other))


@pytest.mark.parametrize(
    ("description", "thickness"),
    [
        ("LUNG 1.25 MM", 1.25),
        ("5mm", 5.0),
        (".625 mm Chest", 0.625),
        ("0,6 MM PLUCA", 0.6),
        ("EASE_RV_0.5mm_B50f", 0.5),
        ("1 25 MM SAGITAL", 1.25),
        ("ABD SAG 2 5mm", 2.5),
        ("2.5mm C/A/P; 1.25mm Neck", 2.5),
        ("SliceTh-0.75_SliceInc-0.4_ReconFilter-B40f", 0.75),
        ("0,OPA,SE,VZOOM,B30f,380,5,120,60,30,na", 5.0),
        ("2,OPA,GE,LSQX,STANDARD,360,2.5,120,64,0.1,1.5", 2.5),
        ("1,OPA,SE,SEN16,UNK,300,999,120,na,na,na", None),
        ("Thorax  1.0  B70f", 1.0),
        ("Range-CT WB  1.0  B30f-Tra-<ALPHA Range>", None),
        ("LUNG+ N16.5 A30", None),
        ("Recon 2: LIVER 3 PHASE (C/A/P)", None),
        ("TOSHIBA AXIAL 120 mAs (240 mA) recon FC10 - Lung 1 0", None),
        ("", None),
    ],
)
def test_thickness_that_descriptions_state(description: str, thickness: float | None) -> None:
    assert described_thickness(description) == thickness


@pytest.mark.parametrize("word", ["SCOUT", "Topogram 0.6 T20f", "Localizer", "LOCALISER"])
def test_localizers_that_descriptions_name(word: str) -> None:
    assert described_as_localizer(word)
    assert not described_as_localizer("Localized lesion")


def test_the_real_index(tmp_path: Path) -> None:
    """What the installed index gives for the published selection; CT-FM had 148,134 series."""
    package = pytest.importorskip("idc_index_data", reason="needs idc-index-data, 79 MB")
    summary = json.loads(idc(tmp_path, limit=100).read_text())
    series = sum(summary["left_out"].values()) + 100
    chosen = series - sum(n for why, n in summary["left_out"].items() if why != "not drawn")
    assert series > 270_000
    assert abs(chosen / 148_134 - 1) < 0.06
    if package.__version__ == "25.0.5":
        assert (series, chosen) == (270_830, 153_840)

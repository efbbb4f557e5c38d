"""The CT series of the Imaging Data Commons, read from a local copy of its index."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ctfm.base.errors import UserError
from ctfm.base.optional import require

__all__ = ["Series", "index_file", "read_index"]

#: Columns of the index, in the order of the attributes of `Series`, and what stands for a gap.
COLUMNS = {
    **dict.fromkeys(("SeriesInstanceUID", "StudyInstanceUID", "PatientID"), "''"),
    **dict.fromkeys(("collection_id", "license_short_name", "source_DOI"), "''"),
    **dict.fromkeys(("series_size_MB", "instanceCount", "series_init_idc_version"), "0"),
    "SOPClassUID": "''",
    # some hold control characters, which tables should not
    "regexp_replace(SeriesDescription, '\\p{Cc}', ' ', 'g')": "''",
    "series_aws_url": "''",
}
QUERY = f"""
    SELECT {", ".join(f"coalesce({name}, {gap})" for name, gap in COLUMNS.items())}
    FROM read_parquet(?) WHERE Modality = 'CT'
    ORDER BY collection_id, PatientID, SeriesInstanceUID
"""
#: No extension is fetched from the network; Parquet is built in.
OFFLINE = {"autoinstall_known_extensions": "false"}


@dataclass(frozen=True)
class Series:
    """A row of the index; where that has a gap, an empty string or 0.

    Attributes:
        uid: SeriesInstanceUID.
        study: StudyInstanceUID.
        patient: PatientID.
        collection: where it belongs, such as "nlst".
        licence: short name, such as "CC BY 4.0".
        doi: of the publication of the data, which is to be cited.
        megabytes: size of its files, 10^6 bytes.
        images: number of its files.
        version: of the Imaging Data Commons in which it appeared.
        sop_class: what its files are.
        description: SeriesDescription, free text.
        url: where its files are, with a wildcard.
    """

    uid: str
    study: str
    patient: str
    collection: str
    licence: str
    doi: str
    megabytes: float
    images: int
    version: int
    sop_class: str
    description: str
    url: str


def index_file(path: str | None) -> tuple[Path, str]:
    """The index to read, and its name and version for the record.

    Args:
        path: Parquet file with the columns of idc-index-data's; None: the installed package's.

    Raises:
        UserError: there is no such file, or the package is not installed.
    """
    if path is not None:
        if not Path(path).is_file():
            raise UserError(f"{path}: no such index: give a Parquet file, or leave --index out")
        return Path(path), Path(path).name
    package = require("idc_index_data", purpose="read the index", extra="idc")
    return Path(package.IDC_INDEX_PARQUET_FILEPATH), f"idc-index-data {package.__version__}"


def read_index(path: Path) -> list[Series]:
    """Read the CT series, sorted by collection, patient and UID; nothing touches the network.

    Raises:
        UserError: the file is no such index.
    """
    duckdb = require("duckdb", purpose="read the index", extra="idc")
    try:
        with duckdb.connect(config=OFFLINE) as connection:
            rows = connection.execute(QUERY, [str(path)]).fetchall()
    except duckdb.Error as error:
        raise UserError(
            f"{path}: not an index of the Imaging Data Commons ({str(error).splitlines()[0]}): "
            "pip install --upgrade idc-index-data"
        ) from error
    return [Series(*row) for row in rows]

"""Read a manifest, a CSV or parquet table with the columns filename, label[, generator][, split]."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.folders import SPLITS, check_split, normalise
from data.records import Manifest, Record
from gapl.labels import LABELS_EXPECTED, parse_label

_NEEDED = ("filename", "label")
_OPTIONAL = ("generator", "split")


def read_manifest(path: Path, *, split: str | None = None) -> Manifest:
    """Return the images that a manifest lists, in its order.

    Columns: `filename` (relative to the manifest's folder), `label` (0 or real, 1 or fake) and, if they are
    there, `generator` (else the manifest's name) and `split`. Other columns are not read. With `split`, rows
    of other splits are left out; a row that names no split is kept.

    Raises ValueError, with the row (the first below the header is row 1), for a missing column or value, an
    unknown label or a file listed twice; and once for all files that do not exist.
    """
    check_split(split)
    if not path.is_file():
        raise ValueError(f"{path} does not exist; expected a CSV or parquet manifest")
    rows = _parquet_rows(path) if path.suffix.lower() == ".parquet" else _csv_rows(path)
    row_of: dict[str, int] = {}
    records = []
    for number, row in enumerate(rows, start=1):
        if split is not None and _split_of(row) not in ("", split):
            continue
        record = _record(path, number, row)
        if record.uri in row_of:
            raise ValueError(f"{path}, row {number}: {record.uri} is listed before, in row {row_of[record.uri]}")
        row_of[record.uri] = number
        records.append(record)
    if not records:
        raise ValueError(f"{path}: no rows" + (f" of split {split!r} among {len(rows)}" if split else ""))
    _require_files(path, row_of)
    return Manifest(path.stem, tuple(records))


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first column name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            names = [name.strip().lower() for name in reader.fieldnames or ()]
            _require_columns(path, names)
            reader.fieldnames = names
            return list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV file in UTF-8: {error}") from error


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    try:
        names = pq.read_schema(path).names
        _require_columns(path, names)
        columns = [name for name in (*_NEEDED, *_OPTIONAL) if name in names]
        return pq.read_table(path, columns=columns).to_pylist()
    except pa.ArrowException as error:
        raise ValueError(f"{path} is no parquet file: {error}") from error


def _require_columns(path: Path, names: list[str]) -> None:
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        raise ValueError(
            f"{path}: no column {' or '.join(missing)}; found {', '.join(names) or 'nothing'}, "
            f"expected {', '.join(_NEEDED)} and, if known, {', '.join(_OPTIONAL)}"
        )


def _record(path: Path, number: int, row: dict[str, Any]) -> Record:
    # csv.DictReader puts surplus fields under None: mostly a file name with a comma and without quotes.
    if None in row:
        raise ValueError(f"{path}, row {number}: more fields than columns; quote a value that holds a comma")
    filename = _text(row, "filename")
    if not filename:
        raise ValueError(f"{path}, row {number}: no filename")
    label = parse_label(row.get("label"))
    if label is None:
        raise ValueError(f"{path}, row {number}: label {row['label']!r}; expected {LABELS_EXPECTED}")
    return Record(str(path.parent / filename), label, _text(row, "generator") or path.stem)


def _text(row: dict[str, Any], column: str) -> str:
    value = row.get(column)
    return "" if value is None else str(value).strip()


def _split_of(row: dict[str, Any]) -> str:
    name = normalise(_text(row, "split"))
    return SPLITS.get(name, name)


def _require_files(path: Path, row_of: dict[str, int]) -> None:
    missing = [uri for uri in row_of if not Path(uri).is_file()]
    if missing:
        raise ValueError(
            f"{path}: {len(missing)} of {len(row_of)} files do not exist, the first is {missing[0]} "
            f"(row {row_of[missing[0]]}); file names are relative to the manifest's folder"
        )

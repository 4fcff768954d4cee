"""Read a manifest, a CSV or parquet table with the columns filename, label[, generator][, split]."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.folders import check_split
from data.records import Manifest, Record, relative_uri
from data.words import COLUMNS, LABELS_EXPECTED, class_of, class_word, normalise, parse_label, split_of
from gapl.labels import Label

_NEEDED = ("filename", "label")
_SEPARATORS = ",;\t"
_OTHER_LABEL = "other label"  # key of a row: a second column that tells the label, if there is one

Row = dict[str | None, Any]  # by our names of columns; what is more than these, under None


def read_manifest(path: Path, *, split: str | None = None, columns: Mapping[str, str] | None = None) -> Manifest:
    """Return the images that a manifest lists, in its order.

    Columns: `filename` (relative to the manifest's folder), `label` (0 or real, 1 or fake) and, if they are
    there, `generator` (else the manifest's name) and `split`, by these or the other names in data.words. Other
    columns are not read. A CSV file is separated by commas, semicolons or tabs. With `split`, rows of other
    splits are left out; a row that names no split is kept.

    columns   our name of a column -> its name in the file

    Raises ValueError, with the row (the first below the header is row 1), for a missing column or value, an
    unknown label or a file listed twice; once for all files that do not exist; and where it is not clear which
    column is meant, or what 0 and 1 mean.
    """
    check_split(split)
    rows = _read_rows(path, columns or {})
    row_of: dict[str, int] = {}
    records = []
    for number, row in enumerate(rows, start=1):
        if split is not None and _split_name(row) not in ("", split):
            continue
        record = _record(path, number, row)
        if record.uri in row_of:
            raise ValueError(f"{path}, row {number}: {record.uri} is listed before, in row {row_of[record.uri]}")
        row_of[record.uri] = number
        records.append(record)
    if not records:
        raise ValueError(f"{path}: no rows" + (f" of split {split!r} among {len(rows)}" if split else ""))
    _require_files(path, row_of)
    _refuse_swapped_labels(path, records)
    return Manifest(path.stem, tuple(records))


def splits_in(path: Path, *, columns: Mapping[str, str] | None = None) -> set[str | None]:
    """Return the splits that the rows of a manifest name; None stands for rows that name none."""
    return {split_of(_text(row, "split")) for row in _read_rows(path, columns or {})}


def lists_images(path: Path, *, columns: Mapping[str, str] | None = None) -> bool:
    """Return whether a table has columns for file names and labels, even if it is not clear which these are."""
    try:
        header = _header(path)
    except ValueError:
        return False  # some other file: nobody said that it is a manifest
    return all(_candidates(header, ours, columns or {}) for ours in _NEEDED)


# ---------------------------------------------------------------------------------------------------------
# From a file to rows of our columns


def _read_rows(path: Path, columns: Mapping[str, str]) -> list[Row]:
    if not path.is_file():
        raise ValueError(f"{path} does not exist; expected a CSV or parquet manifest")
    theirs = _name_columns(path, _header(path), columns)
    if path.suffix.lower() == ".parquet":
        rows = pq.read_table(path, columns=list(theirs.values())).to_pylist()
        return [{ours: row[name] for ours, name in theirs.items()} for row in rows]
    with path.open(encoding=_encoding(path), newline="") as file:
        reader = csv.DictReader(file, delimiter=_separator(file.readline()))
        file.seek(0)
        try:
            return [
                {ours: row[name] for ours, name in theirs.items()} | ({None: row[None]} if None in row else {})
                for row in reader
            ]
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path} is no CSV file in UTF-8: {error}") from error


def _header(path: Path) -> list[str]:
    """Return the names of the columns as the file has them."""
    try:
        if path.suffix.lower() == ".parquet":
            return list(pq.read_schema(path).names)
        with path.open(encoding=_encoding(path), newline="") as file:
            line = file.readline()
            return next(csv.reader([line], delimiter=_separator(line)), [])
    except pa.ArrowException as error:
        raise ValueError(f"{path} is no parquet file: {error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV file in UTF-8: {error}") from error


def _encoding(path: Path) -> str:
    """Return the encoding that a byte order mark tells, of which spreadsheets write several; else UTF-8."""
    with path.open("rb") as file:
        start = file.read(2)
    return "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _separator(header: str) -> str:
    """Return the separator that splits the header into most columns; a comma if none does."""
    return max(_SEPARATORS, key=lambda separator: len(next(csv.reader([header], delimiter=separator), [])))


def _candidates(header: Iterable[str], ours: str, columns: Mapping[str, str]) -> list[str]:
    """Return the columns that may be ours: the one that --columns names, or that has our name, else all usual."""
    known = [columns[ours]] if ours in columns else [ours]
    usual = () if ours in columns else COLUMNS[ours]
    exact, others = (
        [name for name in header if normalise(name) in set(map(normalise, names))] for names in (known, usual)
    )
    return exact[:1] or [name for name in others if name not in columns.values()]


def _name_columns(path: Path, header: list[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Return our name of a column -> its name in the header."""
    found = f"found {', '.join(map(str.strip, header)) or 'nothing'}"
    for ours, name in columns.items():
        if ours not in COLUMNS:
            raise ValueError(f"--columns {ours}={name}: expected one of {', '.join(COLUMNS)} before the =")
        if not _candidates(header, ours, columns):
            raise ValueError(f"{path}: no column {name} (--columns {ours}={name}); {found}")
    theirs = {}
    for ours in COLUMNS:
        names = _candidates(header, ours, columns)
        if len(names) > 1:
            raise ValueError(
                f"{path}: {' and '.join(map(str.strip, names))} may both be the column {ours}; {found}; "
                f"say which with --columns {ours}={names[0].strip()}"
            )
        if names:
            theirs[ours] = names[0]
    missing = [ours for ours in _NEEDED if ours not in theirs]
    if missing:
        say = " ".join(f"{ours}=THEIRS" for ours in missing)
        raise ValueError(f"{path}: no column {' or '.join(missing)}; {found}; name them with --columns {say}")
    if class_of(theirs["label"].lower().removeprefix("is")) is Label.REAL:
        raise ValueError(
            f"{path}: column {theirs['label'].strip()} says which images are real, but as a label 1 or true means "
            f"fake; {found}; add a column label with the words real and fake"
        )
    return theirs if "label" in columns else theirs | _other_label(header, theirs["label"])


def _other_label(header: list[str], label: str) -> dict[str, str]:
    """Return a second column that may tell the label, if there is one."""
    usual = set(map(normalise, COLUMNS["label"]))
    others = [name for name in header if name != label and normalise(name) in usual]
    return {_OTHER_LABEL: others[0]} if others else {}


# ---------------------------------------------------------------------------------------------------------
# From rows to records


def _record(path: Path, number: int, row: Row) -> Record:
    if None in row:  # mostly a file name with a comma and without quotes
        raise ValueError(f"{path}, row {number}: more fields than columns; quote a value that holds a comma")
    filename = _text(row, "filename")
    if not filename:
        raise ValueError(f"{path}, row {number}: no filename")
    label = parse_label(row["label"])
    if label is None:
        raise ValueError(f"{path}, row {number}: label {row['label']!r}; expected {LABELS_EXPECTED}")
    if class_word(_text(row, _OTHER_LABEL)) not in (None, label):
        raise ValueError(
            f"{path}, row {number}: label {row['label']!r}, but {row[_OTHER_LABEL]!r} in another column; here 0 "
            "is real and 1 is fake; say which column is right with --columns label=THEIRS"
        )
    place = path.parent / filename
    if "\\" in filename and not place.exists():  # written on Windows
        place = path.parent / filename.replace("\\", "/")
    return Record(str(place), label, _text(row, "generator") or path.stem)


def _text(row: Row, column: str) -> str:
    value = row.get(column)
    return "" if value is None else str(value).strip()


def _split_name(row: Row) -> str:
    name = _text(row, "split")
    return split_of(name) or normalise(name)


def _require_files(path: Path, row_of: dict[str, int]) -> None:
    missing = [uri for uri in row_of if not Path(uri).is_file()]
    if missing:
        raise ValueError(
            f"{path}: {len(missing)} of {len(row_of)} files do not exist, the first is {missing[0]} "
            f"(row {row_of[missing[0]]}); file names are relative to the manifest's folder"
        )


def _refuse_swapped_labels(path: Path, records: list[Record]) -> None:
    """Raise ValueError when the folders of the files tell classes, and always the other one than the label."""
    told = []
    for record in records:
        names = relative_uri(record.uri, path.parent).split("/")[:-1]
        if (of_folder := next((label for label in map(class_of, names) if label is not None), None)) is not None:
            told.append((record, of_folder))
    if len({record.label for record, _ in told}) == len(Label) and all(r.label != other for r, other in told):
        first = told[0][0]
        raise ValueError(
            f"{path}: every label contradicts the folder of its file, such as {int(first.label)}, which means "
            f"{first.label.word}, of {relative_uri(first.uri, path.parent)}; here 0 is real and 1 is fake"
        )

"""Read a manifest, a CSV or parquet table with the columns filename, label[, generator][, split]."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from data.folders import check_split
from data.records import Manifest, Record, relative_uri
from data.words import LABELS_EXPECTED, class_of, class_word, parse_label, split_of
from gapl.columns import (
    COLUMNS,
    Row,
    candidates,
    name_columns,
    normalise,
    place_of,
    read_header,
    read_rows,
    text_of,
)
from gapl.labels import Label

_NEEDED = ("filename", "label")
_OTHER_LABEL = "other label"  # key of a row: a second column that tells the label, if there is one


def read_manifest(path: Path, *, split: str | None = None, columns: Mapping[str, str] | None = None) -> Manifest:
    """Return the images that a manifest lists, in its order.

    Columns: `filename` (relative to the manifest's folder), `label` (0 or real, 1 or fake) and, if they are
    there, `generator` (else the manifest's name) and `split`, by these or the other names in gapl.columns. Other
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
    return {split_of(text_of(row, "split")) for row in _read_rows(path, columns or {})}


def lists_images(path: Path, *, columns: Mapping[str, str] | None = None) -> bool:
    """Return whether a table has columns for file names and labels, even if it is not clear which these are."""
    try:
        header = read_header(path)
    except ValueError:
        return False  # some other file: nobody said that it is a manifest
    return all(candidates(header, ours, columns or {}) for ours in _NEEDED)


# ---------------------------------------------------------------------------------------------------------
# From a file to rows of our columns


def _read_rows(path: Path, columns: Mapping[str, str]) -> list[Row]:
    if not path.is_file():
        raise ValueError(f"{path} does not exist; expected a CSV or parquet manifest")
    return read_rows(path, _name_columns(path, read_header(path), columns))


def _name_columns(path: Path, header: list[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Return our name of a column -> its name in the header."""
    theirs = name_columns(path, header, columns, needed=_NEEDED)
    if class_of(theirs["label"].lower().removeprefix("is")) is Label.REAL:
        raise ValueError(
            f"{path}: column {theirs['label'].strip()} says which images are real, but as a label 1 or true means "
            f"fake; found {', '.join(map(str.strip, header))}; add a column label with the words real and fake"
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
    filename = text_of(row, "filename")
    if not filename:
        raise ValueError(f"{path}, row {number}: no filename")
    label = parse_label(row["label"])
    if label is None:
        raise ValueError(f"{path}, row {number}: label {row['label']!r}; expected {LABELS_EXPECTED}")
    if class_word(text_of(row, _OTHER_LABEL)) not in (None, label):
        raise ValueError(
            f"{path}, row {number}: label {row['label']!r}, but {row[_OTHER_LABEL]!r} in another column; here 0 "
            "is real and 1 is fake; say which column is right with --columns label=THEIRS"
        )
    return Record(str(place_of(path, filename)), label, text_of(row, "generator") or path.stem)


def _split_name(row: Row) -> str:
    name = text_of(row, "split")
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

"""Tables that list images, CSV or parquet: what people call their columns, and their rows."""

from __future__ import annotations

import argparse
import codecs
import csv
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

# Columns of a manifest, the usual names first. Our own name goes before all of them.
COLUMNS = {
    "filename": ("image", "path", "src", "file", "img", "file path", "image path", "img path", "image name"),
    "label": ("target", "class", "label name", "label str", "is fake", "fake", "is ai", "is generated"),
    "generator": ("model", "model name"),
    "split": ("partition",),
}
_SEPARATORS = ",;\t"

Row = dict[str | None, Any]  # by our names of columns; what is more than these, under None


def normalise(name: str) -> str:
    """Return a name as it is compared: lower case, letters and digits only."""
    return "".join(char for char in name.lower() if char.isalnum())


def add_columns(parser: argparse.ArgumentParser, *, help: str) -> None:
    """Add --columns, a mapping of our names of columns to theirs."""
    parser.add_argument("--columns", action=_Columns, nargs="+", default={}, metavar="OURS=THEIRS", help=help)


class _Columns(argparse.Action):
    """Read "filename=image label=class"; a comma may stand for the space."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, _: str | None = None
    ) -> None:
        names: dict[str, str] = {}
        for text in ",".join(values).split(","):
            ours, _equals, theirs = text.partition("=")
            if not ours or not theirs:
                raise argparse.ArgumentError(self, f"{text!r}; expected OURS=THEIRS, such as label=class")
            names[ours] = theirs
        setattr(namespace, self.dest, names)


def is_parquet(path: Path) -> bool:
    """Return whether a file is called .parquet, or begins as parquet does."""
    with path.open("rb") as file:
        return path.suffix.lower() == ".parquet" or file.read(4) == b"PAR1"


def read_header(path: Path) -> list[str]:
    """Return the names of the columns as the file has them. Raises ValueError when it is no table."""
    if is_parquet(path):
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return list(pq.read_schema(path).names)
        except pa.ArrowException as error:
            raise ValueError(f"{path} is no parquet file: {error}") from error
    try:
        with path.open(encoding=_encoding(path), newline="") as file:
            line = file.readline()
            return next(csv.reader([line], delimiter=_separator(line)), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV file in UTF-8: {error}") from error


def read_rows(path: Path, theirs: Mapping[str, str]) -> list[Row]:
    """Return the rows of a table, with these columns (our name -> that of the file) by our names.

    Raises ValueError when it is no table.
    """
    if is_parquet(path):
        import pyarrow.parquet as pq

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


def _encoding(path: Path) -> str:
    """Return the encoding that a byte order mark tells, of which spreadsheets write several; else UTF-8."""
    with path.open("rb") as file:
        start = file.read(2)
    return "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _separator(header: str) -> str:
    """Return the separator that splits the header into most columns; a comma if none does."""
    return max(_SEPARATORS, key=lambda separator: len(next(csv.reader([header], delimiter=separator), [])))


def candidates(header: Iterable[str], ours: str, columns: Mapping[str, str]) -> list[str]:
    """Return the columns that may be ours: the one that --columns names, or that has our name, else all usual."""
    known = [columns[ours]] if ours in columns else [ours]
    usual = () if ours in columns else COLUMNS[ours]
    exact, others = (
        [name for name in header if normalise(name) in set(map(normalise, names))] for names in (known, usual)
    )
    return exact[:1] or [name for name in others if name not in columns.values()]


def name_columns(
    path: Path,
    header: list[str],
    columns: Mapping[str, str],
    *,
    needed: Collection[str],
    wanted: Collection[str] = tuple(COLUMNS),
) -> dict[str, str]:
    """Return our name of a column -> its name in the header, of those that are wanted and there.

    columns   what --columns says

    Raises ValueError when a needed one, or one that --columns names, is missing, and when it is not clear which is
    meant.
    """
    found = f"found {', '.join(map(str.strip, header)) or 'nothing'}"
    for ours, name in columns.items():
        if ours not in COLUMNS:
            raise ValueError(f"--columns {ours}={name}: expected one of {', '.join(COLUMNS)} before the =")
        if not candidates(header, ours, columns):
            raise ValueError(f"{path}: no column {name} (--columns {ours}={name}); {found}")
    theirs = {}
    for ours in wanted:
        names = candidates(header, ours, columns)
        if len(names) > 1:
            raise ValueError(
                f"{path}: {' and '.join(map(str.strip, names))} may both be the column {ours}; {found}; "
                f"say which with --columns {ours}={names[0].strip()}"
            )
        if names:
            theirs[ours] = names[0]
    if missing := [ours for ours in needed if ours not in theirs]:
        say = " ".join(f"{ours}=THEIRS" for ours in missing)
        raise ValueError(f"{path}: no column {' or '.join(missing)}; {found}; name them with --columns {say}")
    return theirs


def text_of(row: Row, column: str) -> str:
    """Return a value of a row as text; empty when the column or the value is missing."""
    value = row.get(column)
    return "" if value is None else str(value).strip()


def place_of(table: Path, filename: str) -> Path:
    """Return the path of a file that a table lists: relative to the table's folder, also as Windows writes it."""
    place = table.parent / filename
    return table.parent / filename.replace("\\", "/") if "\\" in filename and not place.exists() else place

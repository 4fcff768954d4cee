"""A table of results: it is written as they come, continued where a run stopped, and brought up to date."""

from __future__ import annotations

import csv
import importlib.util
import json
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from gapl.cli import printable
from gapl.detector import Judged
from gapl.files.atomic import replacing
from gapl.files.refusal import naming
from gapl.options import CSV, JSON, JSONL, PARQUET
from gapl.results import COLUMNS, WARNINGS_JOINED, Method, csv_line, csv_row, encodable
from gapl.stored import Row, read_rows

log = logging.getLogger(__name__)

_MAX_CELL = 1 << 30  # characters
_WRONG_TABLE = (LookupError, TypeError, RecursionError, csv.Error)  # what reading a file of others raises


class Table:
    """A file of results. Each is kept at once in a journal beside it, from which a stopped run goes on."""

    def __init__(
        self,
        path: Path,
        *,
        format: str,
        method: Method,
        images: Collection[str],
        overwrite: bool,
        explainer: str | None = None,
    ) -> None:
        """Begin a table, or go on with its journal, or with the table itself.

        images     the paths that the table will have
        explainer  the SHA-256 of the explainer file, empty where there is none; None: verdicts are not explained

        Raises ValueError when the table is there already and is not of this method and explainer or of more than
        these images, another run writes it, or its journal is damaged or of another method; OSError when it cannot
        be written.
        """
        self.path, self.format, self._method, self._explainer = path, format, method, explainer
        self._journal = path.with_name(f"{path.name}.part")
        self._found: dict[str, Row] = {}  # the results of this run, by their paths
        if format == PARQUET and importlib.util.find_spec("pyarrow") is None:
            raise ValueError("a table in parquet needs the package pyarrow; install it: pip install pyarrow")
        for each in (path, self._journal):
            if each.exists() and not each.is_file():
                raise ValueError(f"{each} is no regular file; name another --out")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._judged = self._read_finished(images) if path.exists() and not overwrite else {}
        with ExitStack() as undo:
            self._file = undo.enter_context(self._journal.open("a", encoding="utf-8"))
            _lock(self._file, path)
            if overwrite:
                self._file.truncate(0)
            self._kept = self._begin(json.dumps({"asked": asdict(method)}))  # the last result of each path
            undo.pop_all()

    def _read_finished(self, images: Collection[str]) -> dict[str, Judged]:
        """Return what was judged, of the table that is there. What would be lost by writing it anew is refused."""
        try:
            rows = _READERS[self.format](self.path)
            if {Method(*(row[name] for name in Method.__dataclass_fields__)) for row in rows} != {self._method}:
                raise ValueError("no table of this detector and these options")
            judged = read_rows(rows, explainer=self._explainer)
        except ValueError as error:
            raise ValueError(f"{self.path} is there already, and {error}; --overwrite replaces it") from error
        except _WRONG_TABLE as error:
            raise ValueError(f"{self.path} is there already, and no table; --overwrite replaces it") from error
        if lost := {encodable(row["path"]) for row in rows}.difference(map(encodable, images)):
            named = f"{min(lost)}, which is not named now"
            raise ValueError(f"{self.path} is there already, with {printable(named)}; --overwrite replaces it")
        return judged

    def _begin(self, head: str) -> dict[str, Row]:
        """Return the results in the journal, by their paths, and remove a line that a stopped run did not end."""
        content = self._journal.read_bytes()
        first, ended, rest = content.partition(b"\n")
        if not ended and head.encode().startswith(first):
            self._file.truncate(0)
            self._write(head)
            return {}
        if first != head.encode():
            raise ValueError(f"{self._journal} is of another detector or options; --overwrite begins anew")
        whole, _, torn = rest.rpartition(b"\n")
        try:
            rows = _parsed(json.loads, whole.splitlines())
            kept = {row["path"]: row for row in rows}
            self._judged |= read_rows(rows, explainer=self._explainer)
        except ValueError as error:
            raise ValueError(f"{self._journal}: {error}; --overwrite begins anew") from error
        except _WRONG_TABLE as error:
            raise ValueError(f"{self._journal} is damaged ({error}); --overwrite begins anew") from error
        self._file.truncate(len(content) - len(torn))
        return kept

    def judged(self) -> dict[str, Judged]:
        """Return what was judged already, and explained where that is asked for, by the SHA-256 of its files."""
        is_plain = self._explainer is None
        found = {sha256: each for sha256, each in self._judged.items() if is_plain or each.explanation}
        if found:
            log.info("%s: goes on with %d verdicts", printable(self.path), len(found))
        return found

    def add(self, row: Row) -> None:
        """Keep a result."""
        if self._kept.get(row["path"]) != row:
            self._write(json.dumps(row))
        self._found[row["path"]] = row

    def finish(self) -> None:
        """Write the table, whole or not at all, and remove the journal."""
        with naming(self.path), replacing(self.path) as scratch:
            _WRITERS[self.format](scratch, self._found.values())
        self._file.close()
        self._journal.unlink(missing_ok=True)

    def _write(self, line: str) -> None:
        with naming(self._journal):
            self._file.write(f"{line}\n")
            self._file.flush()


def _lock(file: TextIO, path: Path) -> None:
    """Keep other runs from the journal of a table until it is closed, where the system has such locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(f"{path} is being written by another run; wait for it, or name another --out") from error


# ---------------------------------------------------------------------------------------------------------
# Formats


def _write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _write_json(path: Path, rows: Iterable[Row]) -> None:
    path.write_text(json.dumps(list(rows), indent=1) + "\n", encoding="utf-8")


def _write_csv(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(f"{csv_line(COLUMNS)}\n")
        file.writelines(f"{csv_line(csv_row(row))}\n" for row in rows)


def _write_parquet(path: Path, rows: Iterable[Row]) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = zip(*map(csv_row, rows), strict=True)
    arrays = {
        name: pyarrow.array([None if value == "" else value for value in column], type=kind)
        for (name, kind), column in zip(COLUMNS.items(), columns, strict=True)
    }
    parquet.write_table(pyarrow.table(arrays), path)


def _read_jsonl(path: Path) -> list[Row]:
    return _parsed(json.loads, path.read_text(encoding="utf-8").splitlines())


def _read_json(path: Path) -> list[Row]:
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))
    return rows


@contextmanager
def long_cells() -> Iterator[None]:
    """Have the block read CSV with cells of any length; else, more than 131,072 characters are refused."""
    before = csv.field_size_limit(_MAX_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _read_csv(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file, long_cells():
        return _parsed(_of_cells, csv.DictReader(file))


def _read_parquet(path: Path) -> list[Row]:
    from pyarrow import parquet

    return _parsed(_of_cells, parquet.read_table(path).to_pylist())


def _parsed(parse: Callable[[Any], Row], found: Iterable[Any]) -> list[Row]:
    """Return the rows that are made of what was found. Raises ValueError that names the row."""
    rows = []
    for i, each in enumerate(found, start=1):
        try:
            rows.append(parse(each))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"in row {i}, {error}") from error
    return rows


def _of_cells(cells: Mapping[str, Any]) -> Row:
    """Return the object of JSON of which a row of a table was made."""
    row: Row = {}
    for name, kind in COLUMNS.items():
        value = cells[name]
        try:
            is_none = value in ("", None)
            row[name] = str(value or "") if kind == "string" else None if is_none else float(value)
            if name == "explanation" and value:
                row[name] = json.loads(value)
        except ValueError as error:
            raise ValueError(f"{name} cannot be read: {error}") from error
    for name in ("error", "explanation"):
        if row[name] == "":
            del row[name]
    return row | {"warnings": row["warnings"].split(WARNINGS_JOINED) if row["warnings"] else []}


_WRITERS = {JSON: _write_json, JSONL: _write_jsonl, CSV: _write_csv, PARQUET: _write_parquet}
_READERS = {JSON: _read_json, JSONL: _read_jsonl, CSV: _read_csv, PARQUET: _read_parquet}

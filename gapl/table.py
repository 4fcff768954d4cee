"""A table of results: it is written as they come, continued where a run stopped, and brought up to date."""

from __future__ import annotations

import csv
import importlib.util
import json
import logging
import math
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from gapl.cli import printable
from gapl.detector import Judged
from gapl.files.atomic import replacing
from gapl.files.refusal import naming
from gapl.options import CSV, JSON, JSONL, PARQUET
from gapl.results import COLUMNS, OF_FILE, WARNINGS_JOINED, Method, csv_line, csv_row, encodable
from gapl.verdict import LABELS, Verdict

log = logging.getLogger(__name__)

Row = dict[str, Any]

_WRONG_TABLE = (ValueError, LookupError, TypeError, RecursionError, csv.Error)  # what reading one raises


class Table:
    """A file of results. Each is kept at once in a journal beside it, from which a stopped run goes on."""

    def __init__(
        self, path: Path, *, format: str, method: Method, images: Collection[str], overwrite: bool
    ) -> None:
        """Begin a table, or go on with its journal, or with the table itself.

        images   the paths that the table will have

        Raises ValueError when the table is there already and is not of this method or of more than these images,
        another run writes it, or its journal is damaged or of another method; OSError when it cannot be written.
        """
        self.path, self.format, self._method = path, format, method
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
            methods = {Method(*(row[name] for name in Method.__dataclass_fields__)) for row in rows}
            judged = _judged(rows)
            paths = {encodable(row["path"]) for row in rows}
        except _WRONG_TABLE:
            methods = set()
        if methods != {self._method}:
            raise ValueError(
                f"{self.path} is there already, and no table of this detector and these options; "
                "--overwrite replaces it"
            )
        if lost := paths.difference(map(encodable, images)):
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
            rows = [json.loads(line) for line in whole.splitlines()]
            kept = {row["path"]: row for row in rows}
            self._judged |= _judged(rows)
        except _WRONG_TABLE as error:
            raise ValueError(f"{self._journal} is damaged ({error}); --overwrite begins anew") from error
        self._file.truncate(len(content) - len(torn))
        return kept

    def judged(self, *, explained: bool) -> dict[str, Judged]:
        """Return what was judged already, by the SHA-256 of its files; with `explained`, what says why."""
        found = {sha256: each for sha256, each in self._judged.items() if each.explanation or not explained}
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


def _judged(rows: Iterable[Row]) -> dict[str, Judged]:
    """Return what rows say of verdicts, by the SHA-256 of their files."""
    found = {}
    for row in rows:
        if "error" not in row:
            named = {name: row[name] for name in Verdict.__dataclass_fields__}
            verdict = _checked(Verdict(**named | {"warnings": tuple(row["warnings"])}))
            found[_checked_sha256(row["sha256"])] = Judged(verdict, _explanation(row))
    return found


def _explanation(row: Row) -> dict[str, Any] | None:
    """Return what a row says of its verdict, if anything: all of its explanation but what the file says."""
    kept = {name: each for name, each in row.get("explanation", {}).items() if name not in OF_FILE}
    return kept if "in_words" in kept else None


def _checked(verdict: Verdict) -> Verdict:
    """Return a verdict that was read. Raises ValueError when it is none: anybody may have changed the file."""
    numbers = (verdict.score, verdict.logit, verdict.threshold, verdict.real_below)
    if verdict.label not in LABELS or not all(isinstance(each, float) and math.isfinite(each) for each in numbers):
        raise ValueError(f"no verdict: {verdict.label!r}")
    if not all(isinstance(each, str) for each in verdict.warnings):
        raise ValueError("warnings that are no texts")
    return verdict


def _checked_sha256(sha256: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError(f"no SHA-256: {sha256[:80]!r}")
    return sha256


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
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _read_json(path: Path) -> list[Row]:
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))
    return rows


def _read_csv(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        return [_of_cells(row) for row in csv.DictReader(file)]


def _read_parquet(path: Path) -> list[Row]:
    from pyarrow import parquet

    return [_of_cells(row) for row in parquet.read_table(path).to_pylist()]


def _of_cells(cells: Mapping[str, Any]) -> Row:
    """Return the object of JSON of which a row of a table was made."""
    row: Row = {}
    for name, kind in COLUMNS.items():
        value = cells[name]
        row[name] = value or "" if kind == "string" else float(value) if value not in ("", None) else None
    for name in ("error", "explanation"):
        if not row[name]:
            del row[name]
    if "explanation" in row:
        row["explanation"] = json.loads(row["explanation"])
    return row | {"warnings": row["warnings"].split(WARNINGS_JOINED) if row["warnings"] else []}


_WRITERS = {JSON: _write_json, JSONL: _write_jsonl, CSV: _write_csv, PARQUET: _write_parquet}
_READERS = {JSON: _read_json, JSONL: _read_jsonl, CSV: _read_csv, PARQUET: _read_parquet}

"""What was found of each image, as text or as a row; and a table that is written as results come."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from gapl.cli import printable
from gapl.files.atomic import replacing
from gapl.options import CSV, JSON, JSONL, PARQUET
from gapl.origin import Finding, describe
from gapl.verdict import Verdict

log = logging.getLogger(__name__)

SCHEMA = "gapl-result-1"  # docs/result.schema.json
COLUMNS = {  # of a table, and their types in parquet
    "schema": "string",
    "path": "string",
    "sha256": "string",
    "score": "float64",
    "logit": "float64",
    "label": "string",
    "threshold": "float64",
    "real_below": "float64",
    "warnings": "string",
    "error": "string",
    "explanation": "string",
    "model": "string",
}


@dataclass(frozen=True)
class Result:
    """The verdict on an image, or why there is none.

    sha256   of the file; empty when it cannot be read
    verdict  None: `error` says why
    origin   what the file says about its origin; None: nobody asked
    """

    path: str
    sha256: str
    verdict: Verdict | None
    error: str = ""
    origin: tuple[Finding, ...] | None = None

    def row(self, *, model: str) -> dict[str, Any]:
        """Return the result as an object of JSON."""
        verdict = self.verdict
        found: dict[str, Any] = {"error": self.error}
        if verdict:
            found = asdict(verdict) | {"warnings": list(verdict.warnings)}
        if self.origin is not None:
            found["explanation"] = explanation(self.origin)
        return {"schema": SCHEMA, "path": self.path, "sha256": self.sha256, **found, "model": model}

    def text(self) -> str:
        """Return the lines for a reader."""
        origin = [] if self.origin is None else origin_lines(self.origin)
        if self.verdict is None:
            return "\n".join([f"[ERROR] Image: {printable(self.path)}\n  -> {printable(self.error)}", *origin])
        return "\n".join([verdict_text(self.path, self.verdict), *origin])


def explanation(origin: Sequence[Finding]) -> dict[str, Any]:
    """Return the object `explanation` of a row."""
    return {"origin": [asdict(each) for each in origin], "origin_in_words": describe(origin)}


def origin_lines(origin: Sequence[Finding]) -> list[str]:
    """Return the lines for a reader about what a file says of its origin."""
    return [f"  -> Origin: {describe(origin)}", *(f"     - {each.line()}" for each in origin)]


def verdict_text(path: Path | str, verdict: Verdict) -> str:
    """Return the lines for a reader about a verdict."""
    unsure = f"Unsure (leans to {verdict.likelier.capitalize()})"
    prediction = {"fake": "Fake (AI-Generated)", "real": "Real", "unsure": unsure}[verdict.label]
    lines = [
        f"[RESULT] Image: {printable(path)}",
        f"  -> Prediction: {prediction}",
        f"  -> Confidence: {verdict.confidence:.1%}",
        *(f"  -> Warning: {warning}" for warning in verdict.warnings),
    ]
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------------
# Tables


class Table:
    """A file of results. Each is kept at once in a journal beside it, from which a stopped run goes on."""

    def __init__(self, path: Path, *, format: str, asked: Mapping[str, object], overwrite: bool) -> None:
        """Begin a table, or go on with its journal.

        asked   what verdicts depend on: the detector and the options

        Raises ValueError when the table is there already, another run writes it, or its journal is damaged or of
        another detector or options; OSError when it cannot be written.
        """
        self.path, self.format = path, format
        self._journal = path.with_name(f"{path.name}.part")
        self._found: dict[str, dict[str, Any]] = {}  # the results of this run, by their paths
        self._verdicts: dict[str, Verdict] = {}
        if format == PARQUET and importlib.util.find_spec("pyarrow") is None:
            raise ValueError("a table in parquet needs the package pyarrow; install it: pip install pyarrow")
        for each in (path, self._journal):
            if each.exists() and not each.is_file():
                raise ValueError(f"{each} is no regular file; name another --out")
        if path.exists() and not overwrite:
            raise ValueError(f"{path} is there already; --overwrite replaces it")
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as undo:
            self._file = undo.enter_context(self._journal.open("a", encoding="utf-8"))
            _lock(self._file, path)
            if overwrite:
                self._file.truncate(0)
            self._kept = self._begin(json.dumps({"asked": dict(asked)}))  # the last result of each path
            undo.pop_all()

    def _begin(self, head: str) -> dict[str, dict[str, Any]]:
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
            self._verdicts = {row["sha256"]: _verdict(row) for row in rows if "error" not in row}
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise ValueError(f"{self._journal} is damaged ({error}); --overwrite begins anew") from error
        self._file.truncate(len(content) - len(torn))
        return kept

    def verdicts(self) -> dict[str, Verdict]:
        """Return the verdicts that the journal has, by the SHA-256 of their files."""
        if self._verdicts:
            log.info("%s: goes on with %d verdicts", printable(self._journal), len(self._verdicts))
        return dict(self._verdicts)

    def add(self, row: dict[str, Any]) -> None:
        """Keep a result."""
        if self._kept.get(row["path"]) != row:
            self._write(json.dumps(row))
        self._found[row["path"]] = row

    def finish(self) -> None:
        """Write the table, whole or not at all, and remove the journal."""
        with _naming(self.path), replacing(self.path) as scratch:
            _WRITERS[self.format](scratch, self._found.values())
        self._file.close()
        self._journal.unlink(missing_ok=True)

    def _write(self, line: str) -> None:
        with _naming(self._journal):
            self._file.write(f"{line}\n")
            self._file.flush()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file in an OSError: that of a full disk does not say which."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


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


def _verdict(row: Mapping[str, Any]) -> Verdict:
    named = {name: row[name] for name in Verdict.__dataclass_fields__}
    return Verdict(**named | {"warnings": tuple(row["warnings"])})


def csv_row(row: Mapping[str, Any]) -> list[object]:
    """Return the values of COLUMNS, empty where a result has none.

    Warnings are joined by semicolons, and the explanation is a text of JSON.
    """
    flat = {**row, "warnings": "; ".join(row.get("warnings", ()))}
    if "explanation" in row:
        flat["explanation"] = json.dumps(row["explanation"])
    # Paths of bytes that are not UTF-8 cannot be written as text.
    return [_encodable(value) if isinstance(value := flat.get(name, ""), str) else value for name in COLUMNS]


def csv_line(values: Iterable[object]) -> str:
    """Return a line of CSV without its end."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(values)  # what ends lines is quoted in values
    return line.getvalue().removesuffix("\r\n")


def _encodable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _write_json(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text(json.dumps(list(rows), indent=1) + "\n", encoding="utf-8")


def _write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(f"{csv_line(COLUMNS)}\n")
        file.writelines(f"{csv_line(csv_row(row))}\n" for row in rows)


def _write_parquet(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = zip(*map(csv_row, rows), strict=True)
    arrays = {
        name: pyarrow.array([None if value == "" else value for value in column], type=kind)
        for (name, kind), column in zip(COLUMNS.items(), columns, strict=True)
    }
    parquet.write_table(pyarrow.table(arrays), path)


_WRITERS = {JSON: _write_json, JSONL: _write_jsonl, CSV: _write_csv, PARQUET: _write_parquet}

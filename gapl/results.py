"""What was found of each image, as text or as a row; and a table that is written as results come."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gapl.files.atomic import replacing
from gapl.options import CSV, JSON, JSONL, PARQUET
from gapl.verdict import Verdict

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
    "model": "string",
}


@dataclass(frozen=True)
class Result:
    """The verdict on an image, or why there is none.

    sha256   of the file; empty when it cannot be read
    verdict  None: `error` says why
    """

    path: str
    sha256: str
    verdict: Verdict | None
    error: str = ""

    def row(self, *, model: str) -> dict[str, Any]:
        """Return the result as an object of JSON."""
        verdict = self.verdict
        found = asdict(verdict) | {"warnings": list(verdict.warnings)} if verdict else {"error": self.error}
        return {"schema": SCHEMA, "path": self.path, "sha256": self.sha256, **found, "model": model}

    def text(self) -> str:
        """Return the lines for a reader."""
        if self.verdict is None:
            return f"[ERROR] Image: {printable(self.path)}\n  -> {self.error}"
        return verdict_text(self.path, self.verdict)


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


def printable(path: Path | str) -> str:
    """Return a path with escapes for what cannot be shown, such as line ends: a name must not forge a line."""
    return "".join(each if each.isprintable() else _escaped(each) for each in str(path))


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a name that is not UTF-8
        return f"\\x{os.fsencode(character)[0]:02x}"
    return character.encode("unicode_escape").decode()


# ---------------------------------------------------------------------------------------------------------
# Tables


class Table:
    """A file of results. Each is kept at once in a journal beside it, from which a stopped run goes on."""

    def __init__(self, path: Path, *, format: str, asked: Mapping[str, object], overwrite: bool) -> None:
        """Begin a table, or go on with its journal.

        asked   what verdicts depend on: the detector and the options

        Raises ValueError when the table is there already, or its journal is of another detector or options.
        """
        self.path, self.format = path, format
        self._journal = path.with_name(f"{path.name}.part")
        if format == PARQUET:
            import pyarrow  # noqa: F401 - that it is missing is told before anything is judged
        if path.exists() and not overwrite:
            raise ValueError(f"{path} is there already; --overwrite replaces it")
        if overwrite:
            self._journal.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        begun = self._journal.exists()
        if begun:
            self._cut_torn_line()
            if next(self._lines(), None) != {"asked": dict(asked)}:
                raise ValueError(f"{self._journal} is of another detector or options; --overwrite begins anew")
        self._file = self._journal.open("a", encoding="utf-8")
        if not begun:
            self._write({"asked": dict(asked)})
        self._done = {(row["path"], row["sha256"]) for row in self._rows()} if begun else set()

    def verdicts(self) -> dict[str, Verdict]:
        """Return the verdicts that the journal has, by the SHA-256 of their files."""
        names = Verdict.__dataclass_fields__
        rows = (row for row in self._rows() if "error" not in row)
        return {
            row["sha256"]: Verdict(**{name: row[name] for name in names} | {"warnings": tuple(row["warnings"])})
            for row in rows
        }

    def add(self, row: dict[str, Any]) -> None:
        """Keep a result, unless it was kept before."""
        if (row["path"], row["sha256"]) not in self._done:
            self._write(row)

    def finish(self) -> None:
        """Write the table, whole or not at all, and remove the journal."""
        self._file.close()
        last = {row["path"]: row for row in self._rows()}  # of a file that changed meanwhile
        with replacing(self.path) as scratch:
            _WRITERS[self.format](scratch, last.values())
        self._journal.unlink()

    def _write(self, row: Mapping[str, object]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def _lines(self) -> Iterator[Any]:
        with self._journal.open(encoding="utf-8") as file:
            try:
                yield from map(json.loads, file)
            except ValueError as error:
                raise ValueError(f"{self._journal} is damaged ({error}); --overwrite begins anew") from error

    def _rows(self) -> Iterator[dict[str, Any]]:
        rows = self._lines()
        next(rows, None)  # what was asked
        yield from rows

    def _cut_torn_line(self) -> None:
        """Remove what follows the last line end: a run was stopped while it wrote."""
        content = self._journal.read_bytes()
        os.truncate(self._journal, content.rfind(b"\n") + 1)


def csv_row(row: Mapping[str, Any]) -> list[object]:
    """Return the values of COLUMNS, empty where a result has none; warnings are joined by semicolons."""
    flat = {**row, "warnings": "; ".join(row.get("warnings", ()))}
    # Paths of bytes that are not UTF-8 cannot be written as text.
    return [_encodable(value) if isinstance(value := flat.get(name, ""), str) else value for name in COLUMNS]


def _encodable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _write_json(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text(json.dumps(list(rows), indent=1) + "\n", encoding="utf-8")


def _write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(map(csv_row, rows))


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

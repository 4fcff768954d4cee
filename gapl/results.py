"""What was found of each image, as text or as a row of a table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gapl.cli import printable
from gapl.origin import Finding, describe
from gapl.verdict import Verdict

SCHEMA = "gapl-result-1"  # docs/result.schema.json; docs/verdicts.md says when the number changes
OF_FILE = ("origin", "origin_in_words")  # what an explanation says of the file, and not of the verdict
UNREADABLE = "unreadable"  # what an image without a verdict is called, beside the labels
WARNINGS_JOINED = "; "  # in a cell
COLUMNS = {  # of a table, and their types in parquet; new ones come last
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
    "model_sha256": "string",
    "views": "string",
    "operating_point": "string",
    "duplicate_of": "string",
    "explanation": "string",
}


@dataclass(frozen=True)
class Method:
    """How images are judged: whatever a verdict depends on besides the image.

    model            what the user calls the detector
    model_sha256     of the detector file
    views            full, fast or auto
    operating_point  empty: the detector's own thresholds decide
    """

    model: str
    model_sha256: str
    views: str
    operating_point: str


@dataclass(frozen=True)
class Result:
    """The verdict on an image, or why there is none.

    sha256        of the file; empty when it cannot be read
    verdict       None: `error` says why
    duplicate_of  the path of an image before it that has the same content, if there is one
    explanation   of the verdict, as docs/result.schema.json has it, but for the origin; None: nobody asked
    origin        what the file says about its origin; None: nobody asked
    """

    path: str
    sha256: str
    verdict: Verdict | None
    error: str = ""
    duplicate_of: str = ""
    explanation: Mapping[str, Any] | None = None
    origin: tuple[Finding, ...] | None = None

    def row(self, method: Method) -> dict[str, Any]:
        """Return the result as an object of JSON."""
        verdict = self.verdict
        found = asdict(verdict) | {"warnings": list(verdict.warnings)} if verdict else {"error": self.error}
        image = {"schema": SCHEMA, "path": self.path, "sha256": self.sha256}
        explained = {"explanation": self._explained()} if self._explained() else {}
        return image | found | asdict(method) | {"duplicate_of": self.duplicate_of} | explained

    def _explained(self) -> dict[str, Any]:
        """Return the object `explanation` of a row; empty when nobody asked."""
        of_file = {} if self.origin is None else _of_file(self.origin)
        return of_file | dict(self.explanation or {})

    def text(self) -> str:
        """Return the lines for a reader."""
        if self.verdict is None:
            lines = [f"[ERROR] Image: {printable(self.path)}", f"  -> {printable(self.error)}"]
        else:
            lines = [verdict_text(self.path, self.verdict)]
        if self.duplicate_of:
            lines.append(f"  -> Duplicate of: {printable(self.duplicate_of)}")
        if self.explanation:
            lines += [f"  -> {sentence}" for sentence in self.explanation["in_words"]]
        return "\n".join(lines + ([] if self.origin is None else _origin_lines(self.origin)))


def _of_file(origin: Sequence[Finding]) -> dict[str, Any]:
    """Return what an explanation says of the file."""
    return {"origin": [asdict(each) for each in origin], "origin_in_words": describe(origin)}


def _origin_lines(origin: Sequence[Finding]) -> list[str]:
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


def mark_duplicates(results: Iterable[Result], judged: Mapping[str, str] = {}) -> Iterator[Result]:
    """Yield the results; those of a content that was judged before say of which path they are the duplicate.

    judged   what was before the results: SHA-256 -> path
    """
    first = dict(judged)
    for result in results:
        path = first.setdefault(result.sha256, result.path) if result.verdict else result.path
        yield result if path == result.path else replace(result, duplicate_of=path)


def csv_row(row: Mapping[str, Any]) -> list[object]:
    """Return the values of COLUMNS, empty where a result has none; warnings are joined, explanations JSON."""
    flat = {**row, "warnings": WARNINGS_JOINED.join(row.get("warnings", ()))}
    if "explanation" in row:
        flat["explanation"] = json.dumps(row["explanation"])
    return [encodable(value) if isinstance(value := flat.get(name, ""), str) else value for name in COLUMNS]


def csv_line(values: Iterable[object]) -> str:
    """Return a line of CSV without its end."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(values)  # what ends lines is quoted in values
    return line.getvalue().removesuffix("\r\n")


def encodable(text: str) -> str:
    """Return a text that can be written: paths of bytes that are not UTF-8 cannot, and are escaped."""
    return text.encode(errors="backslashreplace").decode()

"""A table that `gapl --out` or `inference.py --out` has written -> what it says of each image, checked."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from evaluation.drift.judgement import Judgement
from gapl.cli import printable
from gapl.columns import is_parquet
from gapl.files.refusal import check_is_file, refusal
from gapl.results import SCHEMA, WARNINGS_JOINED
from gapl.table import long_cells
from gapl.verdict import DecisionRule

WHAT = "a table of gapl --out, or scores.parquet of benchmarks.py run"
NOT_CALLED_FAKE = "not called fake"  # in the place of a family
METHOD = ("model_sha256", "views", "operating_point")
_READ = (
    "schema",
    "path",
    "sha256",
    "error",
    "score",
    "warnings",
    "explanation",
    "threshold",
    "real_below",
    *METHOD,
)
_DAMAGED = (ValueError, LookupError, TypeError, AttributeError, RecursionError, csv.Error, pa.ArrowException)

Row = Mapping[str, Any]


def is_table_of_results(path: Path) -> bool:
    """Return whether a file is such a table, or may be one. Raises ValueError, one line, when it is no table."""
    check_is_file(path, what=WHAT)
    if path.suffix.lower() in (".json", ".jsonl"):
        return True
    try:
        if is_parquet(path):
            return "model_sha256" in pq.read_schema(path).names
        with path.open(encoding="utf-8", newline="") as file:
            return "model_sha256" in next(csv.reader(file), [])
    except (UnicodeDecodeError, csv.Error, pa.ArrowException, OSError) as error:
        raise refusal(path, ValueError(error), what=WHAT) from error


def read_results(path: Path) -> tuple[pd.DataFrame, Judgement]:
    """Return a row for each row of the table, as `Stream.images` has them, and how they were judged.

    Raises ValueError, one line, when a row is not as docs/result.schema.json says, or rows are judged differently.
    """
    images: list[dict[str, Any]] = []
    ways: set[tuple[Any, ...]] = set()
    explainers: set[str] = set()
    try:
        for row in _rows(path):
            if not isinstance(row, Mapping):
                raise ValueError(f"{str(row)[:40]!r} is no row")
            image, way, explainer = _read(row)
            images.append(image)
            ways |= {way} if way else set()
            explainers |= {explainer} if explainer else set()
    except _DAMAGED as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise refusal(path, ValueError(f"in row {len(images) + 1}, {reason}"), what=WHAT) from error
    if not ways:
        raise ValueError(f"{path}: none of its {len(images)} images has a verdict")
    if len(ways) > 1 or len(explainers) > 1:
        raise ValueError(f"{path} is of several detectors, options or explainer files; expected one of each")
    ((sha256, views, operating_point, real_below, threshold),) = ways
    frame = pd.DataFrame(images)
    held = frame[frame["error"] == ""].notna().all()
    rule = DecisionRule(real_below, threshold)
    return frame.loc[:, held], Judgement(sha256, views, operating_point, rule, "".join(explainers))


def _rows(path: Path) -> Iterator[Row]:
    """Yield the rows, a few of which are in memory at a time where the format allows it."""
    if is_parquet(path):
        with pq.ParquetFile(path) as table:
            names = [name for name in _READ if name in table.schema_arrow.names]
            for batch in table.iter_batches(batch_size=1000, columns=names):
                yield from batch.to_pylist()
    elif path.suffix.lower() == ".json":
        yield from json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix.lower() == ".jsonl":
        with path.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)
    else:
        with path.open(encoding="utf-8", newline="") as lines, long_cells():
            yield from csv.DictReader(lines, strict=True)


def _read(row: Any) -> tuple[dict[str, Any], tuple[Any, ...] | None, str]:
    """Return what a row says of its image, how it was judged (None: it was not), and which file explained it."""
    if row.get("schema") != SCHEMA:
        raise ValueError(f"its schema is {row.get('schema')!r}, not {SCHEMA}")
    image = {
        "path": _text(row["path"]),
        "sha256": _sha256(row.get("sha256") or ""),
        "error": row.get("error") or "",
    }
    if not image["path"]:
        raise ValueError("it names no image")
    if image["error"]:
        nothing = dict.fromkeys(("distance", "family"))
        return image | {"score": math.nan, "warnings": "", **nothing, "error": _text(image["error"])}, None, ""
    score, real_below, threshold = (_share(row, name) for name in ("score", "real_below", "threshold"))
    explanation = _explanation(row)
    said = {"distance": _distance(explanation), "family": _family(explanation)}
    method = (_sha256(row["model_sha256"] or ""), *(_text(row[name] or "") for name in METHOD[1:]))
    explainer = _sha256(explanation.get("explainer_sha256", ""))
    warnings = _kinds(row.get("warnings") or "")
    return image | {"score": score, "warnings": warnings, **said}, (*method, real_below, threshold), explainer


def _explanation(row: Row) -> Mapping[str, Any]:
    given = row.get("explanation") or {}
    parsed = json.loads(given) if isinstance(given, str) else given
    if not isinstance(parsed, Mapping):
        raise ValueError("its explanation is no object")
    return parsed


def _distance(explanation: Mapping[str, Any]) -> float | None:
    if "unlike" not in explanation:
        return None
    distance = float(explanation["unlike"]["distance"])
    if not math.isfinite(distance):
        raise ValueError(f"its distance from training is {distance}")
    return distance


def _family(explanation: Mapping[str, Any]) -> str | None:
    if "family" not in explanation:
        return None
    family = explanation["family"]
    return NOT_CALLED_FAKE if family is None else printable(_text(family["name"]))


def _kinds(warnings: Any) -> str:
    """Return the warnings of an image without their numbers: of what kinds they are."""
    listed = warnings.split(WARNINGS_JOINED) if isinstance(warnings, str) else warnings
    return WARNINGS_JOINED.join(sorted({printable(re.sub(r"\d+", "N", _text(each))) for each in listed if each}))


def _share(row: Row, name: str) -> float:
    try:
        value = float(row[name])
    except OverflowError as error:
        raise ValueError(f"its {name} is too large a number") from error
    if not 0 <= value <= 1:
        raise ValueError(f"its {name} is {value}, outside of [0, 1]")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:40]!r} is no text")
    return value


def _sha256(value: Any) -> str:
    if not re.fullmatch("(?:[0-9a-f]{64})?", _text(value)):
        raise ValueError(f"{value[:80]!r} is no SHA-256")
    return str(value)

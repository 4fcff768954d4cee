"""Explanations that a table keeps: what a later run makes of them, and what it makes of those that were edited."""

from __future__ import annotations

import copy
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from PIL import Image

from gapl.explain.form import check_explanation
from gapl.explain.words import in_words
from gapl.origin.finding import C2PA, GENERATED, UNKNOWN_SIGNER, found
from gapl.results import Method, Result
from gapl.sheets import evidence, maps
from gapl.table import Table
from gapl.verdict import Verdict

PROJECT = Path(__file__).resolve().parent.parent
SCHEMA = json.loads((PROJECT / "docs/result.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA["items"]["properties"]["explanation"])
VERDICT = Verdict(0.25, 1.25, "real", 0.6, 0.3)
METHOD = Method("m", "1" * 64, "full", "")
EXPLAINER = "2" * 64
EXPLANATION: dict[str, Any] = {
    "prototypes": [
        {"index": 3, "label": "fake", "attention": 0.7, "contribution": 1.5, "described_as": "GAN 80%"},
        {"index": 0, "label": "real", "attention": 0.3, "contribution": -0.5, "described_as": ""},
    ],
    "bias": 0.25,
    "explainer_sha256": EXPLAINER,
    "family": {"name": "GAN", "probabilities": {"GAN": 0.75, "OpenAI": 0.25}},
    "unlike": {"distance": 0.6, "cut": 0.45, "is_unlike": True},
    "in_words": ["Words."],
    "where": {
        "tiles": {"reduced_by": 2, "side": 200, "tiles": [[-5, 0, 0.9], [100, 0, 0.5]]},
        "patches": {"box": [50, 0, 200, 200], "map": [[0.4, -0.2], [0.0, 0.1]]},
    },
    "stable": {"resaves": [{"name": "WebP 80", "score": 0.1, "label": "real"}], "holds": 0, "label": "unsure"},
}


def row_of(path: str, explanation: dict[str, Any] | None = EXPLANATION) -> dict[str, Any]:
    origin = (found(C2PA, "manifest", GENERATED, name="OpenAI", signature=UNKNOWN_SIGNER),)
    result = Result(path, "a" * 64, VERDICT, explanation=explanation, origin=origin if explanation else None)
    return result.row(METHOD)


def table_at(path: Path, *, explainer: str | None = EXPLAINER) -> Table:
    format = path.suffix.removeprefix(".")
    return Table(path, format=format, method=METHOD, images="ab", overwrite=False, explainer=explainer)


def finished(path: Path, *rows: dict[str, Any], explainer: str | None = EXPLAINER) -> Path:
    table = table_at(path, explainer=explainer)
    for row in rows:
        table.add(row)
    table.finish()
    return path


# ---------------------------------------------------------------------------------------------------------
# The same command, and other ones


@pytest.mark.parametrize("format", ["jsonl", "json", "csv", "parquet"])
def test_a_table_with_explanations_goes_on_only_with_them(tmp_path: Path, format: str) -> None:
    path = finished(tmp_path / f"t.{format}", row_of("a"))
    (judged,) = table_at(path).judged().values()
    assert judged.explanation == EXPLANATION
    Path(f"{path}.part").unlink()
    with pytest.raises(ValueError, match=r"^[^\n]*is there already, and it has explanations; give --explain"):
        table_at(path, explainer=None)


def test_a_journal_with_explanations_goes_on_only_with_them(tmp_path: Path) -> None:
    table_at(tmp_path / "t.jsonl").add(row_of("a"))  # and stopped
    with pytest.raises(ValueError, match=r"t.jsonl.part: it has explanations; give --explain, or --sheets, as"):
        table_at(tmp_path / "t.jsonl", explainer=None)
    assert list(table_at(tmp_path / "t.jsonl").judged()) == ["a" * 64]


def test_a_table_without_explanations_is_judged_anew_for_them(tmp_path: Path) -> None:
    path = finished(tmp_path / "t.jsonl", row_of("a", None), explainer=None)
    assert table_at(path).judged() == {}


def test_explanations_by_another_explainer_file_are_not_mixed(tmp_path: Path) -> None:
    path = finished(tmp_path / "t.jsonl", row_of("a"))
    for other in ("", "3" * 64):
        with pytest.raises(ValueError, match="and its explanations are by another explainer file; --overwrite"):
            table_at(path, explainer=other)


# ---------------------------------------------------------------------------------------------------------
# Edited by hand


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of each value inside an explanation."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield (*at, key)
        yield from places(each, (*at, key))


PLACES = list(places(row_of("a")["explanation"]))
GONE = object()
WRONG = [GONE, None, "x", True, 5.5, -7, [], [[]], {}, {"x": 1}, float("nan"), float("inf"), 1e308, 10**300]


def edited(at: tuple[Any, ...], value: Any) -> dict[str, Any]:
    explanation = copy.deepcopy(row_of("a")["explanation"])
    parent = explanation
    for key in at[:-1]:
        parent = parent[key]
    if value is GONE:
        del parent[at[-1]]
    else:
        parent[at[-1]] = value
    return explanation


def refused(explanation: dict[str, Any]) -> str:
    """Return why an explanation is refused; an empty text where it is not."""
    try:
        check_explanation("explanation", explanation)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("at", PLACES, ids=lambda at: ".".join(map(str, at)))
def test_what_is_read_satisfies_the_schema_and_is_shown_or_is_refused_by_its_place(at: tuple[Any, ...]) -> None:
    for value in WRONG:
        explanation = edited(at, value)
        if refusal := refused(explanation):
            assert refusal.startswith("explanation.")
            assert at[0] in refusal
            assert refusal.isprintable()
            assert len(refusal) < 300
        else:
            VALIDATOR.validate(explanation)
            evidence.prototypes(explanation, VERDICT)
            evidence.stability(explanation, VERDICT)
            in_words(explanation)
            maps.figure(Image.new("RGB", (300, 200)), explanation.get("where", {}), name="a")


@pytest.mark.parametrize("format", ["jsonl", "json", "csv", "parquet"])
def test_an_edited_explanation_is_refused_by_file_row_and_field(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"t.{format}"
    changed = row_of("b") | {"explanation": edited(("where", "tiles", "tiles", 1, 2), float("nan"))}
    finished(path, row_of("a"), changed)
    wrong = r"in row 2, explanation.where.tiles.tiles\[1\]\[2\] cannot be nan; expected a number from 0 to 1"
    with pytest.raises(ValueError, match=rf"t.{format} is there already, and {wrong}; --overwrite replaces it"):
        table_at(path)


def test_an_explanation_that_is_no_json_is_refused_by_its_row(tmp_path: Path) -> None:
    path = finished(tmp_path / "t.csv", row_of("a"))
    path.write_text(path.read_text(encoding="utf-8").replace('{""origin', "{origin"), encoding="utf-8")
    with pytest.raises(ValueError, match="in row 1, explanation cannot be read: "):
        table_at(path)


def test_explanations_of_any_length_are_read(tmp_path: Path) -> None:
    many = EXPLANATION | {"prototypes": 3000 * EXPLANATION["prototypes"]}
    path = finished(tmp_path / "t.csv", row_of("a", many))
    before = csv.field_size_limit()
    (judged,) = table_at(path).judged().values()
    assert judged.explanation == many
    assert csv.field_size_limit() == before

"""What the OpenAPI document says of requests and answers beyond their parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gapl
from gapl.serving.jobs import STATES
from gapl.serving.problems import KINDS, MEDIA_TYPE, TYPE

DESCRIPTION = """Tells whether images are AI-generated.

A result says what was found of an image; a score is P(fake), in [0, 1]. No verdict is proof. What is refused is a
problem document of RFC 9457."""
RESULT_SCHEMA = "docs/result.schema.json"

Answers = dict[int | str, dict[str, Any]]

_RESULT = {
    "schema": "gapl-result-1",
    "path": "photo.jpg",
    "sha256": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
    "score": 0.009,
    "logit": -4.7,
    "label": "real",
    "threshold": 0.66,
    "real_below": 0.2,
    "warnings": [],
    "model": "gapl-vit-b16-open.safetensors",
    "model_sha256": "fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9",
    "views": "full",
    "operating_point": "",
    "duplicate_of": "",
}
_PROBLEM = {
    "type": f"{TYPE}unreadable",
    "title": KINDS["unreadable"][1],
    "status": 422,
    "detail": "not an image, or of a format that is not read",
    "request_id": "8d1f0c2b7a3e4d55",
}
_JOB = {
    "id": "0f9d3c5b8a7e6d4c2b1a09f8e7d6c5b4",
    "state": "running",
    "images": 1200,
    "found": 310,
    "unreadable": 2,
    "left_out": {"no image (.txt)": 1},
    "error": "",
    "operating_point": "",
    "explain": False,
    "created": "2026-01-31T12:00:00+00:00",
    "ended": None,
    "deleted": None,
    "results": None,
}


def _as_json(schema: dict[str, Any], example: Any, description: str, media_type: str = "application/json") -> Any:
    return {"description": description, "content": {media_type: {"schema": schema, "example": example}}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


_STREAM = {"type": "string"}
PROBLEMS: Answers = {"default": _as_json(_ref("Problem"), _PROBLEM, "a problem", MEDIA_TYPE)}
VERDICTS: Answers = PROBLEMS | {
    200: _as_json({"type": "array", "items": _ref("Result")}, [_RESULT], "the results")
}
MODEL: Answers = PROBLEMS | {200: _as_json({"type": "object"}, {"model": _RESULT["model"]}, "the detector")}
JOB: Answers = PROBLEMS | {200: _as_json(_ref("Job"), _JOB, "the job")}
ACCEPTED: Answers = PROBLEMS | {202: _as_json(_ref("Job"), _JOB | {"state": "waiting"}, "the job has begun")}
RESULTS: Answers = PROBLEMS | {
    200: {
        "description": "the results, one a line",
        "content": {
            "application/jsonl": {"schema": _STREAM, "example": f"{json.dumps(_RESULT)}\n"},
            "text/csv": {"schema": _STREAM},
        },
    }
}


def form(field: str) -> dict[str, Any]:
    """Return what a route takes as its body: a form with files in a field, or the bytes of a file."""
    file = {"type": "string", "format": "binary", "minLength": 1}
    files = {"type": "array", "items": file, "minItems": 1}
    parts = {"type": "object", "required": [field], "properties": {field: files}, "additionalProperties": False}
    content = {"multipart/form-data": {"schema": parts}, "application/octet-stream": {"schema": file}}
    return {"requestBody": {"required": True, "content": content}}


def schemas() -> dict[str, Any]:
    """Return the schemas that answers refer to, by name."""
    text = {"type": "string"}
    problem = dict.fromkeys(("type", "title", "detail", "request_id"), text) | {"status": {"type": "integer"}}
    moment = {"type": ["string", "null"], "format": "date-time"}
    job = {
        **dict.fromkeys(("id", "error", "operating_point"), text),
        "state": {"enum": list(STATES)},
        "images": {"type": ["integer", "null"], "description": "null: not known yet"},
        "found": {"type": "integer", "description": "images of which there is a result"},
        "unreadable": {"type": "integer", "description": "those of them without a verdict"},
        "left_out": {"type": "object", "description": "files of archives that are no images, by reason"},
        "explain": {"type": "boolean"},
        **dict.fromkeys(("created", "ended", "deleted"), moment),
        "results": {"type": ["string", "null"], "description": "where they are"},
    }
    return {
        "Result": _result_schema(),
        "Problem": {"type": "object", "required": ["type", "title", "status"], "properties": problem},
        "Job": {"type": "object", "required": list(job), "properties": job},
    }


def _result_schema() -> dict[str, Any]:
    """Return the schema of a result: in a clone beside the package, and inside it where it is installed."""
    package = Path(gapl.__file__).parent
    found = next(path for root in (package.parent, package) if (path := root / RESULT_SCHEMA).is_file())
    schema: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))["items"]
    return schema

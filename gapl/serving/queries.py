"""What the query of a request may say."""

from __future__ import annotations

from fastapi import Request

from gapl.serving.problems import Problem

CHECKED = "/v1/"  # others are asked by machines that add what they like


def check_query(request: Request) -> None:
    """Raise Problem when a query has a name that the OpenAPI document does not give to its route."""
    if not request.url.path.startswith(CHECKED) or not request.query_params:
        return
    described = request.app.openapi()["paths"][request.scope["route"].path][request.method.lower()]
    known = [each["name"] for each in described.get("parameters", []) if each["in"] == "query"]
    if any(name not in known for name in request.query_params):
        names = ", ".join(known) or "none"
        raise Problem("bad-request", f"the query has a name that is unknown here; known: {names}")

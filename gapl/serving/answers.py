"""What a client gets instead of what it asked for: a problem document, whatever went wrong."""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from gapl.serving.access import note_of, service_of
from gapl.serving.database import DatabaseError
from gapl.serving.logs import FIELDS
from gapl.serving.problems import MEDIA_TYPE, TYPE, Problem

log = logging.getLogger(__name__)

RETRY_S = 10  # after which the database may be there again


def add_answers(app: FastAPI) -> None:
    """Have an app answer all errors with problem documents."""
    app.add_exception_handler(Problem, answer_problem)
    app.add_exception_handler(HTTPException, answer_http_error)
    app.add_exception_handler(RequestValidationError, answer_wrong_parameter)
    app.add_exception_handler(DatabaseError, answer_lost_database)
    app.add_exception_handler(Exception, answer_failure)


def answer_problem(request: Request, problem: Exception) -> JSONResponse:
    """Return the document of a Problem."""
    assert isinstance(problem, Problem)
    service_of(request).metrics.refused.labels(problem.kind).inc()
    headers = {"Retry-After": str(problem.retry_after_s)} if problem.retry_after_s else {}
    if problem.kind == "no-token":
        headers["WWW-Authenticate"] = "Bearer"
    kind = {"type": f"{TYPE}{problem.kind}", "title": problem.title, "status": problem.status}
    content = kind | {"detail": problem.detail, "request_id": note_of(request).request_id} | problem.more
    return JSONResponse(content, problem.status, headers, media_type=MEDIA_TYPE)


def answer_http_error(request: Request, error: Exception) -> JSONResponse:
    """Return the document of what the framework refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    content = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status,
        "detail": "/openapi.json lists the paths and their methods",
        "request_id": note_of(request).request_id,
    }
    headers = dict(error.headers or {})
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_methods(request))
    return JSONResponse(content, status, headers, media_type=MEDIA_TYPE)


def _methods(request: Request) -> list[str]:
    """Return the methods of all routes with the path of a request; the framework knows only those of the first."""
    methods = ("DELETE", "GET", "POST")
    given = ({**request.scope, "method": method} for method in methods)
    matches = ([route.matches(scope)[0] for route in request.app.routes] for scope in given)
    return [method for method, found in zip(methods, matches, strict=True) if Match.FULL in found]


def answer_wrong_parameter(request: Request, error: Exception) -> JSONResponse:
    """Return the document of a query that cannot be read. It does not repeat what was sent."""
    assert isinstance(error, RequestValidationError)
    found = (f"{each['loc'][-1]}: {each['msg']}" for each in error.errors())
    return answer_problem(request, Problem("bad-request", "; ".join(found)))


def answer_lost_database(request: Request, error: Exception) -> JSONResponse:
    """Return the document of a request for jobs when their database does not answer."""
    log.error(
        "failed", extra={FIELDS: {"request_id": note_of(request).request_id}}, exc_info=error.__cause__ or error
    )
    return answer_problem(
        request, Problem("no-database", "requests without jobs are answered", retry_after_s=RETRY_S)
    )


def answer_failure(request: Request, _error: Exception) -> JSONResponse:
    """Return the document of an error of ours. The log has more."""
    return answer_problem(request, Problem("internal", "the log of the service says more, by the request_id"))

"""Who may ask the service: whoever has a token; where there are none, whoever is on this machine."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from gapl.serving.envelope import Note
from gapl.serving.problems import Problem
from gapl.serving.queries import check_query
from gapl.serving.service import Service
from gapl.serving.tokens import NOBODY, is_loopback

_bearer = HTTPBearer(auto_error=False, description="a token of the configuration")


def service_of(request: Request) -> Service:
    """Return the service that a request is for."""
    service: Service = request.app.state.service
    return service


def note_of(request: Request) -> Note:
    """Return what the log will say of a request."""
    note: Note = request.state.note
    return note


async def caller_of(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> str:
    """Return the name of the token that a request has. Raises Problem when it is not answered."""
    name = _name_of(request, credentials)
    check_query(request)
    return name


def _name_of(request: Request, credentials: HTTPAuthorizationCredentials | None) -> str:
    service = service_of(request)
    if not service.tokens:
        _check_page(request, origins=service.config.origins)
        return NOBODY
    name = service.tokens.name_of(credentials.credentials) if credentials else ""
    if not name:
        unknown = "this token is not known: it is wrong, or no longer valid"
        raise Problem("no-token", unknown if credentials else "send the header Authorization: Bearer TOKEN")
    note_of(request).token = name
    if request.method == "POST" and (wait_s := service.tokens.charge(name)):
        raise Problem("too-many-requests", f"the token {name} has a limit", retry_after_s=wait_s)
    return name


def _check_page(request: Request, *, origins: tuple[str, ...]) -> None:
    """Raise Problem where a page of another site asks, which a browser of this machine may show.

    Such a page is known by its origin or, where its name was made to mean this machine, by the host that it asks.
    """
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    if not is_loopback(_split(f"//{host}").hostname or ""):
        raise Problem("foreign-page", "without tokens, the service answers to localhost and 127.0.0.1 alone")
    if origin is not None and origin not in origins and _split(origin).netloc != host:
        raise Problem("foreign-page", "origins of the configuration names the pages that may ask")


def _split(url: str) -> SplitResult:
    """Return the parts of a URL, all of them empty where it is none."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


ServiceOf = Annotated[Service, Depends(service_of)]
NoteOf = Annotated[Note, Depends(note_of)]
Caller = Annotated[str, Depends(caller_of)]

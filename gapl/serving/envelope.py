"""What every request and answer has: an id, a line in the log, and headers that keep browsers from mistakes."""

from __future__ import annotations

import logging
import re
import secrets
import time
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gapl.serving.logs import log_event
from gapl.serving.metrics import Metrics

log = logging.getLogger(__name__)

REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)  # one of the client's that is kept
OTHER = "other"  # what a path is called that is none of the routes
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass
class Note:
    """What the log says of a request.

    token   the name of its token; empty where there is none
    images  that were sent
    bytes   of its body that were received
    """

    request_id: str
    token: str = ""
    images: int = 0
    bytes: int = 0
    status: int = 0
    is_answered: bool = False


class Envelope:
    """An app around an app: it knows when a request came and how it was answered."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        note = Note(given if REQUEST_ID.fullmatch(given) else secrets.token_hex(8))
        scope.setdefault("state", {})["note"] = note
        started = time.perf_counter()
        try:
            await self._app(scope, _counting(receive, note), _adding(send, note))
        except Exception:
            log.exception("failed", extra={"fields": {"request_id": note.request_id}})
            if not note.is_answered:
                raise
        finally:
            self._note(scope, note, seconds=time.perf_counter() - started)

    def _note(self, scope: Scope, note: Note, *, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", OTHER)
        self._metrics.requests.labels(route, note.status).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        asked = {"request_id": note.request_id, "method": scope["method"], "route": route, "token": note.token}
        found = {"status": note.status, "seconds": round(seconds, 4), "images": note.images, "bytes": note.bytes}
        log_event(log, "request", **asked, **found)


def _counting(receive: Receive, note: Note) -> Receive:
    """Return what receives a request and counts its bytes."""

    async def counting() -> Message:
        message = await receive()
        note.bytes += len(message.get("body", b""))
        return message

    return counting


def _adding(send: Send, note: Note) -> Send:
    """Return what sends an answer with HEADERS and the id of the request."""

    async def adding(message: Message) -> None:
        if message["type"] == "http.response.start":
            note.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in {**HEADERS, "X-Request-ID": note.request_id}.items():
                headers.setdefault(name, value)
        await send(message)
        note.is_answered = message["type"] == "http.response.body" and not message.get("more_body")

    return adding

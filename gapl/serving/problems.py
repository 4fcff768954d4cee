"""Errors that a client sees: problem documents of RFC 9457."""

from __future__ import annotations

import math
from typing import Any

MEDIA_TYPE = "application/problem+json"
TYPE = "urn:gapl:problem:"  # what the types of problems begin with
LONGEST_RETRY_S = 60
KINDS: dict[str, tuple[int, str]] = {
    "bad-request": (400, "The request is not understood"),
    "no-token": (401, "A token is needed"),
    "foreign-page": (403, "Pages of other sites are refused"),
    "not-found": (404, "There is no such thing"),
    "slow-upload": (408, "The upload took too long"),
    "not-done": (409, "The job is not done"),
    "too-large": (413, "The upload is too large"),
    "unreadable": (422, "No image could be read"),
    "too-many-requests": (429, "Too many requests with this token"),
    "client-gone": (499, "The client has gone"),
    "internal": (500, "The service made a mistake"),
    "overloaded": (503, "The service has too much to do"),
    "too-late": (503, "The deadline has passed"),
    "not-ready": (503, "The detector is not loaded yet"),
    "no-database": (503, "The database of jobs does not answer"),
    "no-space": (507, "The disk is full"),
}


class Problem(Exception):
    """A request that is refused.

    kind           of KINDS
    detail         what is wrong with this request
    retry_after_s  the client may try again after so many seconds; 0: it need not
    more           members that the document has as well
    """

    def __init__(self, kind: str, detail: str, *, retry_after_s: float = 0, **more: Any) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.more = kind, detail, more
        self.status, self.title = KINDS[kind]
        waits = kind in ("overloaded", "too-late", "not-ready", "no-database", "too-many-requests")
        self.retry_after_s = min(max(1, math.ceil(retry_after_s)), LONGEST_RETRY_S) if waits else 0

"""Sends the page: the files of a fixed list, as they were when each was first asked for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

import gapl

PACKAGE = Path(gapl.__file__).parent
INDEX = "index.html"
MODULES = (
    "app.js", "bars.js", "chooser.js", "comparison.js", "csv.js", "elements.js", "evidence.js",
    "images.js", "maps.js", "news.js", "picture.js", "queue.js", "rules.js", "service.js",
    "sheet.js", "table.js", "token.js", "verdict.js",
)  # fmt: skip
OWN = (INDEX, "icon.svg", "page.css", *MODULES)
FILES = {name: PACKAGE / "serving" / "page" / name for name in OWN} | {
    "gallery.css": PACKAGE / "gallery" / "page.css",  # the look of all pages
    "sheet.css": PACKAGE / "sheets" / "sheet.css",  # and of explanations
}
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)

router = APIRouter()


@dataclass(frozen=True)
class _File:
    content: bytes
    media_type: str
    etag: str


@router.get("/", include_in_schema=False)
def send_index(request: Request) -> Response:
    """Send the page. It needs no token: it asks for one."""
    return _answer(request, _read(INDEX))


@router.get("/page/{name}", include_in_schema=False)
def send_file(request: Request, name: str) -> Response:
    """Send a file that the page asks for."""
    if name not in FILES:
        raise HTTPException(404)
    return _answer(request, _read(name))


@cache
def _read(name: str) -> _File:
    content = FILES[name].read_bytes()
    return _File(content, MEDIA_TYPES[FILES[name].suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def _answer(request: Request, file: _File) -> Response:
    """Return a file, or 304 where the browser has it. It asks each time, so that it shows no older page."""
    headers = {"ETag": file.etag, "Cache-Control": "no-cache", "Content-Security-Policy": POLICY}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)

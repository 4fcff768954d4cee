"""The body of a request -> the files that were sent, in memory or in a folder. Nothing of them is decoded here."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from gapl.inputs.archives import numbered
from gapl.schema import shown
from gapl.serving.problems import Problem

NAMELESS = "image"  # what a file is called that has no name
SLOWEST = 8000  # bytes/s of an upload
PATIENCE_S = 10.0  # for which it may be slower


@dataclass(frozen=True)
class Upload:
    """A file that was sent: what rows call it, and its bytes, or the file that has them."""

    name: str
    content: bytes | Path


@dataclass(frozen=True)
class Form:
    """What a request may send.

    field    of the form that files are in
    files    how many
    bytes    of the whole request
    seconds  that receiving it may take
    folder   that the files are written to; None: they stay in memory
    """

    field: str
    files: int
    bytes: int
    seconds: float
    folder: Path | None = None


def promised_bytes(request: Request, form: Form) -> int:
    """Return how many bytes a request has, or 0 where it does not say so. Raises Problem when too many."""
    length = request.headers.get("content-length", "")
    num_bytes = int(length) if length.isdecimal() else 0
    if num_bytes > form.bytes:
        raise _too_large(form)
    return num_bytes


async def read_uploads(request: Request, form: Form, *, grow: Callable[[int], None]) -> list[Upload]:
    """Return the files of a form, or the one that the body is. Names that stand twice get numbers.

    grow  is told, as it comes, how many bytes have come, and may raise Problem

    Raises Problem when there is none, when there is too much, and when the client is too slow or has gone.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    files = _Files(form)
    try:
        if kind == b"multipart/form-data":
            reader = _FormReader(options.get(b"boundary", b""), form.field, files)
            await _receive(request, form, grow, reader.write)
            reader.finish()
        else:
            files.begin(NAMELESS)
            await _receive(request, form, grow, files.write)
            files.end()
    except FormParserError:
        raise Problem("bad-request", "the form is damaged") from None
    finally:
        files.close()
    if not files.num_bytes:
        where = f"in the field {form.field!r} of a form, or as the body of the request"
        raise Problem("bad-request", f"nothing was sent; send a file {where}")
    names = numbered([each.name for each in files.uploads])
    return [replace(each, name=name) for each, name in zip(files.uploads, names, strict=True)]


async def _receive(
    request: Request, form: Form, grow: Callable[[int], None], write: Callable[[bytes], object]
) -> None:
    """Hand all of a body on, as it comes; where it goes to a file, in a thread."""
    num_bytes = 0
    started = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(min(form.seconds, PATIENCE_S)) as limit:
            async for piece in request.stream():
                if (num_bytes := num_bytes + len(piece)) > form.bytes:
                    raise _too_large(form)
                grow(num_bytes)
                limit.reschedule(started + min(form.seconds, PATIENCE_S + num_bytes / SLOWEST))
                await asyncio.to_thread(write, piece) if form.folder else write(piece)
    except TimeoutError:
        why = f"it took longer than {form.seconds:g} s, or {PATIENCE_S:g} s at less than {SLOWEST} bytes/s"
        raise Problem("slow-upload", why) from None
    except ClientDisconnect:
        raise Problem("client-gone", "while it sent the request") from None


def _too_large(form: Form) -> Problem:
    return Problem("too-large", f"more than {form.bytes} bytes", max_bytes=form.bytes)


class _Files:
    """The files of a request, as they come."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._name = ""
        self._file: BinaryIO = io.BytesIO()
        self.uploads: list[Upload] = []
        self.num_bytes = 0

    def begin(self, name: str) -> None:
        """Begin a file. Raises Problem when it is one too many."""
        if len(self.uploads) == self._form.files:
            raise Problem("too-large", f"more than {self._form.files} files", max_files=self._form.files)
        self._name = name
        self._file = self._path.open("xb") if self._form.folder else io.BytesIO()

    def write(self, piece: bytes) -> None:
        """Take more of the file."""
        self.num_bytes += self._file.write(piece)

    def end(self) -> None:
        """End the file."""
        content = self._file.getvalue() if isinstance(self._file, io.BytesIO) else self._path
        self._file.close()
        self.uploads.append(Upload(self._name, content))

    def close(self) -> None:
        """Close a file that was not ended."""
        self._file.close()

    @property
    def _path(self) -> Path:
        assert self._form.folder
        return self._form.folder / str(len(self.uploads))


class _FormReader:
    """Reads a form of several parts, piece by piece, and makes files of its parts."""

    def __init__(self, boundary: bytes, field: str, files: _Files) -> None:
        if not boundary:
            raise Problem("bad-request", "the form has no boundary")
        self._field, self._files = field, files
        self._header, self._value, self._disposition = b"", b"", b""
        self._is_whole = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_header_field": self._add_to_header,
                "on_header_value": self._add_to_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._begin_part,
                "on_part_data": lambda data, start, end: files.write(data[start:end]),
                "on_part_end": files.end,
                "on_end": self._end,
            },
        )

    def write(self, piece: bytes) -> None:
        """Read more of the form. Raises FormParserError when it is damaged, and Problem as `_Files` does."""
        self._parser.write(piece)

    def finish(self) -> None:
        """Raise Problem when the form is not whole."""
        if not self._is_whole:
            raise Problem("bad-request", "the form ends too early")

    def _add_to_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def _begin_part(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._disposition = b""
        if (field := _text(options.get(b"name", b""))) != self._field:
            raise Problem("bad-request", f"the form has a field {shown(field)}; expected {self._field!r}")
        self._files.begin(_text(options.get(b"filename", b"")) or NAMELESS)

    def _end(self) -> None:
        self._is_whole = True


def _text(encoded: bytes) -> str:
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        return encoded.decode("latin-1")

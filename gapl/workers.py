"""Processes that read, decode and view images, so that a file that breaks a decoder costs that one image.

A process that crashes, needs more memory than it may, or takes too long is replaced, and the others go on. It is
no sandbox: whoever takes over a decoder may do what the user may. docs/security.md says what is promised.
"""

from __future__ import annotations

import argparse
import atexit
import hashlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import SimpleQueue

from PIL import Image

from gapl.decode import UnreadableImage, allow_pixels, decode_image, to_rgb
from gapl.detector import Seen, read_image, seeing
from gapl.inputs.input import Input, read_within
from gapl.origin import Finding, read_origin
from gapl.pixels import PixelSpec
from gapl.thumbnail import Thumbnail, make_thumbnail

STARTED = "started"  # the first message of a process
MOST_BYTES = 256 << 20  # of images that were read, and that no process has looked at
REFUSALS = (UnreadableImage, OSError, MemoryError)  # of one image
START_SECONDS = 120.0  # in which it comes
END_SECONDS = 1.0  # that a process has to end by itself
SPARE_BYTES = 1 << 30  # that a process may have beside the pixels of an image
BYTES_PER_PIXEL = 16  # of the largest image; --max-megapixels says the same


@dataclass(frozen=True)
class Look:
    """What was seen of an image, or why nothing was.

    sha256     of its encoded bytes; empty when they could not be read
    seen       None where there is an error, and where the content was seen before
    thumbnail  None there, too, and where none was asked for
    picture    the whole image in RGB, as the detector sees it; None there, too, and where none was asked for
    origin     what the file says about its origin; None: nobody asked, or it could not be read
    """

    sha256: str
    seen: Seen | None = None
    thumbnail: Thumbnail | None = None
    error: str = ""
    origin: tuple[Finding, ...] | None = None
    picture: Image.Image | None = None


@dataclass(frozen=True)
class Besides:
    """What is made of each content besides what the detector looks at.

    thumbnails  a small copy of it
    pictures    the whole image
    trusted     certificates in PEM, of those whose signatures are trusted where the origin is read
    """

    thumbnails: bool = False
    pictures: bool = False
    trusted: str = ""


class Looker:
    """Looks at images in this process: at each content once, or, where `known` is None, whenever it comes."""

    def __init__(
        self,
        pixel: PixelSpec,
        *,
        known: Iterable[str] | None,
        besides: Besides,
    ) -> None:
        self._besides = besides
        self._see, self._seen = seeing(pixel), set(known or ())
        self._picture = partial(to_rgb, conversion=pixel.conversion) if besides.pictures else None
        self._remembers = known is not None
        self._shown: set[str] = set()

    def look(self, read: Callable[[], bytes], *, explain: bool) -> Look:
        """Look at the image whose encoded bytes can be read so; `explain`: also at what it says of its origin."""
        sha256, seen, thumbnail, origin, picture = "", None, None, None, None
        try:
            encoded = read()
            sha256 = hashlib.sha256(encoded).hexdigest()
            origin = tuple(read_origin(encoded, trusted=self._besides.trusted)) if explain else None
            if self._besides.thumbnails and sha256 not in self._shown:
                thumbnail = _small(encoded)
                self._shown.add(sha256)
            if sha256 not in self._seen:
                if self._picture:
                    image = decode_image(encoded)
                    seen, picture = self._see(image), self._picture(image)
                else:
                    seen = self._see(encoded)
                if self._remembers:
                    self._seen.add(sha256)
        except REFUSALS as error:
            return Look(sha256, error=_reason(error), origin=origin)
        return Look(sha256, seen, thumbnail, origin=origin, picture=picture)


def _small(encoded: bytes) -> Thumbnail | None:
    try:
        return make_thumbnail(encoded)
    except (UnreadableImage, MemoryError):  # its verdict says so, or is of a run that had more of it
        return None


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "not enough memory to judge it"
    return str(error.strerror or error) if isinstance(error, OSError) else str(error)


@dataclass(frozen=True)
class Limits:
    """What a process may take for an image."""

    megapixels: float
    seconds: float

    @property
    def bytes(self) -> int:
        """Return how much more memory a process may have than when it started."""
        return SPARE_BYTES + int(BYTES_PER_PIXEL * self.megapixels * 1e6)


def limits_of(args: argparse.Namespace) -> Limits:
    """Return the limits that the options of a command line ask for."""
    return Limits(args.max_megapixels, args.max_seconds)


Content = Input | Path | bytes | Look  # an image, what a process gets of it, or why nothing can be seen


class Workers:
    """Looks at images in `num_workers` processes; with 0 of them, in a thread of this process, without limits.

    Threads may share it. Leaving the block ends the processes at once.
    """

    def __init__(
        self,
        num_workers: int,
        *,
        pixel: PixelSpec,
        limits: Limits,
        known: Iterable[str] | None = (),
        explain: bool = False,
        besides: Besides = Besides(),
    ) -> None:
        """Take what a detector looks at, and which contents need not be seen again.

        known       their SHA-256; None: a content is seen whenever it comes, and none is remembered
        explain     whether `look` reads what each file says about its origin
        """
        remembered = None if known is None else frozenset(known)
        make_looker = partial(Looker, pixel, known=remembered, besides=besides)
        self._looker, self._explain = make_looker(), explain
        self._threads = ThreadPoolExecutor(max(1, num_workers))
        self._idle: SimpleQueue[_Process] = SimpleQueue()
        self._processes = [_Process(make_looker, limits) for _ in range(num_workers)]
        for process in self._processes:
            self._idle.put(process)
        atexit.register(self._stop)  # multiprocessing would ask them to end, which they do not hear, and wait

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_error: object) -> None:
        atexit.unregister(self._stop)
        self._stop()
        self._threads.shutdown(wait=bool(self._processes), cancel_futures=True)
        for process in self._processes:
            process.clear()

    def _stop(self) -> None:
        for process in self._processes:
            process.stop()

    def look(self, images: Iterable[Input], *, ahead: int) -> Iterator[Look]:
        """Yield a look at each image, in their order. Up to `ahead` and one for each process are in memory.

        The first look at a content has what was seen; later ones may have it, too.
        """
        waiting: deque[tuple[Future[Look], int]] = deque()
        num_bytes = 0  # of images that were read here
        for image in images:
            content = self._content(image)
            size = len(content) if isinstance(content, bytes) else 0
            waiting.append((self._threads.submit(self._look, content, self._explain), size))
            num_bytes += size
            while len(waiting) >= ahead + len(self._processes) or num_bytes > MOST_BYTES:
                future, size = waiting.popleft()
                num_bytes -= size
                yield future.result()
        yield from (future.result() for future, _ in waiting)

    def submit(self, image: Input | bytes, *, explain: bool = False) -> Future[Look]:
        """Look at an image, or at its encoded bytes. What was seen of its content before may be left out."""
        return self._threads.submit(self._look, self._content(image), explain)

    def _content(self, image: Input | bytes) -> Content:
        """Return what a process is to look at. It reads files; what else holds images is read here, in order."""
        if isinstance(image, bytes) or not self._processes:
            return image
        if image.file:
            return image.file
        try:
            return read_within(image)
        except REFUSALS as error:
            return Look("", error=_reason(error))

    def _look(self, content: Content, explain: bool) -> Look:
        if isinstance(content, Look):
            return content
        if not self._processes:
            read = partial(read_within, content) if isinstance(content, Input) else partial(read_image, content)
            return self._looker.look(read, explain=explain)
        assert not isinstance(content, Input)
        process = self._idle.get()
        try:
            return process.look(content, explain=explain)
        finally:
            self._idle.put(process)


class _Process:
    """A process that looks at one image after the other. It is started when it is needed."""

    def __init__(self, make_looker: Callable[[], Looker], limits: Limits) -> None:
        self._arguments = (make_looker, limits)
        self._seconds = limits.seconds
        self._lock = threading.Lock()  # held by who starts or ends the process
        self._is_over = False
        self._connection: Connection | None = None
        self._process: BaseProcess | None = None

    def look(self, image: Path | bytes, *, explain: bool) -> Look:
        """Look at an image. Raises OSError when no process can be started."""
        with self._lock:
            connection = self._connected()
        try:
            connection.send((image, explain))
            if connection.poll(self._seconds):
                look: Look = connection.recv()
                return look
        except (EOFError, OSError):
            with self._lock:
                return Look("", error=f"what decodes it {self._end()}")
        with self._lock:
            self._end()
        return Look("", error=f"took longer than {self._seconds:g} s")

    def stop(self) -> None:
        """End the process, whatever it does, and start no other."""
        with self._lock:
            self._is_over = True
            if self._process:
                self._process.kill()  # whoever waits for it sees that it has ended

    def clear(self) -> None:
        """Leave nothing of the process behind; nobody may wait for it any more."""
        with self._lock:
            if self._connection:
                self._end()

    def _connected(self) -> Connection:
        if self._is_over:
            raise OSError("the processes that decode images were ended")
        if self._process and not self._process.is_alive():
            self._end()
        if not self._connection:
            self._connection = self._start()
        return self._connection

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")  # other threads of this process may hold locks: no fork
        connection, end_of_child = context.Pipe()
        process = context.Process(target=_serve, args=(end_of_child, *self._arguments), daemon=True)
        try:
            with _no_interrupts():
                process.start()
        except OSError:
            connection.close()
            raise
        finally:
            end_of_child.close()
        self._process = process
        try:
            if connection.poll(START_SECONDS) and connection.recv() == STARTED:
                return connection
        except (EOFError, OSError):
            pass
        self._connection = connection
        raise OSError(f"a process that decodes images could not be started; it {self._end()}")

    def _end(self) -> str:
        """End the process and say how it ended."""
        assert self._process
        assert self._connection
        if self._connection.poll():  # its end is closed: it is about to end
            self._process.join(END_SECONDS)
        self._process.kill()
        self._process.join()
        self._connection.close()
        code = self._process.exitcode or 0
        self._process = self._connection = None
        return f"crashed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Have processes that start in the block ignore Ctrl-C from their first moment on: their parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # it would let Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---------------------------------------------------------------------------------------------------------
# In the process


def _serve(connection: Connection, make_looker: Callable[[], Looker], limits: Limits) -> None:
    """Look at the images that come through the connection, until it is closed."""
    for each in (signal.SIGINT, signal.SIGTERM):  # the parent, which gets them too, finishes what it has begun
        signal.signal(each, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    allow_pixels(limits.megapixels)
    Image.init()  # now, and not in the time of the first image
    looker = make_looker()
    _limit_memory(limits.bytes)
    connection.send(STARTED)
    while True:
        try:
            image, explain = connection.recv()
        except EOFError:
            return
        connection.send(looker.look(partial(read_image, image), explain=explain))


def _end_with_parent() -> None:
    """End this process when its parent ends, even where it decodes for ever."""
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)


def _limit_memory(more_bytes: int) -> None:
    """Refuse this process more memory than so much on top of what it has, and let no crash write it to disk."""
    if sys.platform != "linux":  # elsewhere the limit is not kept, or not there
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = min(
        pages * resource.getpagesize() + more_bytes, sys.maxsize if most == resource.RLIM_INFINITY else most
    )
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))

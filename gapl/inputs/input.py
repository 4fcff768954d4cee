"""An image that is not read yet: a name, and a way to read its encoded bytes."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

READ_SECONDS = 120  # that reading an image may take


@dataclass(frozen=True)
class Input:
    """An image that is not read yet.

    name   what rows call it
    read   returns its encoded bytes; raises UnreadableImage or OSError
    file   the file that it is, if it is one of its own
    """

    name: str
    read: Callable[[], bytes]
    file: Path | None = None


def file_input(path: Path) -> Input:
    """Return the input that is this file, whether it is there or not."""
    return Input(str(path), partial(_read_file, path), path)


def _read_file(path: Path) -> bytes:
    from gapl.detector import read_image

    return read_image(path)


def refused_input(name: str, reason: str) -> Input:
    """Return an input that cannot be read, for this reason."""
    return Input(name, partial(_refuse, reason))


def _refuse(reason: str) -> bytes:
    from gapl.decode import UnreadableImage

    raise UnreadableImage(reason)


def read_within(image: Input, *, seconds: float = READ_SECONDS) -> bytes:
    """Read an input, and give up after so many seconds, as where a network share hangs.

    Raises what the input's `read` does, and UnreadableImage when it takes longer; its thread then goes on waiting.
    """
    from gapl.decode import UnreadableImage

    done: Future[bytes] = Future()
    threading.Thread(target=_run, args=(image.read, done), daemon=True).start()
    try:
        return done.result(seconds)
    except TimeoutError:
        if done.done():  # the system's own, such as that of a network share
            raise
        raise UnreadableImage(f"reading it took longer than {seconds:g} s") from None


def _run(read: Callable[[], bytes], done: Future[bytes]) -> None:
    try:
        done.set_result(read())
    except BaseException as error:  # for whoever waits for the result
        done.set_exception(error)


def require(package: str, module: str, *, what: str) -> None:
    """Raise ValueError, one line, when the package that `what` needs is not installed."""
    if importlib.util.find_spec(module) is None:
        raise ValueError(f"{what} needs the package {package}; install it: pip install {package}")


# ---------------------------------------------------------------------------------------------------------
# Files that hold several images

Open = Callable[
    [], AbstractContextManager[Callable[[Any], bytes]]
]  # a file, and what reads an image of it by its key


def inputs_in(named: Sequence[tuple[str, Any]], open: Open) -> list[Input]:
    """Return the inputs of a file that holds several.

    named   (name, key) of each, in the order in which they are read fastest
    open    opens the file, and yields what reads an image by its key
    """
    file = _File(open)
    last = len(named) - 1
    return [Input(name, partial(file.read, key, is_last=i == last)) for i, (name, key) in enumerate(named)]


class _File:
    """A file of several images. It is opened for the first that is read, and closed after the last."""

    def __init__(self, open: Open) -> None:
        self._open = open
        self._opened = ExitStack()
        self._read: Callable[[Any], bytes] | None = None
        self._reading = threading.Lock()

    def __reduce__(self) -> tuple[type[_File], tuple[Open]]:
        """Be pickled as a file that is not open."""
        return _File, (self._open,)

    def read(self, key: Any, *, is_last: bool) -> bytes:
        """Return the encoded image of a key. Raises UnreadableImage or OSError."""
        with _unless_busy(self._reading):
            try:
                if self._read is None:
                    self._read = self._opened.enter_context(self._open())
                return self._read(key)
            finally:
                if is_last:
                    self._read = None
                    self._opened.close()


@contextmanager
def _unless_busy(lock: threading.Lock) -> Iterator[None]:
    """Hold a lock. Raises UnreadableImage when an earlier image is still being read: that one took too long."""
    from gapl.decode import UnreadableImage

    if not lock.acquire(blocking=False):
        raise UnreadableImage("the file that holds it hangs: an image before this one is still being read")
    try:
        yield
    finally:
        lock.release()

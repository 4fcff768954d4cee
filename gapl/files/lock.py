"""Locks of files and folders. They end with the process that holds them, however it ends."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PATIENCE_S = 10  # the processes that a killed one had started may hold its locks for five seconds


def lock(path: Path, *, wait: bool = False) -> int | None:
    """Lock a file or folder for this process, until the descriptor that is returned is closed.

    wait   until no other process holds it

    None: another process holds it, it is gone, or there are no such locks here.
    """
    try:
        return _lock(path, wait=wait)
    except OSError:
        return None


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make a folder, and lock it during the block. Where there are no such locks it is only made.

    Raises ValueError when another process goes on to hold it for PATIENCE_S.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = _lock_in_time(folder)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock_in_time(folder: Path) -> int | None:
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return _lock(folder, wait=False)
        except BlockingIOError as error:
            if time.monotonic() > until:
                raise ValueError(
                    f"{folder} is used by another run; wait for it, or name another folder"
                ) from error
        except OSError:  # some network file systems lock no folders
            return None
        time.sleep(0.1)


def _lock(path: Path, *, wait: bool) -> int | None:
    """Return what `lock` does. Raises OSError when it cannot be locked, BlockingIOError when it is held."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    with ExitStack() as undo:
        descriptor = os.open(path, os.O_RDONLY)
        undo.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        undo.pop_all()
    return descriptor

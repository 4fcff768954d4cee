"""Locks of files and folders. They end with the process that holds them, however it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


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
    """Lock a folder during the block. Raises ValueError when another process holds it.

    Where there are no such locks, nothing is held.
    """
    with ExitStack() as held:
        try:
            descriptor = _lock(folder, wait=False)
        except BlockingIOError as error:
            raise ValueError(f"{folder} is used by another run; wait for it, or name another folder") from error
        except OSError:  # some network file systems lock no folders
            descriptor = None
        if descriptor is not None:
            held.callback(os.close, descriptor)
        yield


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

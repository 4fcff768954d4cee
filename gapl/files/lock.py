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
        import fcntl
    except ImportError:  # Windows
        return None
    with ExitStack() as undo:
        try:
            descriptor = os.open(path, os.O_RDONLY)
            undo.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            return None
        undo.pop_all()
    return descriptor


@contextmanager
def alone_in(folder: Path, *, what: str) -> Iterator[None]:
    """Make a folder, and lock it for as long as the context lasts; where there are no such locks it is only made.

    what   another process would be doing with it, such as "trained into"

    Raises ValueError, one line, when another process goes on to hold it for PATIENCE_S.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        if os.name == "posix":
            descriptor = os.open(folder, os.O_RDONLY)
            held.callback(os.close, descriptor)
            until = time.monotonic() + PATIENCE_S
            while _is_held(descriptor):
                if time.monotonic() > until:
                    raise ValueError(f"{folder} is being {what} by another process; wait for it, or name another")
                time.sleep(0.1)
        yield


def _is_held(descriptor: int) -> bool:
    """Lock what is open, unless another process holds it; return whether one does."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    return False

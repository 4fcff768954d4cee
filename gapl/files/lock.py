"""Locks of files and folders. They end with the process that holds them, however it ends."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path


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

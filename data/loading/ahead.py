"""An iterator that works ahead in a thread, so that reading goes on while batches are used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")


def read_ahead(items: Iterator[Item], *, depth: int) -> Iterator[Item]:
    """Yield items that a thread makes, `depth` of them ahead; what is raised there is raised here.

    The thread ends when this iterator is closed or collected.
    """
    made: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    room, stopped = threading.Semaphore(depth), threading.Event()

    def make() -> None:
        try:
            while room.acquire() and not stopped.is_set():
                made.put((next(items), None))
        except BaseException as error:  # to be raised where it is seen
            made.put((None, error))

    threading.Thread(target=make, name="read_ahead", daemon=True).start()
    try:
        while True:
            item, error = made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                try:
                    raise error
                finally:
                    del error  # its traceback leads to this frame: a loader would outlive its use by the cycle
            room.release()
            yield item
    finally:
        stopped.set()
        room.release()

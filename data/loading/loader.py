"""Load batches: lists are made ahead in a thread, and worker processes turn them into batches."""

from __future__ import annotations

import atexit
import multiprocessing
import queue
import signal
import threading
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

LISTS_PER_WORKER = 2  # that a worker has in hand and before it
Item = TypeVar("Item")


def batch_loader(dataset: Dataset[Any], batches: Iterable[list[Any]], *, num_workers: int) -> DataLoader[Any]:
    """Send each list to a worker process (0: this one) and yield what the dataset makes of it, in order."""
    _end_workers_at_exit()
    return DataLoader(
        dataset,
        batch_sampler=batches,  # torch only iterates over it
        num_workers=num_workers,
        prefetch_factor=LISTS_PER_WORKER if num_workers else None,
        collate_fn=_as_it_is,
        worker_init_fn=_leave_signals_to_parent,
        pin_memory=torch.cuda.is_available(),
        # Its own generator: making a loader must not move torch's global one.
        generator=torch.Generator().manual_seed(0),
    )


def _leave_signals_to_parent(_worker: int) -> None:
    """Ignore Ctrl-C and SIGTERM, which reach all processes of a group; the parent ends its workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@cache
def _end_workers_at_exit() -> None:
    """Kill workers that are left at the interpreter's end.

    An exception may hold a loader until then, and multiprocessing would send SIGTERM to the workers, which ignore
    it, and wait for them.
    """
    atexit.register(_end_workers)


def _end_workers() -> None:
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's raises an error of its own
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


def _as_it_is(batch: Any) -> Any:
    return batch


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

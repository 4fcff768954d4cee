"""Encoded images on their way to worker processes: by memory both can reach, not through a pipe.

A loader sends what its workers work on through a pipe of 64 KB, which an image of megabytes fills twenty times,
waking reader and writer in turn. Here the bytes go to memory files that the worker reads, and only their place
goes through the pipe. The files are anonymous: they need neither a disk nor the limited /dev/shm of a container.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data.loaders import Sample


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes in a memory file of another process of this machine and user."""

    path: str
    start: int
    num_bytes: int

    def read(self) -> bytes:
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            encoded = os.pread(descriptor, self.num_bytes, self.start)
        finally:
            os.close(descriptor)
        assert len(encoded) == self.num_bytes, f"{self.path} was used again too early"
        return encoded


def place_in_memory(lists: Iterable[Sequence[Sample]], *, max_lists: int) -> Iterator[list[Sample]]:
    """The lists of samples with their bytes placed in memory files, each list in one of its own.

    A file is used again `max_lists` lists later: the caller asks for a list only when all but the last
    `max_lists` - 1 are done with. Where the system has no memory files, the lists come as they are.
    """
    if not hasattr(os, "memfd_create"):
        yield from map(list, lists)
        return
    with ExitStack() as stack:
        files = [stack.enter_context(os.fdopen(os.memfd_create("images"), "wb")) for _ in range(max_lists)]
        paths = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in files]
        for number, samples in enumerate(lists):
            file, path = files[number % max_lists], paths[number % max_lists]
            file.seek(0)
            placed = []
            for sample in samples:
                if isinstance(sample.encoded, bytes):
                    placed.append(replace(sample, encoded=Place(path, file.tell(), len(sample.encoded))))
                    file.write(sample.encoded)
                else:
                    placed.append(sample)
            file.flush()
            yield placed

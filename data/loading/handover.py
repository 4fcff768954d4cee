"""Encoded images on their way to worker processes: by memory both can reach, not through a pipe.

A loader sends what its workers work on through a pipe of 64 KB, which an image of megabytes fills twenty times,
waking reader and writer in turn. Here the bytes go to memory files that the worker reads, and only their place
goes through the pipe. The files are anonymous: they need neither a disk nor the limited /dev/shm of a container.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from data.loading.batches import Sample


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


@dataclass(frozen=True, slots=True)
class Lost:
    """In the place of an image's bytes: why they could not be read."""

    reason: str

    def read(self) -> bytes:
        raise OSError(self.reason)


class PlacedLists:
    """Iterates over the lists of samples with their bytes placed in memory files, each list in one of its own.

    A file is used again `max_lists` lists later: the caller asks for a list only when all but the last
    `max_lists` - 1 are done with. The files live as long as this iterator, also when the lists have ended: workers
    may still be reading the last. Where the system has no memory files, the lists come as they are.
    """

    def __init__(self, lists: Iterable[Sequence[Sample]], *, max_lists: int) -> None:
        can_place = hasattr(os, "memfd_create")
        self._files = [os.fdopen(os.memfd_create("images"), "wb") for _ in range(max_lists * can_place)]
        self._numbered = enumerate(lists)
        weakref.finalize(self, _close, self._files)

    def __iter__(self) -> Iterator[list[Sample]]:
        return self

    def __next__(self) -> list[Sample]:
        number, samples = next(self._numbered)
        if not self._files:
            return list(samples)
        file = self._files[number % len(self._files)]
        file.seek(0)
        placed = [_place(sample, file) for sample in samples]
        file.flush()
        return placed


def _place(sample: Sample, file: BinaryIO) -> Sample:
    if not isinstance(sample.encoded, bytes):
        return sample
    place = Place(f"/proc/{os.getpid()}/fd/{file.fileno()}", file.tell(), len(sample.encoded))
    file.write(sample.encoded)
    return replace(sample, encoded=place)


def _close(files: Sequence[BinaryIO]) -> None:
    for file in files:
        file.close()

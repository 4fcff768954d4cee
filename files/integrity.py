"""Is a file of weights whole? Checksums of its parts."""

from __future__ import annotations

import mmap
import os
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Span:
    """Bytes of a file and the CRC-32 that they should have."""

    name: str
    start: int
    size: int
    crc32: int


class Check:
    """The checksums of a file's spans, computed in threads from the moment that it is made until it is waited for.

    zlib releases the interpreter's lock, so that this costs little while libraries are imported. A span is taken
    whole, from mapped memory: every return to the interpreter may wait for its lock.
    """

    def __init__(self, path: Path, spans: list[Span]) -> None:
        with path.open("rb") as file:
            self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._bytes = memoryview(self._mapped)
        self._waiting = deque(spans)
        self._damaged: list[Span] = []
        self._pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="checksum")
        self._workers = [self._pool.submit(self._work) for _ in range(os.cpu_count() or 1)]

    def _work(self) -> None:
        with suppress(IndexError):  # no span is left
            while True:
                span = self._waiting.popleft()
                if zlib.crc32(self._bytes[span.start : span.start + span.size]) != span.crc32:
                    self._damaged.append(span)

    def wait(self) -> None:
        """Raises ValueError that names the first span whose bytes are not those that were written."""
        for worker in self._workers:
            worker.result()
        self._pool.shutdown()
        self._bytes.release()
        self._mapped.close()
        if self._damaged:
            first = min(self._damaged, key=lambda span: span.start)
            raise ValueError(f"damaged: the checksum of {first.name!r} is not that of its bytes")

"""How much the service takes at a time. What is beyond is refused before anything is decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from gapl.serving.problems import Problem

MOST = 1 << 53  # of any limit
WEIGHT = 0.2  # of the last batch, in the mean time that an image takes


@dataclass(frozen=True)
class Positive:
    """Limits, each of which is above 0."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if not 0 < (value := getattr(self, each.name)) <= MOST:
                raise ValueError(f"{each.name} is above 0, not {value}")


@dataclass(frozen=True)
class RequestLimits(Positive):
    """What `/v1/detect` takes.

    files             of a request
    bytes             of a request
    upload_seconds    that receiving a request may take
    uploads           requests at a time
    memory_bytes      of all of them
    waiting           images at a time
    deadline_seconds  from the end of the upload to the answer
    """

    files: int = 16
    bytes: int = 64 << 20
    upload_seconds: float = 60
    uploads: int = 64
    memory_bytes: int = 512 << 20
    waiting: int = 64
    deadline_seconds: float = 30

    def __post_init__(self) -> None:
        super().__post_init__()
        for one, other in (("files", "waiting"), ("bytes", "memory_bytes")):
            if getattr(self, one) > getattr(self, other):
                raise ValueError(f"{one} is at most {other}, which is {getattr(self, other)}")


@dataclass(frozen=True)
class BatchLimits(Positive):
    """What `/v1/batches` takes.

    files           of a request
    images          in all of its files together
    image_bytes     of an image in an archive
    bytes           of a request
    upload_seconds  that receiving a request may take
    uploads         requests at a time
    waiting         jobs of one token that are not done
    keep_hours      until a job that is done, or was never begun, is deleted
    lease_seconds   after which a service that is silent has lost its job to another
    """

    files: int = 10_000
    images: int = 10_000
    image_bytes: int = 64 << 20
    bytes: int = 1 << 30
    upload_seconds: float = 900
    uploads: int = 2
    waiting: int = 16
    keep_hours: float = 24
    lease_seconds: float = 30


@dataclass(frozen=True)
class ExplorationLimits(Positive):
    """What `/v1/explore` takes; its uploads are those of `/v1/detect`.

    waiting           images at a time
    deadline_seconds  from the end of the upload to the answer
    megapixels        of an image, all of which is in memory while it is explored
    """

    waiting: int = 4
    deadline_seconds: float = 120
    megapixels: float = 50


@dataclass(frozen=True)
class DecodeLimits(Positive):
    """What decoding an image may take: pixels, and seconds of a process."""

    megapixels: float = 100
    seconds: float = 20


class Gate:
    """Lets in so many requests, of so many bytes together, at a time."""

    def __init__(self, *, requests: int, num_bytes: int) -> None:
        self._free, self._free_bytes = requests, num_bytes

    @contextmanager
    def entered(self, num_bytes: int) -> Iterator[Callable[[int], None]]:
        """Take a place while the block lasts, where so many bytes are free.

        The block is given what takes them, as they come: grow(total), for so many in all. Both raise Problem when
        there is no room.
        """
        taken = 0

        def grow(total: int) -> None:
            nonlocal taken
            more = max(0, total - taken)
            if more > self._free_bytes:
                raise _too_many_uploads()
            self._free_bytes, taken = self._free_bytes - more, taken + more

        if not self._free or num_bytes > self._free_bytes:
            raise _too_many_uploads()
        self._free -= 1
        try:
            yield grow
        finally:
            self._free, self._free_bytes = self._free + 1, self._free_bytes + taken


def _too_many_uploads() -> Problem:
    return Problem("overloaded", "as many uploads as may be are under way", retry_after_s=1)


class Admission:
    """Lets in as many images as can wait, and none that those before them would keep waiting for too long."""

    def __init__(self, *, waiting: int, deadline_s: float) -> None:
        self.num = 0  # of images that wait, or are being judged
        self._most, self._deadline_s = waiting, deadline_s
        self._image_s = 0.0  # that an image takes; 0: none was judged yet

    @contextmanager
    def admitted(self, num: int) -> Iterator[None]:
        """Let so many images wait while the block lasts. Raises Problem as `check` does."""
        self.check(num)
        self.num += num
        try:
            yield
        finally:
            self.num -= num

    def check(self, num: int = 1) -> None:
        """Raise Problem when so many images cannot be let in now."""
        wait_s = self.num * self._image_s
        if self.num + num > self._most or wait_s > self._deadline_s:
            raise Problem("overloaded", f"{self.num} images wait already", retry_after_s=wait_s)

    def note_batch(self, num: int, seconds: float) -> None:
        """Note how long a batch took."""
        image_s = seconds / num
        self._image_s = image_s if not self._image_s else (1 - WEIGHT) * self._image_s + WEIGHT * image_s

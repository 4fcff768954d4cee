"""A line of images that wait for the detector, which judges them in batches, in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from gapl.detector import Detector, Judged, Seen
from gapl.engine import Outcome


@dataclass(frozen=True)
class Wish:
    """How an image is to be judged.

    operating_point  whose threshold decides; empty: the thresholds of the detector do
    explain          whether the verdict is explained
    """

    operating_point: str = ""
    explain: bool = False


@dataclass(frozen=True)
class _Waiting:
    seen: Seen
    wish: Wish
    verdict: Future[Judged] = field(default_factory=Future)


@dataclass(frozen=True)
class _Passes:
    pixels: np.ndarray
    outcome: Future[Outcome] = field(default_factory=Future)


class Line:
    """Images wait here. Those of requests are judged first, then passes of explorations, then images of jobs.

    A batch is what waits when the one before it is done, up to `batch_size` images of one wish: no image waits for
    others to come. An image whose future was cancelled is not judged. Threads may share a line.
    """

    def __init__(self, detector: Detector, *, batch_size: int, note_batch: Callable[[int, float], None]) -> None:
        """Begin to judge.

        batch_size  images that are judged at once
        note_batch  is told of each batch: images and seconds
        """
        calibration = detector.info.calibration
        names = calibration.operating_points if calibration else ()
        self.detectors = {"": detector} | {name: detector.deciding_by(name) for name in names}
        self._batch_size, self._note_batch = batch_size, note_batch
        self._requests: deque[_Waiting] = deque()
        self._passes: deque[_Passes] = deque()
        self._jobs: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="judge", daemon=True)
        self._thread.start()

    @property
    def operating_points(self) -> list[str]:
        """Return the names that a Wish may have."""
        return [name for name in self.detectors if name]

    def join(self, seen: Seen, wish: Wish, *, is_job: bool = False) -> Future[Judged]:
        """Have an image wait, and return what will be its verdict."""
        assert wish.operating_point in self.detectors
        waiting = _Waiting(seen, wish)
        with self._changed:
            assert not self._is_closed
            (self._jobs if is_job else self._requests).append(waiting)
            self._changed.notify()
        return waiting.verdict

    def compute(self, pixels: np.ndarray) -> Outcome:
        """Wait until no image of a request does, and return what comes of pixels_BCHW or pixels_BVCHW."""
        passes = _Passes(pixels)
        with self._changed:
            assert not self._is_closed
            self._passes.append(passes)
            self._changed.notify()
        return passes.outcome.result()

    def close(self) -> None:
        """Judge what waits, and end."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while self._is_open():
            if passes := self._next_passes():
                self._compute(passes)
            elif batch := self._next_batch():
                self._judge(batch)

    def _is_open(self) -> bool:
        """Wait until there is something to judge, and tell whether there is."""
        with self._changed:
            self._changed.wait_for(lambda: self._waits() or self._is_closed)
            return self._waits()

    def _waits(self) -> bool:
        return bool(self._requests or self._passes or self._jobs)

    def _next_passes(self) -> _Passes | None:
        """Take the passes that are computed next. There are none while an image of a request waits."""
        with self._changed:
            return self._passes.popleft() if self._passes and not self._requests else None

    def _next_batch(self) -> list[_Waiting]:
        """Take the images that are judged next. There are none where all were cancelled."""
        batch: list[_Waiting] = []
        with self._changed:
            line = self._requests or self._jobs
            while line and len(batch) < self._batch_size and (not batch or line[0].wish == batch[0].wish):
                each = line.popleft()
                if each.verdict.set_running_or_notify_cancel():
                    batch.append(each)
        return batch

    def _compute(self, passes: _Passes) -> None:
        try:
            outcome = self.detectors[""].compute([Seen(each, ()) for each in passes.pixels])
        except Exception as error:  # for the exploration; this thread goes on
            passes.outcome.set_exception(error)
            return
        passes.outcome.set_result(outcome)

    def _judge(self, batch: list[_Waiting]) -> None:
        wish, seen = batch[0].wish, [each.seen for each in batch]
        detector = self.detectors[wish.operating_point]
        started = time.perf_counter()
        try:
            judged = detector.explain(seen) if wish.explain else list(map(Judged, detector.judge(seen)))
        except Exception as error:  # for those who wait; this thread goes on
            for each in batch:
                each.verdict.set_exception(error)
            return
        self._note_batch(len(batch), time.perf_counter() - started)
        for each, one in zip(batch, judged, strict=True):
            each.verdict.set_result(one)

"""Explores images of requests, one at a time: where in each the score comes from, and whether it is stable."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from gapl.detector import Detector, Judged
from gapl.engine import Outcome
from gapl.explain.exploring import explore
from gapl.explain.words import in_words
from gapl.results import Result
from gapl.serving.batching import Wish
from gapl.serving.judging import Judging, result_of
from gapl.serving.uploads import Upload
from gapl.workers import Besides, Limits, Look, Workers


class Over(Exception):
    """Nobody waits for an exploration any more."""


class Explorations:
    """Explores images in a thread of its own. Its passes wait in the line, behind the images of requests."""

    def __init__(self, judging: Judging, *, megapixels: float, note: Callable[[int, float], None]) -> None:
        """Take what judges images.

        megapixels  that an image may have
        note        is told of each exploration: 1, and its seconds
        """
        self._judging, self._note = judging, note
        self._limits = Limits(min(megapixels, judging.limits.megapixels), judging.limits.seconds)
        self._thread = ThreadPoolExecutor(1, "explore")

    async def explore(self, upload: Upload, wish: Wish) -> Result:
        """Return what is found of an image, when those before it are done. When it is cancelled, it stops."""
        is_over = threading.Event()
        try:
            return await asyncio.wrap_future(self._thread.submit(self._explore, upload, wish, is_over))
        finally:
            is_over.set()

    def close(self) -> None:
        """Wait for what is being computed."""
        self._thread.shutdown(cancel_futures=True)

    def _explore(self, upload: Upload, wish: Wish, is_over: threading.Event) -> Result:
        started = time.perf_counter()
        look = self._look(upload)
        if look.seen is None or look.picture is None:
            return result_of(upload.name, look)
        verdict, explanation = self._judging.line.join(look.seen, wish).result()
        found = {**(explanation or {}), **explore(self._detector(wish, is_over), look.picture)}
        found["in_words"] = in_words(found)
        self._note(1, time.perf_counter() - started)
        return result_of(upload.name, look, Judged(verdict, found))

    def _look(self, upload: Upload) -> Look:
        """Decode an image in a process that ends with it: what it holds of a large one is not kept."""
        assert isinstance(upload.content, bytes)
        pixel = self._judging.detector.pixel
        besides = Besides(pictures=True)
        with Workers(1, pixel=pixel, limits=self._limits, known=None, explain=True, besides=besides) as workers:
            return workers.submit(upload.content, explain=True).result()

    def _detector(self, wish: Wish, is_over: threading.Event) -> Detector:
        """Return the detector of a wish, whose passes the line computes until nobody waits for them."""
        line = self._judging.line

        def compute(pixels: np.ndarray) -> Outcome:
            if is_over.is_set():
                raise Over
            return line.compute(pixels)

        return line.detectors[wish.operating_point].computing_by(compute)

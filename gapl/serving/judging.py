"""Encoded images -> results, by processes that decode and the line before the detector."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

from gapl.detector import Detector, Judged
from gapl.files.checksum import sha256_of
from gapl.results import Method, Result
from gapl.serving.batching import Line, Wish
from gapl.serving.config import Setup
from gapl.serving.problems import Problem
from gapl.serving.uploads import Upload
from gapl.workers import Limits, Look, Workers


class Judging:
    """A loaded detector, and what stands before it."""

    def __init__(self, detector: Detector, setup: Setup, *, note_batch: Callable[[int, float], None]) -> None:
        """Start the processes that decode, and the line. Raises ValueError when verdicts cannot be explained."""
        _ = detector.explainer  # read now, and not in the time of the first request
        self.detector, self._setup = detector, setup
        self._sha256 = sha256_of(detector.file) if detector.file else ""
        self.limits = Limits(setup.config.decoding.megapixels, setup.config.decoding.seconds)
        self._open = ExitStack()
        workers = Workers(setup.num_workers, pixel=detector.pixel, limits=self.limits, known=None)
        self._workers = self._open.enter_context(workers)
        self.line = Line(detector, batch_size=setup.batch_size, note_batch=note_batch)
        self._open.callback(self.line.close)
        # Something to refuse for each process, so that it is there when the first image comes.
        for each in [workers.submit(b"") for _ in range(setup.num_workers)]:
            each.result()

    def wish(self, operating_point: str, *, explain: bool) -> Wish:
        """Return a wish. Raises Problem when the detector has no such operating point."""
        known = self.line.operating_points
        if operating_point and operating_point not in known:
            has = ", ".join(known) or "none: it is not calibrated"
            what = f"an unknown operating point; this detector has {has}"
            raise Problem("bad-request", what, operating_points=known)
        return Wish(operating_point, explain)

    def method(self, wish: Wish) -> Method:
        """Return how images are judged by a wish."""
        return Method(self._setup.model, self._sha256, self._setup.views, wish.operating_point)

    async def judge(self, uploads: Sequence[Upload], wish: Wish) -> list[Result]:
        """Return what is found of each upload, in their order. When it is cancelled, nothing more is begun."""
        return await asyncio.gather(*(self._judge(each, wish) for each in uploads))

    async def _judge(self, upload: Upload, wish: Wish) -> Result:
        assert isinstance(upload.content, bytes)
        look = await asyncio.wrap_future(self._workers.submit(upload.content, explain=wish.explain))
        if look.seen is None:
            return result_of(upload.name, look)
        judged = await asyncio.wrap_future(self.line.join(look.seen, wish))
        return result_of(upload.name, look, judged)

    def close(self) -> None:
        """Judge what waits, and end the processes."""
        self._open.close()


def result_of(name: str, look: Look, judged: Judged | None = None) -> Result:
    """Return what is found of an image of this name."""
    found = Result(name, look.sha256, None, look.error, origin=look.origin)
    return replace(found, **judged._asdict()) if judged else found

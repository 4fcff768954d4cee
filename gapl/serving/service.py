"""Whatever requests share: the detector, once it is loaded, the jobs, and what is let in."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from fastapi import Request

from gapl.detector import Detector
from gapl.results import Result
from gapl.serving.batching import Wish
from gapl.serving.config import Setup
from gapl.serving.database import DatabaseError
from gapl.serving.exploring import Explorations
from gapl.serving.job_files import JobFiles
from gapl.serving.jobs import STATES, Jobs, open_database
from gapl.serving.judging import Judging
from gapl.serving.limits import Admission, Gate
from gapl.serving.logs import log_event
from gapl.serving.metrics import Metrics
from gapl.serving.problems import Problem
from gapl.serving.runner import Runner
from gapl.serving.tokens import Tokens
from gapl.serving.uploads import Upload

log = logging.getLogger(__name__)

JOBS = "jobs.sqlite"  # in the folder of the setup, where no URL says otherwise
MARK = "queue"  # by this file in it, services know that they share the folder

T = TypeVar("T")


class Service:
    """What requests share. `error` is why the detector could not be loaded."""

    def __init__(self, load: Callable[[], Detector], setup: Setup) -> None:
        """Open the jobs. Raises ValueError or OSError when their database or folder cannot be used."""
        self._load, self.setup, self.config = load, setup, setup.config
        setup.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        limits, batches = self.config.requests, self.config.batches
        database = open_database(setup.jobs_url, file=setup.folder / JOBS)
        self.jobs, self.job_files = Jobs(database, lease_s=batches.lease_seconds), JobFiles(setup.folder)
        self.jobs.check_folder(setup.folder / MARK)
        self.tokens, self.metrics = Tokens(self.config.tokens), Metrics()
        self.admission = Admission(waiting=limits.waiting, deadline_s=limits.deadline_seconds)
        explorations = self.config.explorations
        self.explorations = Admission(waiting=explorations.waiting, deadline_s=explorations.deadline_seconds)
        self.gate = Gate(requests=limits.uploads, num_bytes=limits.memory_bytes)
        self.batch_gate = Gate(requests=batches.uploads, num_bytes=batches.uploads * batches.bytes)
        self.error: Exception | None = None
        self._judging: Judging | None = None
        self._exploring: Explorations | None = None
        self._runner: Runner | None = None
        self.metrics.watch("gapl_waiting_images", "Images of requests in the service", lambda: self.admission.num)
        waiting = "Images in the service that are explored, or wait for it"
        self.metrics.watch("gapl_waiting_explorations", waiting, lambda: self.explorations.num)
        self.metrics.watch("gapl_ready", "Whether the detector is loaded", lambda: self._judging is not None)
        for state in STATES:
            self.metrics.watch(f"gapl_jobs_{state}", f"Jobs that are {state}", partial(self._num_jobs, state))

    def _num_jobs(self, state: str) -> float:
        try:
            return self.jobs.num_in(state)
        except DatabaseError:
            return math.nan

    def start(self, *, on_error: Callable[[], None]) -> None:
        """Load the detector in a thread; `on_error` is called when that fails."""
        threading.Thread(target=self._start, args=(on_error,), name="load", daemon=True).start()

    def _start(self, on_error: Callable[[], None]) -> None:
        started = time.perf_counter()
        try:
            judging = Judging(self._load(), self.setup, note_batch=self._note_batch)
            megapixels = self.config.explorations.megapixels
            self._exploring = Explorations(judging, megapixels=megapixels, note=self.explorations.note_batch)
            self._runner = self._start_runner(judging)
        except Exception as error:
            self.error = error
            on_error()
            return
        self._judging = judging
        log_event(log, "ready", model=self.setup.model, seconds=round(time.perf_counter() - started, 2))

    def _start_runner(self, judging: Judging) -> Runner:
        runner = Runner(
            self.jobs,
            judging,
            files=self.job_files,
            limits=self.config.batches,
            batch_size=self.setup.batch_size,
            metrics=self.metrics,
        )
        runner.start()
        return runner

    def _note_batch(self, num: int, seconds: float) -> None:
        self.admission.note_batch(num, seconds)
        self.metrics.note_batch(num, seconds)

    @property
    def judging(self) -> Judging:
        """Return the loaded detector. Raises Problem while there is none."""
        if self._judging is None:
            raise Problem("not-ready", "it is being loaded")
        return self._judging

    async def judge(self, uploads: Sequence[Upload], wish: Wish) -> list[Result]:
        """Return what is found of each upload. Raises Problem when there is no room, or it takes too long."""
        with self.admission.admitted(len(uploads)):
            results = await _until(self.config.requests.deadline_seconds, self.judging.judge(uploads, wish))
        self.metrics.note_results(results)
        return results

    async def explore(self, upload: Upload, wish: Wish) -> Result:
        """Return what is found of an upload, with maps and re-saves. Raises Problem as `judge` does."""
        assert self._exploring
        with self.explorations.admitted(1):
            exploring = self._exploring.explore(upload, wish)
            result = await _until(self.config.explorations.deadline_seconds, exploring)
        self.metrics.note_results([result])
        return result

    def wake_runner(self) -> None:
        """Have a new job begun."""
        assert self._runner
        self._runner.wake()

    def close(self) -> None:
        """End what is going on in order; jobs go on when the service is started again."""
        if self._runner and not self._runner.stop():
            return  # the end of the process stops it
        if self._exploring:
            self._exploring.close()
        if self._judging:
            self._judging.close()
        self.jobs.close()


async def _until(deadline_s: float, work: Awaitable[T]) -> T:
    """Return what comes of some work. Raises Problem where it takes longer."""
    try:
        async with asyncio.timeout(deadline_s):
            return await work
    except TimeoutError:
        raise Problem("too-late", f"it took longer than {deadline_s:g} s") from None


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Return what comes of some work; where the client goes before, cancel it and raise Problem."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_wait_until_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Problem("client-gone", "before it was answered")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

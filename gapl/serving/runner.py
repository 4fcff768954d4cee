"""Does the jobs, one after the other, in a thread of its own; deletes what is kept no longer."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from gapl.detector import Judged
from gapl.files.refusal import first_line
from gapl.folders import Note, counted
from gapl.inputs.archives import LIMITS, list_archive
from gapl.inputs.input import Input, file_input, refused_input
from gapl.inputs.kinds import IMAGE, TAR, ZIP, kind_of, kind_of_name
from gapl.inputs.scan import Scan
from gapl.results import Result, mark_duplicates
from gapl.serving.batching import Wish
from gapl.serving.database import DatabaseError
from gapl.serving.job_files import JobFiles
from gapl.serving.jobs import Job, Jobs
from gapl.serving.judging import Judging, result_of
from gapl.serving.limits import BatchLimits
from gapl.serving.logs import FIELDS, log_event
from gapl.serving.metrics import Metrics
from gapl.serving.problems import Problem
from gapl.workers import Look, Workers

log = logging.getLogger(__name__)

MOST_STARTS = 3  # of a job: the service may have died of it
SWEEP_S = 60  # from one look for what is kept no longer to the next
STRAY_S = 600  # for which an upload that came in time may still become a job
STOP_S = 20  # that a job may take to stop; then the end of the process stops it


class Runner:
    """Does jobs until it is stopped. A job that it stops in goes on when it is started again."""

    def __init__(
        self,
        jobs: Jobs,
        judging: Judging,
        *,
        files: JobFiles,
        limits: BatchLimits,
        batch_size: int,
        metrics: Metrics,
    ) -> None:
        """Take what a service has.

        batch_size  images of a job that wait for the detector at a time
        """
        self._jobs, self._judging, self._files = jobs, judging, files
        self._limits, self._batch_size, self._metrics = limits, batch_size, metrics
        self._is_stopped = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """Look for a job now."""
        self._wake.set()

    def stop(self) -> bool:
        """End after the image that is being judged, and tell whether it has ended in time."""
        self._is_stopped = True
        self._wake.set()
        self._thread.join(STOP_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        swept = -math.inf
        while not self._is_stopped:
            self._wake.clear()
            job = None
            try:
                if time.monotonic() >= swept + SWEEP_S:
                    swept = time.monotonic()
                    self._delete_old()
                if job := self._jobs.take():
                    with self._held(job.id):
                        self._do(job)
            except Exception as error:  # such as that of a full disk, which may be over later
                log.error("failed", exc_info=error.__cause__ or error)
                job = None
            if job is None:
                self._wake.wait(self._jobs.poll_s)

    def _delete_old(self) -> None:
        """Delete jobs that are kept no longer, and uploads that were no job when a service was killed."""
        now = time.time()
        for id in self._jobs.older_than(now - 3600 * self._limits.keep_hours):
            self._jobs.delete(id)
            self._files.delete(id)
        for id in self._files.ids(before=now - self._limits.upload_seconds - STRAY_S) - self._jobs.ids():
            self._files.delete(id)

    @contextmanager
    def _held(self, id: str) -> Iterator[None]:
        """Renew the lease of a job while the block lasts."""
        over = threading.Event()

        def renew() -> None:
            while not over.wait(self._limits.lease_seconds / 3):
                try:
                    self._jobs.renew(id)
                except DatabaseError as error:
                    log.error("failed", exc_info=error.__cause__)

        thread = threading.Thread(target=renew, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _do(self, job: Job) -> None:
        """Do a job, and delete its files; or stop in it. Raises DatabaseError."""
        error = ""
        try:
            if job.starts > MOST_STARTS:
                raise ValueError(f"the service ended {job.starts - 1} times while it did this job")
            if not self._judge(job):
                return
        except DatabaseError:
            raise
        except (ValueError, OSError) as refusal:
            error = first_line(refusal)
        except Problem as problem:
            error = problem.detail
        except Exception:
            log.exception("failed", extra={FIELDS: {"job": job.id}})
            error = "the service made a mistake; its log says more"
        if error and self._is_stopped:  # it may come of the end: the next start tells
            return
        if self._jobs.end(job.id, now=time.time(), error=error):
            self._files.delete(job.id)
            log_event(log, "job", job=job.id, token=job.owner, failed=bool(error))

    def _judge(self, job: Job) -> bool:
        """Judge the images of a job that have no result yet, and tell whether it can be ended.

        Raises ValueError, OSError and Problem when there is nothing to judge, or it cannot be judged so.
        """
        wish = self._judging.wish(job.wish.operating_point, explain=job.wish.explain)
        method = self._judging.method(wish)
        self._jobs.begin(job.id, method=json.dumps(asdict(method)))
        scan = self._scan(job)
        self._jobs.note_images(job.id, len(scan.images), scan.left_out)
        judged = self._jobs.judged(job.id)
        begun = self._jobs.get(job.id)
        first = begun.num_found if begun else 0
        with closing(self._results(scan.images[first:], wish)) as found:
            for number, result in enumerate(mark_duplicates(found, judged), start=first):
                if not self._jobs.add_row(job.id, number, result.row(method)):
                    return False  # it was deleted, or another service has it
                self._metrics.note_results([result])
                if self._is_stopped:
                    self._jobs.pause(job.id)
                    return False
        return True

    def _results(self, images: Sequence[Input], wish: Wish) -> Generator[Result]:
        """Yield what is found of each image. A process of its own decodes them."""
        pixel, limits = self._judging.detector.pixel, self._judging.limits
        waiting: deque[tuple[str, Look, Future[Judged] | None]] = deque()
        with Workers(1, pixel=pixel, limits=limits, known=None, explain=wish.explain) as workers:
            for image, look in zip(images, workers.look(images, ahead=1), strict=True):
                verdict = self._judging.line.join(look.seen, wish, is_job=True) if look.seen else None
                waiting.append((image.name, look, verdict))
                while len(waiting) > self._batch_size:
                    yield _result(*waiting.popleft())
            while waiting:
                yield _result(*waiting.popleft())

    # -----------------------------------------------------------------------------------------------------
    # What was sent

    def _scan(self, job: Job) -> Scan:
        """Return the images of a job. Of several files, one that cannot be used is an image that cannot be read.

        Raises ValueError when there is no image, when there are too many, and when the only file cannot be used.
        """
        scan = Scan()
        names = self._jobs.uploads(job.id)
        for number, name in enumerate(names):
            path = self._files.path(job.id, number)
            try:
                found = self._inputs(path, name, scan.note)
                scan.images += found if found or len(names) == 1 else [refused_input(name, "no images in it")]
            except (ValueError, OSError) as error:
                reason = first_line(error).removeprefix(f"{path}: ")
                if len(names) == 1:
                    raise ValueError(f"{name}: {reason}") from error
                scan.images.append(refused_input(name, reason))
        if not scan.images:
            besides = f"; found {counted(scan.left_out)}" if scan.left_out else ""
            raise ValueError(f"no image files{besides}")
        if len(scan.images) > self._limits.images:
            raise ValueError(f"{len(scan.images)} images; a job has at most {self._limits.images}")
        return scan

    def _inputs(self, path: Path, name: str, note: Note) -> list[Input]:
        """Return the images in a file, called as it was when it was sent."""
        kind = kind_of_name(name) or kind_of(path)
        if kind not in (IMAGE, ZIP, TAR):
            raise ValueError(f"of the kind {kind}, which is not read here; images, zip and tar files are")
        if kind == IMAGE:
            return [replace(file_input(path), name=name)]
        limits = replace(LIMITS, members=2 * self._limits.images, member_bytes=self._limits.image_bytes)
        found = list_archive(path, kind, note=note, limits=limits)
        return [replace(each, name=name + each.name.removeprefix(str(path))) for each in found]


def _result(name: str, look: Look, verdict: Future[Judged] | None) -> Result:
    return result_of(name, look, verdict.result() if verdict else None)

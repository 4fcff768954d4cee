"""The routes of jobs: many files, or an archive of them, judged while nobody waits."""

from __future__ import annotations

import asyncio
import errno
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from gapl.results import COLUMNS, csv_line, csv_row
from gapl.serving import openapi
from gapl.serving.access import Caller, NoteOf, ServiceOf
from gapl.serving.database import DatabaseError
from gapl.serving.job_files import ID
from gapl.serving.jobs import DONE, Job, Jobs
from gapl.serving.problems import Problem
from gapl.serving.service import Service
from gapl.serving.uploads import Form, promised_bytes, read_uploads

FILE = "file"  # the field of a form that files are in
PATH = "/v1/batches"
RETRY_S = 60  # after which there may be room for another job

router = APIRouter()


class Format(StrEnum):
    """What results are written as."""

    JSONL = "jsonl"
    CSV = "csv"


MEDIA_TYPES = {Format.JSONL: "application/jsonl", Format.CSV: "text/csv; charset=utf-8"}


@router.post(PATH, status_code=202, responses=openapi.ACCEPTED, openapi_extra=openapi.form(FILE))
async def begin(
    request: Request,
    service: ServiceOf,
    note: NoteOf,
    caller: Caller,
    explain: bool = False,
    operating_point: str = "",
) -> JSONResponse:
    """Begin a job: judge files, each an image or a zip or tar archive of images.

    A file is the body of the request, or several are in the field `file` of a form. The answer has the id of the
    job, which goes on after a restart of the service. Its files are deleted when it is done.
    """
    wish = service.judging.wish(operating_point, explain=explain)
    await asyncio.to_thread(_check_room, service, caller)
    limits = service.config.batches
    id = ""
    try:
        id = service.job_files.make()
        form = Form(FILE, limits.files, limits.bytes, limits.upload_seconds, service.job_files.folder(id))
        with service.batch_gate.entered(promised_bytes(request, form)) as grow:
            names = [upload.name for upload in await read_uploads(request, form, grow=grow)]
        await asyncio.to_thread(_check_room, service, caller)
        await asyncio.to_thread(service.jobs.add, id, owner=caller, wish=wish, names=names, now=time.time())
    except BaseException as error:
        if id:
            service.job_files.delete(id)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise Problem("no-space", "the files could not be kept") from error
        raise
    note.images = len(names)
    service.wake_runner()
    job = await asyncio.to_thread(_find, service, id, caller)
    return JSONResponse(_shown(service, job), 202, {"Location": f"{PATH}/{id}"})


@router.get(f"{PATH}/{{id}}", responses=openapi.JOB)
def look(id: str, service: ServiceOf, caller: Caller) -> JSONResponse:
    """Tell how far a job is."""
    return JSONResponse(_shown(service, _find(service, id, caller)))


@router.get(f"{PATH}/{{id}}/results", response_class=Response, responses=openapi.RESULTS)
def results(id: str, service: ServiceOf, caller: Caller, format: Format = Format.JSONL) -> StreamingResponse:
    """Return the results of a job that is done, one a line."""
    job = _find(service, id, caller)
    if job.state != DONE:
        raise Problem("not-done", f"the job is {job.state}{job.error and ': '}{job.error}", state=job.state)
    lines = {Format.JSONL: _jsonl, Format.CSV: _csv}[format](_rows(service.jobs, job))
    name = {"Content-Disposition": f'attachment; filename="{id}.{format}"'}
    return StreamingResponse(lines, headers=name, media_type=MEDIA_TYPES[format])


@router.delete(f"{PATH}/{{id}}", status_code=204, response_class=Response, responses=openapi.PROBLEMS)
def delete(id: str, service: ServiceOf, caller: Caller) -> Response:
    """Delete a job with its files and results, whether it is done or not."""
    service.jobs.delete(_find(service, id, caller).id)
    service.job_files.delete(id)
    return Response(status_code=204)


def _check_room(service: Service, caller: str) -> None:
    """Raise Problem where a caller has as many jobs as may be."""
    if (num := service.jobs.num_open(caller)) >= service.config.batches.waiting:
        raise Problem("overloaded", f"{num} jobs of this token are not done", retry_after_s=RETRY_S)


def _find(service: Service, id: str, caller: str) -> Job:
    """Return a job of a caller. Raises Problem where there is none; those of others are not told from none."""
    job = service.jobs.get(id) if ID.fullmatch(id) else None
    if job is None or job.owner != caller:
        raise Problem("not-found", "there is no such job; jobs are deleted some time after their end")
    return job


def _shown(service: Service, job: Job) -> dict[str, Any]:
    """Return a job as an object of JSON."""
    keep_s = 3600 * service.config.batches.keep_hours
    return {
        "id": job.id,
        "state": job.state,
        "images": job.num_images,
        "found": job.num_found,
        "unreadable": job.num_unreadable,
        "left_out": job.left_out,
        "error": job.error,
        "operating_point": job.wish.operating_point,
        "explain": job.wish.explain,
        "created": _moment(job.created),
        "ended": job.ended and _moment(job.ended),
        "deleted": job.ended and _moment(job.ended + keep_s),
        "results": f"{PATH}/{job.id}/results" if job.state == DONE else None,
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _rows(jobs: Jobs, job: Job) -> Iterator[dict[str, Any]]:
    """Yield the results of a job that is done.

    Raises DatabaseError when the job is deleted meanwhile, which breaks the answer off: it must not look whole.
    """
    num_left = job.num_found
    for row in jobs.rows(job.id):
        num_left -= 1
        yield row
    if num_left > 0:
        raise DatabaseError(f"the job was deleted before the last {num_left} of its results were read")


def _jsonl(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield f"{json.dumps(row)}\n"


def _csv(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    yield f"{csv_line(COLUMNS)}\n"
    for row in rows:
        yield f"{csv_line(csv_row(row))}\n"

"""The routes of the service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp

from gapl.names import AUTO
from gapl.results import Result, mark_duplicates
from gapl.serving import batches, metrics, openapi
from gapl.serving.access import Caller, NoteOf, ServiceOf
from gapl.serving.answers import add_answers
from gapl.serving.batching import Wish
from gapl.serving.envelope import Envelope
from gapl.serving.model import describe_limits, describe_model
from gapl.serving.page import route as page
from gapl.serving.problems import Problem
from gapl.serving.service import Service, unless_gone
from gapl.serving.uploads import Form, promised_bytes, read_uploads
from gapl.version import version

IMAGE = "image"  # the field of a form that images are in

router = APIRouter()


class _Api(FastAPI):
    """An app whose OpenAPI document has the schemas that its routes refer to."""

    def openapi(self) -> dict[str, Any]:
        """Return the document."""
        document = super().openapi()
        document.setdefault("components", {}).setdefault("schemas", {}).update(openapi.schemas())
        return document


def build_app(service: Service, *, on_error: Callable[[], None]) -> ASGIApp:
    """Return the app of a service. It begins to load the detector when it is started; on_error: that fails."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.start(on_error=on_error)
        yield
        service.close()

    app = _Api(
        title="GAPL",
        version=version(),
        description=openapi.DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # these pages would ask another site for their scripts
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.service = service
    add_answers(app)
    app.include_router(router)
    app.include_router(batches.router)
    app.include_router(page.router)
    if origins := service.config.origins:
        headers = ["Authorization", "Content-Type", "X-Request-ID"]
        methods = ["GET", "POST", "DELETE"]
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=methods, allow_headers=headers)
    return Envelope(app, metrics=service.metrics)


@router.post("/v1/detect", responses=openapi.VERDICTS, openapi_extra=openapi.form(IMAGE))
async def detect(
    request: Request,
    service: ServiceOf,
    note: NoteOf,
    _caller: Caller,
    explain: bool = False,
    operating_point: str = "",
) -> JSONResponse:
    """Judge one or several images at once.

    An image is the body of the request, or several are in the field `image` of a form. There is a result for each,
    in their order. An image that cannot be read has an error instead of a verdict; where none can be read, the
    answer is a problem.
    """
    wish = service.judging.wish(operating_point, explain=explain)
    service.admission.check()
    limits = service.config.requests
    form = Form(IMAGE, limits.files, limits.bytes, limits.upload_seconds)
    with service.gate.entered(promised_bytes(request, form)) as grow:
        uploads = await read_uploads(request, form, grow=grow)
        note.images = len(uploads)
        results = await unless_gone(request, service.judge(uploads, wish))
    return _answer(service, wish, results)


@router.post("/v1/explore", responses=openapi.VERDICTS, openapi_extra=openapi.form(IMAGE))
async def explore(
    request: Request, service: ServiceOf, note: NoteOf, _caller: Caller, operating_point: str = ""
) -> JSONResponse:
    """Judge one image, and find where in it the score comes from and whether the verdict is stable.

    The image is the body of the request, or in the field `image` of a form. The answer is that of `/v1/detect`
    with `explain=true`; its explanation has `where` and `stable`, too. This takes 25 times as long as a verdict.
    Images wait for each other, and those of `/v1/detect` go first.
    """
    if service.setup.views == AUTO:
        raise Problem("bad-request", "no image is explored with --views auto")
    wish = service.judging.wish(operating_point, explain=True)
    service.explorations.check()
    limits = service.config.requests
    form = Form(IMAGE, 1, limits.bytes, limits.upload_seconds)
    with service.gate.entered(promised_bytes(request, form)) as grow:
        (upload,) = await read_uploads(request, form, grow=grow)
        note.images = 1
        result = await unless_gone(request, service.explore(upload, wish))
    return _answer(service, wish, [result])


def _answer(service: Service, wish: Wish, results: Sequence[Result]) -> JSONResponse:
    """Return the rows of results. Raises Problem when none of them has a verdict."""
    method = service.judging.method(wish)
    rows = [result.row(method) for result in mark_duplicates(results)]
    if not any(result.verdict for result in results):
        raise Problem("unreadable", results[0].error, results=rows)
    return JSONResponse(rows)


@router.get("/v1/model", responses=openapi.MODEL)
def model(service: ServiceOf, _caller: Caller) -> JSONResponse:
    """Tell by which detector images are judged, its calibration and model card, and what a request may send."""
    judging = service.judging
    described = describe_model(judging.detector, judging.method(judging.wish("", explain=False)))
    return JSONResponse(described | {"limits": describe_limits(service.setup)})


@router.get("/metrics", response_class=PlainTextResponse, responses=openapi.PROBLEMS)
def read_metrics(service: ServiceOf, _caller: Caller) -> Response:
    """Return what the service counts, for Prometheus."""
    return Response(service.metrics.text(), media_type=metrics.MEDIA_TYPE)


@router.get("/healthz", response_class=PlainTextResponse)
async def is_alive() -> PlainTextResponse:
    """Tell that the process answers. It needs no token."""
    return PlainTextResponse("ok\n")


@router.get("/readyz", response_class=PlainTextResponse, responses=openapi.PROBLEMS)
async def is_ready(service: ServiceOf) -> PlainTextResponse:
    """Tell whether the detector is loaded. It needs no token."""
    _ = service.judging
    return PlainTextResponse("ready\n")

"""The routes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from PIL import Image
from starlette.exceptions import HTTPException

from ..errors import ImgtfError
from . import forms
from .errors import ApiError
from .fields import EditFields, GenerationFields, read_form, read_json
from .gate import Gate
from .job import Job
from .metrics import CONTENT_TYPE
from .service import Service

GONE = 499
"""Status of a request whose client has closed the connection, as nginx has it. Only the metrics see it."""
router = APIRouter()


def _body(content_type: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {content_type: {"schema": schema}}}}


def _form_schema() -> dict[str, Any]:
    schema = EditFields.model_json_schema()
    files = {name: {"type": "string", "format": "binary"} for name in ("image", "mask")}
    return schema | {"properties": files | schema["properties"], "required": ["image"]}


class Gone(Exception):
    """The client has closed the connection."""


def create_app(service: Service) -> FastAPI:
    """Return the ASGI application of a service, whose worker must run."""
    app = FastAPI(title="imgtf", version=version("imgtf"), docs_url=None, redoc_url=None)
    app.state.service = service
    app.include_router(router)
    app.add_exception_handler(ImgtfError, _api_error)
    app.add_exception_handler(Gone, _gone)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _fault)
    app.add_middleware(Gate, service=service)
    return app


@router.post(
    "/v1/images/generations",
    openapi_extra=_body("application/json", GenerationFields.model_json_schema()),
)
async def generations(request: Request) -> Response:
    """Sample images."""
    service: Service = request.app.state.service
    job, asked = service.generation(read_json(await request.body(), GenerationFields))
    images = await _sampled(request, job)
    return JSONResponse(await asyncio.to_thread(service.answer, images, asked))


@router.post("/v1/images/edits", openapi_extra=_body("multipart/form-data", _form_schema()))
async def edits(request: Request) -> Response:
    """Sample a part of an image anew, given the rest."""
    service: Service = request.app.state.service
    form = await forms.read_form(request)
    for name in sorted({"image", "mask"} & form.texts.keys()):
        raise ApiError(f"{name} must be a file with a file name, not text", param=name, code="invalid_form")
    fields = read_form(form.texts, EditFields)
    job, asked = await asyncio.to_thread(service.edit, fields, form.files)
    images = await _sampled(request, job)
    return JSONResponse(await asyncio.to_thread(service.answer, images, asked))


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """Name the model, in the shape of OpenAI's API."""
    service: Service = request.app.state.service
    return {"object": "list", "data": [{"id": service.name, "object": "model", "owned_by": "imgtf"}]}


@router.get("/health")
async def health(request: Request) -> Response:
    """Say whether the server takes requests: 200, or 503 while it stops."""
    service: Service = request.app.state.service
    return JSONResponse(service.health(), 503 if service.draining else 200)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Show the metrics of Prometheus."""
    return Response(request.app.state.service.metrics.text(), media_type=CONTENT_TYPE)


async def _sampled(request: Request, job: Job) -> list[Image.Image]:
    """Return the images of a job. Raises Gone when the client has left, after the job has left the queue."""
    service: Service = request.app.state.service
    images = asyncio.wrap_future(service.batcher.submit(job))
    left = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((images, left), return_when=asyncio.FIRST_COMPLETED)
        if not images.done():
            raise Gone
        return images.result()
    finally:
        left.cancel()
        if not images.done():
            service.batcher.cancel(job)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _api_error(request: Request, error: Exception) -> Response:
    shown = error if isinstance(error, ApiError) else ApiError(error)
    return JSONResponse(shown.body, shown.status, shown.headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=GONE)


async def _http_error(request: Request, error: Exception) -> Response:
    """Unknown routes and methods, in the same shape as all errors."""
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    message = f"{request.method} {request.url.path[:200]}: {phrase.lower()}; see GET /openapi.json"
    shown = ApiError(message, status=error.status_code, code=phrase.lower().replace(" ", "_"))
    return JSONResponse(shown.body, error.status_code, error.headers)


async def _fault(request: Request, error: Exception) -> Response:
    """A fault of the program; uvicorn logs its traceback, and closes the connection."""
    shown = ApiError("the server failed; its log says why", status=500, code="internal_error")
    return JSONResponse(shown.body, 500, {"Connection": "close"})

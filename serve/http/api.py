"""The routes of the service (§9): plain FastAPI over a :class:`Backend`, independent of Ray."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import get_args

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware

from mmface.config import Serve
from mmface.errors import InputError, MMFaceError
from serve.guards.access import Access, Key, read_keys
from serve.guards.access_log import AccessLog, log_to_stdout
from serve.guards.idempotency import HEADER, Idempotency
from serve.guards.limits import BoundedUploads, Deadline, Drained
from serve.http import openai, streaming
from serve.http.backend import Backend, Service
from serve.http.context import RequestContext
from serve.http.errors import ApiError, install_handlers
from serve.http.generation import answer, make_job
from serve.http.openapi import (
    PICTURE,
    add_docs,
    add_upload_route,
    complete,
    error_responses,
    generated_responses,
    upload_body,
)
from serve.http.requests import ConvertRequest, GenerateRequest, Modality
from serve.http.routing import BarePrefix, Head
from serve.http.schemas import Health, Readiness
from serve.http.uploads import read_upload
from serve.playground.page import add_playground

READY_TIMEOUT_S = 10.0
DRAWINGS = {
    "mask": "19-label mask: a PNG of label indices, grey or with a palette, or a picture in the palette's colours. "
    "Soft edges are accepted and counted in `warnings`; transparent parts become background.",
    "sketch": "Lines on paper: png, jpg or webp. Light lines on dark paper are inverted, and `warnings` says so. "
    "Transparent parts become paper.",
}


def create_app(backend: Backend, settings: Serve, keys: tuple[Key, ...] | None = None) -> FastAPI:
    """The ASGI application of the service.

    Args:
        keys: the accepted API keys; if None, those of this process's variable ``serve.api_keys_env``.

    Raises:
        ServiceError: the variable ``serve.api_keys_env`` holds no keys.
    """
    app = FastAPI(
        title="MMFace",
        version=version("mmface"),
        summary="Face portraits from a text prompt and a drawing.",
        docs_url=None,  # FastAPI's page refers to the document by an absolute path, which is wrong behind a proxy
        redoc_url=None,
        redirect_slashes=False,  # its redirects trust the Host header and lose a prefix that a proxy removed
        root_path_in_servers=False,
    )
    install_handlers(app)
    _add_middleware(app, settings, read_keys(settings) if keys is None else keys)
    service = Service(backend, settings)
    _add_health(app, backend)
    for modality in get_args(Modality):
        _add_generate(app, service, modality)
        _add_convert(app, service, modality)
    openai.add_openai(app, service)
    add_playground(app)
    add_docs(app)
    complete(app, (*streaming.EVENTS, *openai.EVENTS), keys=settings.api_keys_env is not None)
    return app


def _add_middleware(app: FastAPI, settings: Serve, keys: tuple[Key, ...]) -> None:
    """Adds the middleware, innermost first: a request passes the one that is added last first."""
    app.state.model_version = None
    app.add_middleware(Idempotency)
    app.add_middleware(BoundedUploads, max_bytes=settings.max_upload_bytes, max_seconds=settings.upload_timeout_s)
    if keys:
        app.add_middleware(Access, keys=keys, per_minute=settings.requests_per_minute)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "X-Model-Version", "X-Seed", "X-Warnings", "Retry-After", HEADER],
        )
    app.add_middleware(BarePrefix)
    app.add_middleware(Head)
    app.add_middleware(Drained)
    app.add_middleware(RequestContext, state=app.state)
    app.add_middleware(AccessLog, prompts=settings.log_prompts)
    log_to_stdout()


def _add_health(app: FastAPI, backend: Backend) -> None:
    @app.get("/healthz", tags=["health"], responses=error_responses(400, 500))
    async def healthz() -> Health:
        """The process is running."""
        return Health()

    @app.get("/readyz", tags=["health"], responses=error_responses(400, 500, 503), response_model_exclude_none=True)
    async def readyz() -> Readiness:
        """The model works: it has just completed a real forward pass."""
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                readiness = await backend.ready()
                app.state.model_version = readiness.model.rpartition(":")[2]
                return readiness
        except TimeoutError:
            raise ApiError(503, f"no forward pass within {READY_TIMEOUT_S:g} s", retry_after_s=5) from None
        except MMFaceError as error:
            raise ApiError(503, error.message, param=error.field, code=error.code, retry_after_s=5) from None


def _add_generate(app: FastAPI, service: Service, modality: Modality) -> None:
    async def generate(request: Request) -> Response:
        deadline = Deadline(service.settings.timeout_s)
        async with deadline():
            sent, drawing = await read_upload(request, GenerateRequest, "condition")
            job, reply = await make_job(service, request, sent, drawing, field="condition", modality=modality)
        if reply.body == "events":
            return await streaming.stream(service, job, reply, deadline, streaming.generate_events)
        return await answer(service, job, reply, deadline)

    add_upload_route(
        app,
        f"/v1/generate/{modality}",
        generate,
        summary=f"Portraits from a prompt and a {modality}",
        body=upload_body(GenerateRequest, "condition", DRAWINGS[modality]),
        answer=generated_responses(streaming.EVENTS),
        errors=(400, 401, 406, 408, 413, 415, 422, 429, 500, 503),
    )


def _add_convert(app: FastAPI, service: Service, modality: Modality) -> None:
    async def convert(request: Request) -> Response:
        async with Deadline(service.settings.timeout_s)():
            _, photo = await read_upload(request, ConvertRequest, "image")
            try:
                return Response(await service.backend.convert(photo, modality), media_type="image/png")
            except InputError as error:
                raise ApiError(400, error.message, param="image", code="invalid_image") from None

    add_upload_route(
        app,
        f"/v1/conditions/{modality}",
        convert,
        summary=f"A photograph's {modality}",
        body=upload_body(ConvertRequest, "image", "A face photograph: jpg, png or webp. Its centre square is used."),
        answer=PICTURE,
        errors=(400, 401, 408, 413, 415, 422, 429, 500, 503),
    )

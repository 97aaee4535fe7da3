"""The routes (§9). Plain FastAPI over a :class:`Backend`; knows nothing of Ray."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Protocol, get_args

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from mmface.config import Serve
from mmface.errors import InputError, MMFaceError
from serve.context import RequestContext
from serve.errors import ApiError, install_handlers
from serve.openapi import GENERATED, PICTURE, error_responses, upload_body
from serve.pictures import Provenance, encode_png, read_condition
from serve.schemas import (
    ConvertFields,
    Generated,
    GenerateFields,
    GenerateResponse,
    Health,
    ImageData,
    Job,
    Modality,
    ModelInfo,
    ModelList,
    Readiness,
)
from serve.uploads import BoundedUploads, read_upload

READY_TIMEOUT_S = 10.0
DRAWINGS = {
    "mask": "19-label mask: PNG of label indices, or RGB in the palette's colours.",
    "sketch": "Dark lines on white: png, jpg or webp.",
}


class Backend(Protocol):
    """Where the work is done: a Ray Serve handle, or a Generator in this process."""

    async def generate(self, job: Job) -> Generated:
        """Paints; cancelling it stops the work."""
        ...

    async def convert(self, photo: bytes, modality: Modality) -> bytes:
        """Photograph to condition PNG."""
        ...

    async def describe(self) -> list[ModelInfo]:
        """The served versions, the one that answers by default first."""
        ...

    async def ready(self) -> Readiness:
        """Raises unless a real forward pass works."""
        ...


def create_app(backend: Backend, settings: Serve) -> FastAPI:
    """The ASGI application of the service."""
    app = FastAPI(
        title="MMFace",
        version=version("mmface"),
        summary="Face portraits from a text prompt and a drawing.",
        redoc_url=None,
    )
    install_handlers(app)
    # The last one added is the first one met.
    app.add_middleware(BoundedUploads, max_bytes=settings.max_upload_bytes)
    app.state.model_version = None
    app.add_middleware(RequestContext, state=app.state)
    _add_health(app, backend)
    for modality in get_args(Modality):
        _add_generate(app, backend, settings, modality)
        _add_convert(app, backend, settings, modality)
    return app


def _add_health(app: FastAPI, backend: Backend) -> None:
    @app.get("/healthz", tags=["health"], responses=error_responses(500))
    async def healthz() -> Health:
        """The process answers."""
        return Health()

    @app.get("/readyz", tags=["health"], responses=error_responses(500, 503))
    async def readyz() -> Readiness:
        """The model has just done a real forward pass."""
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                readiness = await backend.ready()
                app.state.model_version = readiness.model.rpartition(":")[2]
                return readiness
        except TimeoutError:
            raise ApiError(503, f"no forward pass within {READY_TIMEOUT_S:g} s", retry_after_s=5) from None
        except MMFaceError as error:
            raise ApiError(503, error.message, retry_after_s=5) from None

    @app.get("/v1/models", tags=["models"], responses=error_responses(500, 503))
    async def models() -> ModelList:
        """The served model version and what it supports."""
        return ModelList(data=await backend.describe())


def _add_generate(app: FastAPI, backend: Backend, settings: Serve, modality: Modality) -> None:
    async def generate(request: Request) -> Response:
        as_png = _wants_png(request)
        async with _deadline(settings.timeout_s):
            fields, data = await read_upload(request, GenerateFields, "condition")
            if as_png and fields.n != 1:
                raise ApiError(400, "Accept: image/png gives one image; ask for application/json or n = 1", param="n")
            condition = await asyncio.to_thread(read_condition, data, modality, settings.max_condition_megapixels)
            first = secrets.randbelow(2**53 - fields.n) if fields.seed is None else fields.seed
            made = await backend.generate(Job(modality, condition, fields, tuple(range(first, first + fields.n))))
            pictures = await asyncio.to_thread(_encode, made, request.state.request_id)
        headers = {"X-Model-Version": made.version}
        if not as_png:
            return JSONResponse(_answer(made, pictures).model_dump(), headers=headers)
        headers["X-Seed"] = str(made.seeds[0])
        if made.warnings:
            headers["X-Warnings"] = "; ".join(made.warnings)
        return Response(pictures[0], media_type="image/png", headers=headers)

    _add_upload_route(
        app,
        f"/v1/generate/{modality}",
        generate,
        summary=f"Portraits from a prompt and a {modality}",
        body=upload_body(GenerateFields, "condition", DRAWINGS[modality]),
        answer=GENERATED,
        errors=(400, 406, 408, 413, 415, 422, 429, 500, 503),
    )


def _add_convert(app: FastAPI, backend: Backend, settings: Serve, modality: Modality) -> None:
    async def convert(request: Request) -> Response:
        async with _deadline(settings.timeout_s):
            _, photo = await read_upload(request, ConvertFields, "image")
            try:
                return Response(await backend.convert(photo, modality), media_type="image/png")
            except InputError as error:
                raise ApiError(400, error.message, param="image", code="invalid_image") from None

    _add_upload_route(
        app,
        f"/v1/conditions/{modality}",
        convert,
        summary=f"A photograph's {modality}",
        body=upload_body(ConvertFields, "image", "A face photograph: jpg, png or webp. Its centre square is used."),
        answer=PICTURE,
        errors=(400, 408, 413, 415, 422, 500, 503),
    )


def _add_upload_route(
    app: FastAPI,
    path: str,
    handler: Callable[[Request], Awaitable[Response]],
    *,
    summary: str,
    body: dict[str, object],
    answer: dict[int | str, dict[str, object]],
    errors: tuple[int, ...],
) -> None:
    """A POST route that reads its body itself, so that it is bounded and strict; ``body`` documents it."""
    app.add_api_route(
        path,
        handler,
        methods=["POST"],
        operation_id=path.removeprefix("/v1/").replace("/", "_"),
        summary=summary,
        tags=[path.split("/")[2]],
        response_class=Response,
        responses=answer | error_responses(*errors),
        openapi_extra=body,
    )


@asynccontextmanager
async def _deadline(seconds: float) -> AsyncIterator[None]:
    """408 when the block takes longer; what it awaits is cancelled."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        message = f"not finished within {seconds:g} s; ask for fewer images or steps, or a smaller size"
        raise ApiError(408, message) from None


def _wants_png(request: Request) -> bool:
    """Content negotiation between JSON (the default) and one PNG; 406 if the client takes neither."""
    offers = []
    for part in request.headers.get("accept", "*/*").lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        quality = next((value[2:] for value in parameters if value.startswith("q=")), "1")
        try:
            offers.append((float(quality), kind))
        except ValueError:
            raise ApiError(400, f"malformed weight {quality!r}", param="Accept") from None
    for weight, kind in sorted(offers, key=lambda offer: -offer[0]):
        if weight > 0 and kind in ("application/json", "application/*", "*/*"):
            return False
        if weight > 0 and kind in ("image/png", "image/*"):
            return True
    raise ApiError(406, "only application/json and image/png can be had", param="Accept")


def _encode(made: Generated, request_id: str) -> list[bytes]:
    return [
        encode_png(
            image,
            Provenance(
                model=made.model,
                version=made.version,
                seed=seed,
                request_id=request_id,
                num_inference_steps=made.num_inference_steps,
                guidance_scale=made.guidance_scale,
                sampler=made.sampler,
            ),
        )
        for image, seed in zip(made.images, made.seeds, strict=True)
    ]


def _answer(made: Generated, pictures: list[bytes]) -> GenerateResponse:
    return GenerateResponse(
        created=int(time.time()),
        model=made.model,
        data=[
            ImageData(b64_json=base64.b64encode(picture).decode(), seed=seed)
            for picture, seed in zip(pictures, made.seeds, strict=True)
        ],
        warnings=list(made.warnings),
    )

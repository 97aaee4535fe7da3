"""What all routes that generate share: the job of an upload, and the answer of a finished job."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import Request, Response
from fastapi.responses import JSONResponse

from serve.guards.limits import Deadline
from serve.http.backend import Service
from serve.http.job import Generated, Job
from serve.http.negotiation import Reply, negotiate
from serve.http.requests import GenerateRequest, Modality
from serve.http.schemas import GenerateResponse, ImageData
from serve.pictures.drawings import read_drawing
from serve.pictures.provenance import MEDIA_TYPES, SETTINGS, Provenance, encode
from serve.pictures.watermark import Mark, embed, name_code


async def make_job(
    service: Service,
    request: Request,
    sent: GenerateRequest,
    picture: bytes,
    *,
    field: str,
    modality: Modality | None,
    version: str | None = None,
    prefer_json: bool = False,
) -> tuple[Job, Reply]:
    """Decodes the drawing, draws seeds where none are given, and negotiates the form of the answer.

    Args:
        field: name of the picture's field, for errors.
        modality: None to recognise it from the picture; the reply's warnings then say what it was recognised as.
        version: of the model, if the client requires one.
        prefer_json: see :func:`negotiate`.

    Raises:
        ApiError: the picture cannot be decoded or is too large, or no form of answer fits.
        InputError: a mask with unknown labels or colours.
    """
    request.state.prompt = sent.prompt
    reply = negotiate(request, sent, prefer_json=prefer_json)
    async with service.decoding:
        limit = service.settings.max_condition_megapixels
        drawing = await asyncio.to_thread(read_drawing, picture, modality, limit, field)
    warnings = drawing.warnings
    if sent.output_compression is not None and reply.quality is None:
        warnings = (*warnings, "output_compression was ignored: png is lossless; only webp and jpeg have a quality")
    if modality is None:
        warnings = (f"{field} was taken for a {drawing.modality}; send modality to choose it yourself", *warnings)
    request_id, trace = request.state.request_id, request.headers.get("traceparent")
    job = Job(drawing.modality, drawing.pixels, sent, _seeds(sent), version, request_id, trace)
    watermark = service.settings.model_name if service.settings.watermark else None
    return job, replace(reply, warnings=warnings, watermark=watermark)


def image_files(images: npt.NDArray[np.uint8], job: Job, reply: Reply, result: Generated | None = None) -> list[bytes]:
    """Images ``[n, H, W, 3]`` as picture files with their provenance; previews have no ``result`` yet to name it."""
    known: dict[str, Any] = {}
    if result is not None:
        names = ("model", "version", *SETTINGS)
        known = {name: getattr(result, name) for name in names}
    if reply.watermark is not None:
        # The mark depends on the version alone, so that the same request gives the same pixels.
        version = int(result.version) if result is not None and result.version.isdigit() else 0
        images = np.stack([embed(image, Mark(name_code(reply.watermark), version)) for image in images])
    return [
        encode(image, Provenance(seed, job.request_id, **known), reply.picture, reply.quality)
        for image, seed in zip(images, job.seeds, strict=True)
    ]


def image_data(files: list[bytes], job: Job) -> list[ImageData]:
    """Picture files in base64, each with its seed."""
    encoded = (base64.b64encode(file).decode() for file in files)
    return [ImageData(b64_json=data, seed=seed) for data, seed in zip(encoded, job.seeds, strict=True)]


def generate_response(result: Generated, job: Job, reply: Reply) -> GenerateResponse:
    """The JSON answer of a finished job."""
    height, width = result.images.shape[1:3]
    return GenerateResponse(
        created=int(time.time()),
        model=result.model,
        data=image_data(image_files(result.images, job, reply, result), job),
        size=f"{width}x{height}",
        output_format=reply.picture,
        warnings=[*reply.warnings, *result.warnings],
    )


async def answer(service: Service, job: Job, reply: Reply, deadline: Deadline) -> Response:
    """Generates, and answers with JSON or one picture, as negotiated."""
    async with deadline():
        result = await service.backend.generate(job)
        headers = {"X-Model-Version": result.version}
        if reply.body == "json":
            body = await asyncio.to_thread(generate_response, result, job, reply)
            return JSONResponse(body.model_dump(), headers=headers)
        (picture,) = await asyncio.to_thread(image_files, result.images, job, reply, result)
    headers["X-Seed"] = str(result.seeds[0])
    if reply.warnings + result.warnings:
        headers["X-Warnings"] = "; ".join(reply.warnings + result.warnings)
    return Response(picture, media_type=MEDIA_TYPES[reply.picture], headers=headers)


def _seeds(sent: GenerateRequest) -> tuple[int, ...]:
    if isinstance(sent.seed, list):
        return tuple(sent.seed)
    first = secrets.randbelow(2**53 - sent.n) if sent.seed is None else sent.seed
    return tuple(range(first, first + sent.n))

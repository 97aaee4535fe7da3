"""From an upload to a job, and from what was painted to an answer: what all routes that paint share."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import Request, Response
from fastapi.responses import JSONResponse

from serve.guards.limits import Deadline
from serve.http.backend import Service
from serve.http.negotiation import Reply, negotiate
from serve.http.requests import GenerateFields, Modality
from serve.http.schemas import Generated, GenerateResponse, ImageData, Job
from serve.pictures.drawings import read_drawing
from serve.pictures.provenance import MEDIA_TYPES, Provenance, encode
from serve.pictures.watermark import Mark, embed, name_code


@dataclass(frozen=True)
class Order:
    """A request that was read and checked, and what its answer needs.

    ``watermark`` is the model's name where pictures are to be marked.
    """

    job: Job
    reply: Reply
    deadline: Deadline
    request_id: str
    warnings: tuple[str, ...]
    watermark: str | None = None


async def take(
    service: Service,
    request: Request,
    deadline: Deadline,
    fields: GenerateFields,
    picture: bytes,
    *,
    field: str,
    modality: Modality | None,
    version: str | None = None,
    prefer_json: bool = False,
) -> Order:
    """Reads the drawing and draws seeds where none are given.

    Args:
        field: name of the picture's field, for errors.
        modality: None to find out from the picture; the order's warnings then say what it was taken for.
        version: of the model, if the client insists on one.
        prefer_json: see :func:`negotiate`.
    """
    request.state.prompt = fields.prompt
    reply = negotiate(request, fields, prefer_json=prefer_json)
    async with service.decoding:
        limit = service.settings.max_condition_megapixels
        drawing = await asyncio.to_thread(read_drawing, picture, modality, limit, field)
    warnings = drawing.warnings
    if fields.output_compression is not None and reply.quality is None:
        warnings = (*warnings, "output_compression was ignored: png loses nothing; webp and jpeg have a quality")
    if modality is None:
        warnings = (f"{field} was taken for a {drawing.modality}; send modality to say so yourself", *warnings)
    request_id, trace = request.state.request_id, request.headers.get("traceparent")
    job = Job(drawing.modality, drawing.pixels, fields, _seeds(fields), version, request_id, trace)
    settings = service.settings
    marked = settings.model_name if settings.watermark else None
    return Order(job, reply, deadline, request_id, warnings, marked)


def pictures(images: npt.NDArray[np.uint8], order: Order, made: Generated | None = None) -> list[bytes]:
    """``[n, H, W, 3]`` as files; previews have no ``made`` yet to tell where they come from."""
    known: dict[str, Any] = {}
    if made is not None:
        names = ("model", "version", "num_inference_steps", "guidance_scale", "sampler")
        known = {name: getattr(made, name) for name in names}
    if order.watermark is not None:
        # What it says is a function of the version alone: the same request has the same pixels.
        version = int(made.version) if made is not None and made.version.isdigit() else 0
        images = np.stack([embed(image, Mark(name_code(order.watermark), version)) for image in images])
    return [
        encode(image, Provenance(seed, order.request_id, **known), order.reply.picture, order.reply.quality)
        for image, seed in zip(images, order.job.seeds, strict=True)
    ]


def image_data(files: list[bytes], order: Order) -> list[ImageData]:
    """Files as JSON carries them, each with its seed."""
    encoded = (base64.b64encode(file).decode() for file in files)
    return [ImageData(b64_json=data, seed=seed) for data, seed in zip(encoded, order.job.seeds, strict=True)]


def response(made: Generated, order: Order) -> GenerateResponse:
    """What was painted, as JSON says it."""
    height, width = made.images.shape[1:3]
    return GenerateResponse(
        created=int(time.time()),
        model=made.model,
        data=image_data(pictures(made.images, order, made), order),
        size=f"{width}x{height}",
        output_format=order.reply.picture,
        warnings=[*order.warnings, *made.warnings],
    )


async def answer(service: Service, order: Order) -> Response:
    """Paints, and answers with JSON or one picture, as the client accepts."""
    async with order.deadline():
        made = await service.backend.generate(order.job)
        headers = {"X-Model-Version": made.version}
        if order.reply.body == "json":
            told = await asyncio.to_thread(response, made, order)
            return JSONResponse(told.model_dump(), headers=headers)
        (picture,) = await asyncio.to_thread(pictures, made.images, order, made)
    headers["X-Seed"] = str(made.seeds[0])
    if order.warnings + made.warnings:
        headers["X-Warnings"] = "; ".join(order.warnings + made.warnings)
    return Response(picture, media_type=MEDIA_TYPES[order.reply.picture], headers=headers)


def _seeds(fields: GenerateFields) -> tuple[int, ...]:
    if isinstance(fields.seed, list):
        return tuple(fields.seed)
    first = secrets.randbelow(2**53 - fields.n) if fields.seed is None else fields.seed
    return tuple(range(first, first + fields.n))

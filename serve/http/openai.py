"""Routes that follow OpenAI's conventions, so that its official clients work with this service (§9)."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, Field

from serve.guards.limits import Deadline
from serve.http.backend import Service
from serve.http.errors import UnknownModelError
from serve.http.generation import answer, image_data, image_files, make_job
from serve.http.job import Generated, Job
from serve.http.negotiation import Reply
from serve.http.openapi import add_upload_route, error_responses, generated_responses, upload_body
from serve.http.requests import EditRequest, PictureFormat
from serve.http.schemas import ImageData, ModelInfo, ModelList
from serve.http.streaming import Event, Failed, Report, stream
from serve.http.uploads import read_upload

PICTURE = (
    "The drawing that the portrait follows, a mask or a sketch (see `modality`): png, jpg or webp. In multipart the "
    'part may be named `image[]`; JSON may send `"images": [{"image_url": "data:image/png;base64,…"}]` with one entry. '
    "OpenAI's `mask`, which marks the area to repaint, is not supported."
)


class TokenDetails(BaseModel):
    """Always 0, because tokens are not counted."""

    image_tokens: int = 0
    text_tokens: int = 0


class Usage(BaseModel):
    """Always 0, because tokens are not counted; clients expect the field."""

    input_tokens: int = 0
    input_tokens_details: TokenDetails = TokenDetails()
    output_tokens: int = 0
    total_tokens: int = 0


class EditImage(Event):
    """One picture, a preview or complete, and its seed, which distinguishes it from the others of n."""

    b64_json: str
    seed: int
    created_at: int
    output_format: PictureFormat
    size: str = Field(examples=["128x128"])
    quality: Literal["auto"] = "auto"
    background: Literal["opaque"] = "opaque"


class EditPartialImage(EditImage):
    """A preview."""

    type: Literal["image_edit.partial_image"] = "image_edit.partial_image"
    partial_image_index: int


class EditCompleted(EditImage):
    """A finished picture; with n > 1 there are n of these events."""

    type: Literal["image_edit.completed"] = "image_edit.completed"
    model: str
    warnings: list[str]
    usage: Usage = Usage()


EVENTS = (EditPartialImage, EditCompleted, Failed)


def edit_events(report: Report, job: Job, reply: Reply) -> list[Event]:
    """The events of ``/v1/images/edits``: one for each picture, preview or finished."""
    if report.images is None:
        return []
    height, width = report.images.shape[1:3]
    result = report if isinstance(report, Generated) else None

    def common(image: ImageData) -> dict[str, Any]:
        return {
            **image.model_dump(),
            "created_at": int(time.time()),
            "output_format": reply.picture,
            "size": f"{width}x{height}",
        }

    images = [common(image) for image in image_data(image_files(report.images, job, reply, result), job)]
    if isinstance(report, Generated):
        warnings = [*reply.warnings, *report.warnings]
        return [EditCompleted(**image, model=report.model, warnings=warnings) for image in images]
    return [EditPartialImage(**image, partial_image_index=report.preview) for image in images]


def add_openai(app: FastAPI, service: Service) -> None:
    """Adds ``/v1/images/edits`` and ``/v1/models``."""
    _add_edits(app, service)
    _add_models(app, service)


def _add_edits(app: FastAPI, service: Service) -> None:
    async def edits(request: Request) -> Response:
        deadline = Deadline(service.settings.timeout_s)
        async with deadline():
            sent, drawing = await read_upload(request, EditRequest, "image", other_names=("image[]", "images"))
            job, reply = await make_job(
                service,
                request,
                sent,
                drawing,
                field="image",
                modality=sent.modality,
                version=_version(sent.model, service.settings.model_name),
                prefer_json=True,
            )
            reply = replace(reply, warnings=(*reply.warnings, *sent.unused()))
        if reply.body == "events":
            return await stream(service, job, reply, deadline, edit_events)
        return await answer(service, job, reply, deadline)

    add_upload_route(
        app,
        "/v1/images/edits",
        edits,
        summary="Portraits from a prompt and a drawing, for OpenAI's clients",
        body=upload_body(EditRequest, "image", PICTURE),
        answer=generated_responses(
            EVENTS, "JSON; one picture if `Accept` names its type and not JSON; events with `stream`."
        ),
        errors=(400, 401, 404, 406, 408, 413, 415, 422, 429, 500, 503),
    )


def _add_models(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models", tags=["models"], responses=error_responses(400, 401, 429, 500, 503))
    async def models() -> ModelList:
        """The served model versions and what they support; the first one answers by default."""
        return ModelList(data=await service.backend.describe())

    @app.get("/v1/models/{model}", tags=["models"], responses=error_responses(400, 401, 404, 422, 429, 500, 503))
    async def model_of(model: str) -> ModelInfo:
        """One served version: `NAME:VERSION`, or `NAME` for the version that answers by default."""
        version = _version(model, service.settings.model_name)
        served = await service.backend.describe()
        for info in served:
            if version in (None, info.version):
                return info
        raise UnknownModelError(f"that version is not served; {served[0].id} is", field="model")


def _version(model: str | None, name: str) -> str | None:
    """The version in ``model``, None if it names only the model; 404 if that is not the served one."""
    given, _, version = (model or name).partition(":")
    if given != name:
        raise UnknownModelError(f"there is no such model; {name} is served", field="model")
    return version or None

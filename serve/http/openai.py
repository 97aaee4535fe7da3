"""Routes in OpenAI's conventions: its official clients work with this service."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, Field

from serve.guards.limits import Deadline
from serve.http.backend import Service
from serve.http.errors import UnknownModelError
from serve.http.generation import Order, answer, image_data, pictures, take
from serve.http.openapi import add_upload_route, error_responses, painted, upload_body
from serve.http.requests import EditFields, PictureFormat
from serve.http.schemas import Generated, ImageData, ModelInfo, ModelList, Progress
from serve.http.streaming import Event, Failed, stream
from serve.http.uploads import read_upload

PICTURE = (
    "The drawing that the portrait follows, a mask or a sketch (see `modality`): png, jpg or webp. Multipart may "
    'call it `image[]`; JSON may send `"images": [{"image_url": "data:image/png;base64,…"}]` with one entry instead. '
    "OpenAI's `mask`, which marks what to repaint, has no counterpart here."
)


class TokenDetails(BaseModel):
    """Always 0: tokens are not counted."""

    image_tokens: int = 0
    text_tokens: int = 0


class Usage(BaseModel):
    """Clients expect it; always 0: tokens are not counted."""

    input_tokens: int = 0
    input_tokens_details: TokenDetails = TokenDetails()
    output_tokens: int = 0
    total_tokens: int = 0


class EditImage(Event):
    """One picture on its way or complete, and the seed that tells it from the others of n."""

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
    """A finished picture; with n > 1 there are n of these."""

    type: Literal["image_edit.completed"] = "image_edit.completed"
    model: str
    warnings: list[str]
    usage: Usage = Usage()


EVENTS = (EditPartialImage, EditCompleted, Failed)


def edit_events(told: Progress | Generated, order: Order) -> list[Event]:
    """The events of ``/v1/images/edits``: pictures only, each in one of its own."""
    if told.images is None:
        return []
    height, width = told.images.shape[1:3]
    made = told if isinstance(told, Generated) else None

    def common(image: ImageData) -> dict[str, Any]:
        return {
            **image.model_dump(),
            "created_at": int(time.time()),
            "output_format": order.reply.picture,
            "size": f"{width}x{height}",
        }

    images = [common(image) for image in image_data(pictures(told.images, order, made), order)]
    if isinstance(told, Generated):
        warnings = [*order.warnings, *told.warnings]
        return [EditCompleted(**image, model=told.model, warnings=warnings) for image in images]
    return [EditPartialImage(**image, partial_image_index=told.preview) for image in images]


def add_openai(app: FastAPI, service: Service) -> None:
    """``/v1/images/edits`` and ``/v1/models``."""
    name = service.settings.model_name

    async def edits(request: Request) -> Response:
        deadline = Deadline(service.settings.timeout_s)
        async with deadline():
            fields, drawing = await read_upload(request, EditFields, "image", other_names=("image[]", "images"))
            version = _version(fields.model, name)
            order = await take(
                service,
                request,
                deadline,
                fields,
                drawing,
                field="image",
                modality=fields.modality,
                version=version,
                prefer_json=True,
            )
            order = replace(order, warnings=(*order.warnings, *fields.unused()))
        if order.reply.body == "events":
            return await stream(service, order, edit_events)
        return await answer(service, order)

    add_upload_route(
        app,
        "/v1/images/edits",
        edits,
        summary="Portraits from a prompt and a drawing, as OpenAI's clients ask for them",
        body=upload_body(EditFields, "image", PICTURE),
        answer=painted(EVENTS, "JSON; one picture if `Accept` names its type and not JSON; events with `stream`."),
        errors=(400, 401, 404, 406, 408, 413, 415, 422, 429, 500, 503),
    )

    @app.get("/v1/models", tags=["models"], responses=error_responses(400, 401, 429, 500, 503))
    async def models() -> ModelList:
        """The served model versions, the one that answers by default first, and what they support."""
        return ModelList(data=await service.backend.describe())

    @app.get("/v1/models/{model}", tags=["models"], responses=error_responses(400, 401, 404, 422, 429, 500, 503))
    async def model_of(model: str) -> ModelInfo:
        """A served version by `NAME:VERSION`, or by `NAME` the one that answers by default."""
        version = _version(model, name)
        served = await service.backend.describe()
        for info in served:
            if version in (None, info.version):
                return info
        raise UnknownModelError(f"that version is not served; {served[0].id} is", field="model")


def _version(model: str | None, name: str) -> str | None:
    """The version that ``model`` insists on, None if it does not; 404 if it is another model."""
    given, _, version = (model or name).partition(":")
    if given != name:
        raise UnknownModelError(f"there is no such model; {name} is served", field="model")
    return version or None

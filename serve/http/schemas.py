"""The JSON answers of the service."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from mmface.config import Sampler
from serve.http.requests import PictureFormat


class ImageData(BaseModel):
    """One generated image."""

    b64_json: str = Field(description="The picture in `output_format`, base64.")
    seed: int = Field(description="Send it with n = 1 to get this image again.")


class GenerateResponse(BaseModel):
    """Generated images and the model version that made them."""

    created: int = Field(description="Unix time.", examples=[1767225600])
    model: str = Field(examples=["mmface-dit:3"])
    data: list[ImageData]
    size: str = Field(description="`WIDTHxHEIGHT` of the pictures.", examples=["128x128"])
    output_format: PictureFormat = Field(examples=["png"])
    warnings: list[str] = Field(
        description="What was adjusted, such as a truncated prompt or a drawing with soft edges.",
        examples=[["312 pixels (1.9 %) were no palette colour and took the nearest label"]],
    )


class ModelInfo(BaseModel):
    """A served model version: OpenAI's fields, and what the version supports."""

    id: str = Field(examples=["mmface-dit:3"])
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "mmface"
    version: str = Field(description="Version in the model registry.", examples=["3"])
    default_size: str = Field(examples=["128x128"])
    min_size: int = Field(description="Shortest side, in pixels.", examples=[64])
    max_size: int = Field(description="Longest side, in pixels.", examples=[128])
    size_multiple: int = Field(description="Sides are multiples of this.", examples=[16])
    num_inference_steps: int = Field(description="Default.", examples=[20])
    max_num_inference_steps: int = Field(examples=[100])
    guidance_scale: float = Field(description="Default.", examples=[2.0])
    drawing_guidance_scale: float = Field(description="Default.", examples=[1.5])
    guidance_start: float = Field(description="Default.", examples=[0.0])
    guidance_end: float = Field(description="Default.", examples=[1.0])
    sampler: Sampler = Field(examples=["euler"])
    max_prompt_tokens: int = Field(examples=[77])


class ModelList(BaseModel):
    """Answer of ``/v1/models``."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]


class Health(BaseModel):
    """Answer of ``/healthz``."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Answer of ``/readyz``: the model has completed a forward pass in the last seconds, or is busy with one."""

    status: Literal["ready"] = "ready"
    model: str = Field(examples=["mmface-dit:3"])
    refused: str | None = Field(
        None, description="The champion's version if it cannot be loaded; `model` answers instead.", examples=["4"]
    )
    running: bool = Field(description="Whether the replica has unfinished generations.")
    queued: int = Field(description="Generations waiting in the replica that answered.")
    completed: int = Field(description="Generations finished since the replica started.")
    cancelled: int = Field(description="Generations cancelled because the client disconnected or the deadline passed.")


class ErrorDetail(BaseModel):
    """The error."""

    message: str = Field(description="One line: what is wrong and what to do.")
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(description="The request field at fault.")
    code: str | None = Field(description="A stable identifier for programs.")


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail

"""What goes over the wire: answers, and the job that an API process hands to a model replica."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from mmface.config import Sampler
from serve.http.requests import GenerateFields as GenerateFields
from serve.http.requests import Modality as Modality
from serve.http.requests import PictureFormat
from serve.http.requests import size_of as size_of


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
        description="What was adjusted: a prompt that was cut off, a drawing that was read with tolerance.",
        examples=[["312 pixels (1.9 %) were no palette colour and took the nearest label"]],
    )


class ModelInfo(BaseModel):
    """A served model version, in OpenAI's shape plus what it supports."""

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
    """Answer of ``/readyz``: the model has just done, or is doing, a forward pass."""

    status: Literal["ready"] = "ready"
    model: str = Field(examples=["mmface-dit:3"])
    refused: str | None = Field(
        None, description="The champion's version if it could not be loaded; `model` answers instead.", examples=["4"]
    )
    running: bool = Field(description="A generation is under way.")
    queued: int = Field(description="Generations waiting in the replica that answered.")
    completed: int = Field(description="Generations finished since its start.")
    cancelled: int = Field(description="Generations given up because the client left or the deadline passed.")


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str = Field(description="One line: what is wrong and what to do.")
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(description="The request field at fault.")
    code: str | None = Field(description="A stable word for programs.")


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail


@dataclass(frozen=True)
class Job:
    """A checked request on its way to a replica.

    ``condition`` is what the client drew, ``[H, W]`` uint8 at its own size: a mask's labels or a sketch's grey.
    ``seeds`` has ``fields.n`` entries. ``version`` is the model version that the client insists on. ``traceparent`` is
    the client's own trace, as W3C's header of that name gives it.
    """

    modality: Modality
    condition: npt.NDArray[np.uint8]
    fields: GenerateFields
    seeds: tuple[int, ...]
    version: str | None = None
    request_id: str = ""
    traceparent: str | None = None


@dataclass(frozen=True)
class Progress:
    """What a replica tells about a job on its way.

    Attributes:
        ahead: generations in front of it; 0 once it is being painted.
        step, steps: denoising steps done, of how many; 0 while it waits.
        images: ``[n, H, W, 3]`` uint8, a preview; None between previews.
        preview: which of the asked-for previews, from 0.
    """

    ahead: int
    step: int
    steps: int
    images: npt.NDArray[np.uint8] | None = None
    preview: int = 0


@dataclass(frozen=True)
class Generated:
    """A replica's answer: ``images`` ``[n, H, W, 3]`` uint8, and what they were made with."""

    images: npt.NDArray[np.uint8]
    seeds: tuple[int, ...]
    model: str
    version: str
    num_inference_steps: int
    guidance_scale: float
    sampler: str
    warnings: tuple[str, ...]

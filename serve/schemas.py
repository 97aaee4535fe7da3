"""What goes over the wire: request fields, answers, and the job that an API process hands to a model replica."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from mmface.config import Sampler

Modality = Literal["mask", "sketch"]
MAX_SEED = 2**63 - 1
MAX_PROMPT = 10_000
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SIZE = re.compile(r"([0-9]{1,5})(?:x([0-9]{1,5}))?")

Prompt = Annotated[str, Field(max_length=MAX_PROMPT)]


class GenerateFields(BaseModel):
    """The fields of ``/v1/generate/*`` beside the condition. What is absent comes from the model's own recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: Prompt = Field(
        description="What the portrait shows. Empty means no text guidance. Text beyond the text encoder's limit is "
        "cut off and reported in `warnings`.",
        examples=["a woman with blond hair, smiling"],
    )
    negative_prompt: Prompt = Field("", description="What guidance moves away from.", examples=[""])
    seed: int | None = Field(
        None,
        ge=0,
        le=MAX_SEED,
        description="Seed of the first image; image i has seed + i. Drawn and reported if absent.",
        examples=[7],
    )
    n: int = Field(1, ge=1, le=8, description="How many images, in one batch.", examples=[1])
    size: str | None = Field(
        None,
        pattern=rf"^{_SIZE.pattern}$",
        description="`WIDTHxHEIGHT` or one number for a square, in pixels; `/v1/models` lists what the model supports.",
        examples=["128x128"],
    )
    num_inference_steps: int | None = Field(None, ge=1, le=1000, description="Denoising steps.", examples=[20])
    guidance_scale: float | None = Field(
        None, ge=0, le=100, allow_inf_nan=False, description="Weight of the prompt; 1 is no guidance.", examples=[2.0]
    )
    response_format: Literal["b64_json"] = Field("b64_json", description="How images are embedded in JSON.")

    @field_validator("size", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _printable(cls, value: str) -> str:
        if _CONTROL.search(value):
            raise ValueError("control characters are not allowed; send plain text")
        return value

    @field_validator("n")
    @classmethod
    def _last_seed(cls, n: int, info: ValidationInfo) -> int:
        seed = info.data.get("seed")
        if seed is not None and seed + n - 1 > MAX_SEED:
            raise ValueError(f"image i has seed + i, which must stay below {MAX_SEED + 1}")
        return n


def size_of(size: str) -> tuple[int, int]:
    """``"64x128"`` or ``"64"`` → (width, height)."""
    match = _SIZE.fullmatch(size)
    assert match is not None  # the field's pattern
    return int(match[1]), int(match[2] or match[1])


class ConvertFields(BaseModel):
    """``/v1/conditions/*`` takes a photograph and nothing else."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ImageData(BaseModel):
    """One generated image."""

    b64_json: str = Field(description="The PNG, base64.")
    seed: int = Field(description="Send it with n = 1 to get this image again.")


class GenerateResponse(BaseModel):
    """Generated images and the model version that made them."""

    created: int = Field(description="Unix time.", examples=[1767225600])
    model: str = Field(examples=["mmface-dit:3"])
    data: list[ImageData]
    warnings: list[str] = Field(description="What was adjusted, such as a prompt that was cut off.", examples=[[]])


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
    ``seeds`` has ``fields.n`` entries.
    """

    modality: Modality
    condition: npt.NDArray[np.uint8]
    fields: GenerateFields
    seeds: tuple[int, ...]


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

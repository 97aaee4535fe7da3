"""What a client sends: the fields of a request with their limits, as ``/docs`` shows them."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from mmface.config import Sampler

Modality = Literal["mask", "sketch"]
Fit = Literal["crop", "pad", "stretch"]
PictureFormat = Literal["png", "webp", "jpeg"]
Quality = Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"]  # OpenAI's values
MAX_IMAGES = 8
MAX_SEED = 2**63 - 1
MAX_PROMPT = 10_000
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SIZE = re.compile(r"([0-9]{1,5})(?:x([0-9]{1,5}))?")
_SEEDS = re.compile(r"[0-9]{1,19}(,[0-9]{1,19})+")

Prompt = Annotated[str, Field(max_length=MAX_PROMPT)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
# Without fail_fast, a list of a million wrong items would give a million errors.
Seeds = Annotated[list[Seed], Field(min_length=1, max_length=MAX_IMAGES, fail_fast=True)]


class UploadRequest(BaseModel):
    """The fields of an upload, without its picture.

    Validate with ``context="text"`` where numbers and lists come as text (multipart). The ``title`` of each subclass
    is its name in the OpenAPI document.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


class GenerateRequest(UploadRequest):
    """The fields of ``/v1/generate/*`` besides the condition. Absent fields take the defaults of the model's recipe."""

    model_config = ConfigDict(title="GenerateFields")

    prompt: Prompt = Field(
        description="What the portrait shows. Empty means no text guidance. Text beyond the text encoder's limit is "
        "truncated, and `warnings` says so.",
        examples=["a woman with blond hair, smiling"],
    )
    negative_prompt: Prompt = Field("", description="What the portrait should not show.", examples=["hat"])
    seed: Seed | Seeds | None = Field(
        None,
        description="Seed of the first image; image i has seed + i. Or a list of n seeds, in multipart as `1,2,3`. "
        "If absent, a random seed is used and reported. The same model version, seed and fields give the same picture.",
        examples=[7, [7, 11]],
    )
    n: int = Field(1, ge=1, le=MAX_IMAGES, description="How many images.", examples=[1], validate_default=True)
    size: str | None = Field(
        None,
        pattern=rf"^(auto|{_SIZE.pattern})$",
        description="`WIDTHxHEIGHT`, one number for a square, in pixels, or `auto` for the model's default; "
        "`/v1/models` lists what the model supports.",
        examples=["128x128", "auto"],
    )
    fit: Fit = Field(
        "crop",
        description="How a drawing is brought to the aspect ratio of `size`: `crop` keeps its middle, `pad` adds "
        "background (masks) or paper (sketches), `stretch` distorts it.",
        examples=["pad"],
    )
    num_inference_steps: int | None = Field(None, ge=1, le=1000, description="Denoising steps.", examples=[20])
    guidance_scale: float | None = Field(
        None, ge=0, le=100, allow_inf_nan=False, description="Weight of the prompt; 1 is no guidance.", examples=[2.0]
    )
    drawing_guidance_scale: float | None = Field(
        None, ge=0, le=100, allow_inf_nan=False, description="Weight of the drawing; 1 is no guidance.", examples=[1.5]
    )
    guidance_start: float | None = Field(
        None, ge=0, le=1, description="Share of the steps after which guidance begins.", examples=[0.2]
    )
    guidance_end: float | None = Field(
        None, ge=0, le=1, description="Share of the steps after which guidance ends.", examples=[0.8]
    )
    sampler: Sampler | None = Field(None, description="The model's default if absent.", examples=["euler"])
    output_format: PictureFormat = Field("png", description="File format of the pictures.", examples=["webp"])
    output_compression: int | None = Field(
        None,
        ge=0,
        le=100,
        description="Quality of webp and jpeg: 100, the default, keeps most; 0 is smallest. Ignored for png, "
        "and `warnings` says so.",
        examples=[90],
    )
    response_format: Literal["b64_json"] = Field("b64_json", description="How pictures are embedded in JSON.")
    stream: bool = Field(
        False, description="Answer with server-sent events: position in the queue, steps, previews, the result."
    )
    partial_images: int = Field(
        0, ge=0, le=4, description="How many previews, evenly spread over the steps; with `stream`.", examples=[2]
    )

    @field_validator("size", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("size")
    @classmethod
    def _auto(cls, value: str | None) -> str | None:
        return None if value == "auto" else value

    @field_validator("seed", mode="before")
    @classmethod
    def _list(cls, value: object, info: ValidationInfo) -> object:
        if info.context == "text" and isinstance(value, str) and _SEEDS.fullmatch(value):
            return [int(seed) for seed in value.split(",")]
        return value

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _printable(cls, value: str) -> str:
        if _CONTROL.search(value):
            raise ValueError("control characters are not allowed; send plain text")
        return value

    @field_validator("n")
    @classmethod
    def _seed_of_each(cls, n: int, info: ValidationInfo) -> int:
        seed = info.data.get("seed")
        if isinstance(seed, int) and seed + n - 1 > MAX_SEED:
            raise ValueError(f"image i has seed + i, which must stay below {MAX_SEED + 1}")
        if isinstance(seed, list) and len(seed) != n:
            raise ValueError(f"{len(seed)} seeds were listed for n = {n}; list n seeds, or give the first one")
        return n

    @field_validator("partial_images")
    @classmethod
    def _streamed(cls, count: int, info: ValidationInfo) -> int:
        if count and info.data.get("stream") is False:
            raise ValueError("previews need stream = true")
        return count


class EditRequest(GenerateRequest):
    """The fields of ``/v1/images/edits`` besides the picture: OpenAI's, and those of ``/v1/generate/*``."""

    model_config = ConfigDict(title="EditFields")

    model: Annotated[str, Field(max_length=200)] | None = Field(
        None,
        description="Name of the served model, or `NAME:VERSION` to require a version; 404 if it is not served.",
        examples=["mmface-dit"],
    )
    modality: Modality | None = Field(
        None,
        description="What the picture is. If absent, a picture in the labels or the palette of masks is a mask, and "
        "any other a sketch; `warnings` says which.",
        examples=["sketch"],
    )
    user: Annotated[str, Field(max_length=200)] | None = Field(None, description="Accepted, not used.")
    safety_identifier: Annotated[str, Field(max_length=200)] | None = Field(None, description="Accepted, not used.")
    quality: Quality = Field("auto", description="Not used, and `warnings` says so: `num_inference_steps` decides.")
    input_fidelity: Literal["high", "low"] | None = Field(
        None, description="Not used, and `warnings` says so: the drawing is always followed."
    )
    background: Literal["auto", "opaque"] = Field("auto", description="Pictures are opaque.")

    def unused(self) -> list[str]:
        """Warnings about OpenAI's fields that were sent but have no effect here."""
        sent = {"quality": self.quality != "auto", "input_fidelity": self.input_fidelity is not None}
        return [f"{name} is not used here" for name, given in sent.items() if given]


class ConvertRequest(UploadRequest):
    """``/v1/conditions/*`` takes a photograph and no fields."""

    model_config = ConfigDict(title="ConvertFields")


def size_of(size: str) -> tuple[int, int]:
    """``"64x128"`` or ``"64"`` → (width, height)."""
    match = _SIZE.fullmatch(size)
    assert match is not None  # the field's pattern
    return int(match[1]), int(match[2] or match[1])

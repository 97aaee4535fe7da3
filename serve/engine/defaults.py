"""A model's defaults and limits, and jobs with those defaults filled in."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from mmface.config import Serve
from mmface.config.guidance import Guidance
from mmface.errors import InputError
from serve.engine.painting import Painting, Pixels
from serve.http.errors import UnknownModelError
from serve.http.job import Job, Progress
from serve.http.requests import size_of
from serve.http.schemas import ModelInfo

if TYPE_CHECKING:
    from mmface.bundles.bundle import Bundle


def model_info(bundle: Bundle, settings: Serve) -> ModelInfo:
    """What a bundle supports, and its defaults, from its recipe."""
    recipe, pipeline = bundle.recipe, bundle.pipeline
    resolution = recipe.phases[-1].resolution
    return ModelInfo(
        id=f"{settings.model_name}:{bundle.version}",
        version=str(bundle.version),
        created=int(time.time()),
        default_size=f"{resolution}x{resolution}",
        min_size=recipe.resolutions[0],
        max_size=recipe.resolutions[-1],
        size_multiple=pipeline.size_multiple,
        num_inference_steps=recipe.sampling.num_inference_steps,
        max_num_inference_steps=settings.max_steps,
        **asdict(Guidance.of(recipe.sampling)),
        sampler=recipe.sampling.sampler,
        max_prompt_tokens=pipeline.tokenizer.model_max_length,
    )


def make_painting(
    job: Job,
    info: ModelInfo,
    on_progress: Callable[[Progress], None],
    on_end: Callable[[Pixels | BaseException], None],
) -> Painting:
    """Checks a job against the model's limits and fills in the model's defaults.

    Raises:
        InputError: a size or step count that this model does not support.
        UnknownModelError: the job requires another version.
    """
    request = job.request
    if job.version not in (None, info.version):
        raise UnknownModelError(f"that version is not served; {info.id} is", field="model")
    width, height = size_of(request.size or info.default_size)
    if width % info.size_multiple or height % info.size_multiple:
        raise InputError(f"sides must be multiples of {info.size_multiple}, got {width}x{height}", field="size")
    if min(width, height) < info.min_size or max(width, height) > info.max_size:
        message = f"{width}x{height} is not supported; sides must be {info.min_size} to {info.max_size} pixels"
        raise InputError(message, field="size")
    steps = info.num_inference_steps if request.num_inference_steps is None else request.num_inference_steps
    if steps > info.max_num_inference_steps:
        raise InputError(f"at most {info.max_num_inference_steps} steps, got {steps}", field="num_inference_steps")
    return Painting(
        job=job,
        width=width,
        height=height,
        num_inference_steps=steps,
        guidance=Guidance.of(info, request),
        sampler=request.sampler or info.sampler,
        on_progress=on_progress,
        on_end=on_end,
    )

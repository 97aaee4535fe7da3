"""From a request and a model to what exactly is painted."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmface.config import Sampler, Serve
from mmface.errors import InputError
from serve.http.errors import UnknownModelError
from serve.http.schemas import Job, ModelInfo, size_of

if TYPE_CHECKING:
    from mmface.bundles.bundle import Bundle


@dataclass(frozen=True)
class Plan:
    """A job with every default filled in; ``left`` is set when its caller has gone."""

    job: Job
    seeds: tuple[int, ...]
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    sampler: Sampler
    previews: int = 0
    left: threading.Event = field(default_factory=threading.Event)

    @property
    def evaluations(self) -> int:
        """How often an image asks the network; what its caller knows as steps."""
        return 2 * self.num_inference_steps - 1 if self.sampler == "heun" else self.num_inference_steps

    @property
    def preview_steps(self) -> list[int]:
        """After which evaluations to show a preview: evenly spread, never the last."""
        count = min(self.previews, self.evaluations - 1)
        return [(i + 1) * self.evaluations // (count + 1) for i in range(count)]


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
        guidance_scale=recipe.sampling.guidance_scale,
        sampler=recipe.sampling.sampler,
        max_prompt_tokens=pipeline.tokenizer.model_max_length,
    )


def make_plan(job: Job, info: ModelInfo) -> Plan:
    """Fills in the model's defaults and checks its limits.

    Raises:
        InputError: a size or step count this model does not support.
        UnknownModelError: the job insists on another version.
    """
    fields = job.fields
    if job.version not in (None, info.version):
        raise UnknownModelError(f"that version is not served; {info.id} is", field="model")
    width, height = size_of(fields.size or info.default_size)
    if width % info.size_multiple or height % info.size_multiple:
        raise InputError(f"sides must be multiples of {info.size_multiple}, got {width}x{height}", field="size")
    if min(width, height) < info.min_size or max(width, height) > info.max_size:
        message = f"{width}x{height} is not supported; sides from {info.min_size} to {info.max_size}"
        raise InputError(message, field="size")
    steps = info.num_inference_steps if fields.num_inference_steps is None else fields.num_inference_steps
    if steps > info.max_num_inference_steps:
        raise InputError(f"at most {info.max_num_inference_steps} steps, got {steps}", field="num_inference_steps")
    return Plan(
        job=job,
        seeds=job.seeds,
        width=width,
        height=height,
        num_inference_steps=steps,
        guidance_scale=info.guidance_scale if fields.guidance_scale is None else fields.guidance_scale,
        sampler=fields.sampler or info.sampler,
        previews=fields.partial_images,
    )

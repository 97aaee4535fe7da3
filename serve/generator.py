"""A model replica: one worker thread denoises, the event loop queues, cancels and answers for it (§9).

Plain Python: the app puts it on Ray Serve, tests drive it directly. Prompts are never logged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from mmface.config import Serve
from mmface.errors import ServiceError
from serve.errors import OverloadedError
from serve.plan import Plan, make_plan, model_info
from serve.schemas import Generated, Job, Modality, ModelInfo, Readiness

if TYPE_CHECKING:
    from mmface.bundle import Bundle
    from serve.converter import Converter

log = logging.getLogger(__name__)

FRESH_S = 5.0  # a forward pass this young proves readiness
STUCK_FACTOR = 2.0  # deadlines without a denoising step that count as a hang


class GenerationCancelled(Exception):
    """Raised inside the denoising loop when nobody waits for its result any more."""


@dataclass
class Counters:
    """What a replica has done since its start. Each field is written by one thread only."""

    pending: int = 0
    completed: int = 0
    cancelled: int = 0
    steps: int = 0
    last_forward: float = float("-inf")
    mean_seconds: float = 1.0  # of a generation, running


class Generator:
    """Serves one bundle, one generation at a time.

    Args:
        bundle: what :func:`mmface.registry.load_bundle` returns; its recipe gives the defaults.
        settings: the model's name and the limits.
    """

    def __init__(self, bundle: Bundle, settings: Serve) -> None:
        self.pipeline = bundle.pipeline
        self.recipe = bundle.recipe
        self.settings = settings
        self.info = model_info(bundle, settings)
        self.counters = Counters()
        # One thread is the slot: a cancelled generation keeps it until its current step has ended.
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="denoise")
        self._converter: Converter | None = None
        self._converting = ThreadPoolExecutor(max_workers=1, thread_name_prefix="convert")
        self._probe()

    async def describe(self) -> ModelInfo:
        """What this version supports, and its defaults."""
        return self.info

    async def generate(self, job: Job) -> Generated:
        """Paints ``job.fields.n`` images. Cancelling the call frees the worker within one denoising step.

        Raises:
            InputError: a size or step count this model does not support.
            OverloadedError: ``settings.max_queued`` generations are waiting already.
        """
        plan = make_plan(job, self.info)
        waiting = self.counters.pending - 1
        if waiting >= self.settings.max_queued:
            seconds = self.counters.pending * self.counters.mean_seconds
            raise OverloadedError(f"{waiting} generations are waiting; try again later", retry_after_s=seconds)
        self.counters.pending += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, self._generate, plan)
        except asyncio.CancelledError:
            plan.left.set()
            self.counters.cancelled += 1
            raise
        finally:
            self.counters.pending -= 1

    async def convert(self, photo: bytes, modality: Modality) -> bytes:
        """A photograph's mask or sketch, PNG. The networks load with the first call.

        Raises:
            InputError: not a picture.
        """
        return await asyncio.get_running_loop().run_in_executor(self._converting, self._convert, photo, modality)

    async def ready(self) -> Readiness:
        """Answers after a real forward pass, unless one has just been done or is being done.

        Raises:
            ServiceError: the model's output is not finite.
        """
        if not self.counters.pending and not self._fresh():
            await asyncio.get_running_loop().run_in_executor(self._worker, self._probe)
        pending = self.counters.pending
        return Readiness(
            model=self.info.id,
            running=pending > 0,
            queued=max(0, pending - 1),
            completed=self.counters.completed,
            cancelled=self.counters.cancelled,
        )

    async def check_health(self) -> None:
        """Ray Serve calls this periodically and replaces a replica for which it raises."""
        idle = time.monotonic() - self.counters.last_forward
        if self.counters.pending and idle > STUCK_FACTOR * self.settings.timeout_s:
            raise ServiceError(f"no denoising step for {idle:.0f} s", field="serve.timeout_s")
        await self.ready()

    def _convert(self, photo: bytes, modality: Modality) -> bytes:
        if self._converter is None:
            from serve.converter import Converter

            self._converter = Converter(self.recipe.components, self.settings.max_condition_megapixels)
        return self._converter(photo, modality)

    def _generate(self, plan: Plan) -> Generated:
        """Runs in the worker thread."""
        # A long first step is no hang: the clock of check_health starts with the generation.
        started = self.counters.last_forward = time.monotonic()
        batches = [
            plan.seeds[first : first + self.settings.max_batch]
            for first in range(0, len(plan.seeds), self.settings.max_batch)
        ]
        images = np.concatenate([self._paint(plan, seeds) for seeds in batches])
        self.counters.completed += 1
        self.counters.mean_seconds += 0.2 * (time.monotonic() - started - self.counters.mean_seconds)
        return Generated(
            images=images,
            seeds=plan.seeds,
            model=self.info.id,
            version=self.info.version,
            num_inference_steps=plan.num_inference_steps,
            guidance_scale=plan.guidance_scale,
            sampler=self.recipe.sampling.sampler,
            warnings=tuple(self._cut_off("prompt", plan) + self._cut_off("negative_prompt", plan)),
        )

    def _paint(self, plan: Plan, seeds: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """One batch: ``[len(seeds), H, W, 3]``."""

        def on_step(done: int, total: int, latents: torch.Tensor) -> None:
            self.counters.last_forward = time.monotonic()
            self.counters.steps += 1
            if plan.left.is_set():
                log.info("generation cancelled after step %d of %d", done, total)
                raise GenerationCancelled

        images, _ = self.pipeline(
            prompt=plan.job.fields.prompt,
            condition=Image.fromarray(plan.job.condition),
            modality=plan.job.modality,
            negative_prompt=plan.job.fields.negative_prompt,
            height=plan.height,
            width=plan.width,
            num_inference_steps=plan.num_inference_steps,
            guidance_scale=plan.guidance_scale,
            seeds=list(seeds),
            on_step=on_step,
            return_dict=False,
        )
        return np.stack([np.asarray(image) for image in images])

    def _cut_off(self, name: str, plan: Plan) -> list[str]:
        tokenizer = self.pipeline.tokenizer
        tokens = len(tokenizer(getattr(plan.job.fields, name), truncation=False).input_ids)
        limit = tokenizer.model_max_length
        return [f"{name}: {tokens} tokens cut to the text encoder's {limit}"] if tokens > limit else []

    def _fresh(self) -> bool:
        return time.monotonic() - self.counters.last_forward < FRESH_S

    def _probe(self) -> None:
        """The smallest real generation; several callers share one."""
        if self._fresh():
            return
        side = self.recipe.resolutions[0]
        latents, _ = self.pipeline(
            prompt="",
            condition=torch.zeros(1, 3, side, side),
            num_inference_steps=1,
            guidance_scale=1.0,
            seeds=[0],
            output_type="latent",
            return_dict=False,
        )
        assert isinstance(latents, torch.Tensor)
        if not torch.isfinite(latents).all():
            raise ServiceError(f"{self.info.id} answers with numbers that are not finite; roll the alias back")
        self.counters.last_forward = time.monotonic()

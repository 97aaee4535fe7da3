"""A model as an asynchronous service: the engine paints in its own thread, the event loop handles the requests (§9).

Independent of Ray: the deployment puts it on Ray Serve, tests call it directly. Prompts are never logged.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch

from mmface.config import Serve
from mmface.errors import ServiceError, UnhealthyModelError
from serve.engine.defaults import make_painting, model_info
from serve.engine.denoiser import OnStep
from serve.engine.engine import Engine
from serve.engine.footprint import ran_out_of_memory, room_for
from serve.engine.painting import Painting, Pixels
from serve.engine.threads import in_own_thread
from serve.engine.traces import Trace, begin, tracer_to
from serve.http.errors import MemoryShortageError, OverloadedError
from serve.http.job import Generated, Job, Progress
from serve.http.requests import Modality
from serve.http.schemas import ModelInfo, Readiness

if TYPE_CHECKING:
    from mmface.bundles.bundle import Bundle
    from serve.engine.converter import Converter

FRESH_S = 5.0  # age in seconds up to which a forward pass proves readiness
STUCK_FACTOR = 2.0  # the engine hangs if it does no denoising step for this many times the deadline


class Generator:
    """Serves one bundle.

    Args:
        bundle: what :func:`mmface.bundles.registry.load_bundle` returns; its recipe gives the defaults.
        settings: the model's name and the limits.
        on_step: called after each step with the number of images advanced and its duration.
    """

    def __init__(self, bundle: Bundle, settings: Serve, on_step: OnStep = lambda images, seconds: None) -> None:
        self.pipeline = bundle.pipeline
        self.recipe = bundle.recipe
        self.settings = settings
        self.info = model_info(bundle, settings)
        room = room_for(bundle.pipeline, self.recipe.resolutions[-1], settings)
        self.engine = Engine(bundle.pipeline, room, on_step)
        self._tracer = tracer_to(settings.traces) if settings.traces else None
        self._mean_seconds = 1.0  # running mean of a request's duration
        self._converter: Converter | None = None
        self._converting = asyncio.Lock()
        try:
            self._probe()
        except BaseException:
            self.engine.close()  # or its thread would keep the weights
            raise

    async def describe(self) -> list[ModelInfo]:
        """What this version supports, and its defaults."""
        return [self.info]

    async def generate(self, job: Job) -> Generated:
        """Generates the images of ``job``; errors as in :meth:`stream`."""
        async with aclosing(self.stream(job)) as events:
            async for event in events:
                if isinstance(event, Generated):
                    return event
        raise AssertionError("a stream ends with Generated")

    async def stream(self, job: Job) -> AsyncIterator[Progress | Generated]:
        """Yields the progress of ``job``, then its images. Closing the iterator frees the engine within one step.

        Raises:
            InputError: a size or step count that this model does not support.
            OverloadedError: ``settings.max_queued`` requests are waiting already.
            MemoryShortageError: there was not enough memory.
            GenerationError: a step failed.
            ServiceError: the engine has stopped.
        """
        loop, started = asyncio.get_running_loop(), time.monotonic()
        events: asyncio.Queue[Progress | Pixels | BaseException] = asyncio.Queue()

        def put(event: Progress | Pixels | BaseException) -> None:
            if not painting.cancelled.is_set() and not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        painting = make_painting(job, self.info, on_progress=put, on_end=put)
        self._require_room()
        painting.trace = self._begin_trace(painting)
        event: Progress | Pixels | BaseException | None = None
        try:
            self.engine.submit(painting)
            while isinstance(event := await events.get(), Progress):
                yield event
        finally:
            painting.cancelled.set()
            painting.trace.end(None if isinstance(event, Progress) else event)
        if isinstance(event, BaseException):
            raise event
        self._mean_seconds += 0.2 * (time.monotonic() - started - self._mean_seconds)
        yield self._generated(painting, event)

    async def convert(self, photo: bytes, modality: Modality) -> bytes:
        """The mask or sketch of a photograph, PNG. The first call loads the networks.

        Raises:
            InputError: ``photo`` cannot be decoded, or has too many pixels.
            MemoryShortageError: there was not enough memory.
        """
        async with self._converting:
            with _memory_errors():
                return await in_own_thread(lambda: self._convert(photo, modality))

    async def ready(self) -> Readiness:
        """Does a real forward pass, unless one was done in the last seconds or the engine is busy.

        Raises:
            UnhealthyModelError: the model's output is not finite.
            ServiceError: memory ran out, or the engine has stopped.
        """
        engine = self.engine
        if not engine.alive:
            raise ServiceError("the engine has stopped; see the replica's log")
        if not engine.pending and not self._fresh():
            with _memory_errors():
                await in_own_thread(self._probe)
        return Readiness(
            model=self.info.id,
            running=engine.pending > 0,
            queued=engine.waiting(),
            completed=engine.counters.completed,
            cancelled=engine.counters.cancelled,
        )

    async def check_health(self) -> None:
        """Raises if the replica should be replaced; Ray Serve calls this periodically."""
        idle = time.monotonic() - self.engine.counters.last_forward
        if self.engine.pending and idle > STUCK_FACTOR * self.settings.timeout_s:
            raise ServiceError(f"no denoising step for {idle:.0f} s", field="serve.timeout_s")
        await self.ready()

    def _convert(self, photo: bytes, modality: Modality) -> bytes:
        if self._converter is None:
            from serve.engine.converter import Converter

            limits = self.settings.max_condition_megapixels, self.recipe.picture_side
            self._converter = Converter(self.recipe.components, *limits)
        return self._converter(photo, modality)

    def _require_room(self) -> None:
        waiting = self.engine.waiting()
        if waiting >= self.settings.max_queued:
            turns = math.ceil(self.engine.pending / self.settings.max_batch)
            message = f"{waiting} requests are waiting; try again later"
            raise OverloadedError(message, retry_after_s=turns * self._mean_seconds)

    def _begin_trace(self, painting: Painting) -> Trace:
        size = f"{painting.width}x{painting.height}"
        steps = painting.num_inference_steps
        return begin(self._tracer, painting.job, model=self.info.id, steps=steps, size=size)

    def _generated(self, painting: Painting, images: Pixels) -> Generated:
        request = painting.job.request
        warnings = self._truncation("prompt", request.prompt)
        warnings += self._truncation("negative_prompt", request.negative_prompt)
        return Generated(
            images=images,
            seeds=painting.job.seeds,
            model=self.info.id,
            version=self.info.version,
            num_inference_steps=painting.num_inference_steps,
            **asdict(painting.guidance),
            sampler=painting.sampler,
            warnings=tuple(warnings),
        )

    def _truncation(self, field: str, text: str) -> list[str]:
        """A warning if ``text`` has more tokens than the text encoder reads."""
        tokenizer = self.pipeline.tokenizer
        tokens, limit = len(tokenizer(text, truncation=False).input_ids), tokenizer.model_max_length
        return [f"{field}: {tokens} tokens were truncated to the text encoder's {limit}"] if tokens > limit else []

    def _fresh(self) -> bool:
        return time.monotonic() - self.engine.counters.last_forward < FRESH_S

    def _probe(self) -> None:
        """Does the smallest real generation, unless another caller has just done one."""
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
            raise UnhealthyModelError(f"the output of {self.info.id} is not finite; roll the alias back")
        self.engine.counters.last_forward = time.monotonic()


@contextmanager
def _memory_errors() -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        raise MemoryShortageError("out of memory; try again later") from None

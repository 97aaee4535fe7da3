"""A model as an asynchronous service: the engine paints in its thread, the event loop queues and answers for it (§9).

Plain Python: the app puts it on Ray Serve, tests drive it directly. Prompts are never logged.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING

import torch

from mmface.config import Serve
from mmface.errors import ServiceError
from serve.engine.defaults import Plan, make_plan, model_info
from serve.engine.engine import Engine, OnStep
from serve.engine.footprint import ran_out_of_memory, room_for
from serve.engine.painting import Painting, Pixels
from serve.engine.threads import in_own_thread
from serve.engine.traces import begin, tracer_to
from serve.http.errors import MemoryShortageError, OverloadedError
from serve.http.schemas import Generated, Job, Modality, ModelInfo, Progress, Readiness

if TYPE_CHECKING:
    from mmface.bundles.bundle import Bundle
    from serve.engine.converter import Converter

FRESH_S = 5.0  # a forward pass this young proves readiness
STUCK_FACTOR = 2.0  # deadlines without a denoising step that count as a hang


class Generator:
    """Serves one bundle.

    Args:
        bundle: what :func:`mmface.bundles.registry.load_bundle` returns; its recipe gives the defaults.
        settings: the model's name and the limits.
        on_step: told how many images a denoising step moved on, and its seconds.
    """

    def __init__(self, bundle: Bundle, settings: Serve, on_step: OnStep = lambda images, seconds: None) -> None:
        self.pipeline = bundle.pipeline
        self.recipe = bundle.recipe
        self.settings = settings
        self.info = model_info(bundle, settings)
        room = room_for(bundle.pipeline, self.recipe.resolutions[-1], settings)
        self.engine = Engine(bundle.pipeline, room, on_step)
        self._tracer = tracer_to(settings.traces) if settings.traces else None
        self._mean_seconds = 1.0  # of a request, running
        self._converter: Converter | None = None
        self._converting = asyncio.Lock()
        try:
            self._probe()
        except BaseException:
            self.engine.close()  # else its thread keeps the weights
            raise

    async def describe(self) -> list[ModelInfo]:
        """What this version supports, and its defaults."""
        return [self.info]

    async def generate(self, job: Job) -> Generated:
        """Paints ``job.fields.n`` images; see :meth:`stream`."""
        async with aclosing(self.stream(job)) as events:
            async for event in events:
                if isinstance(event, Generated):
                    return event
        raise AssertionError("a stream ends with what was generated")

    async def stream(self, job: Job) -> AsyncIterator[Progress | Generated]:
        """Tells how ``job`` fares, then what was painted. Leaving frees the engine within one denoising step.

        Raises:
            InputError: a size or step count this model does not support.
            OverloadedError: ``settings.max_queued`` requests are waiting already.
            MemoryShortageError: there was not enough memory.
            GenerationError: a step failed.
            ServiceError: the engine has stopped.
        """
        plan = make_plan(job, self.info)
        self._require_room()
        loop, started = asyncio.get_running_loop(), time.monotonic()
        events: asyncio.Queue[Progress | Pixels | BaseException] = asyncio.Queue()

        def put(event: Progress | Pixels | BaseException) -> None:
            if not plan.left.is_set() and not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        trace = begin(self._tracer, plan, self.info)
        event: Progress | Pixels | BaseException | None = None
        try:
            self.engine.submit(Painting(plan, tell=put, finish=put, trace=trace))
            while isinstance(event := await events.get(), Progress):
                yield event
        finally:
            plan.left.set()
            trace.end(None if isinstance(event, Progress) else event)
        if isinstance(event, BaseException):
            raise event
        self._mean_seconds += 0.2 * (time.monotonic() - started - self._mean_seconds)
        yield self._generated(plan, event)

    async def convert(self, photo: bytes, modality: Modality) -> bytes:
        """A photograph's mask or sketch, PNG. The networks load with the first call.

        Raises:
            InputError: not a picture.
            MemoryShortageError: there was not enough memory.
        """
        async with self._converting:
            with _memory_errors():
                return await in_own_thread(lambda: self._convert(photo, modality))

    async def ready(self) -> Readiness:
        """Answers after a real forward pass, unless one has just been done or is being done.

        Raises:
            ServiceError: the model's output is not finite, there is no memory for it, or the engine has stopped.
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
        """Ray Serve calls this periodically and replaces a replica for which it raises."""
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

    def _generated(self, plan: Plan, images: Pixels) -> Generated:
        return Generated(
            images=images,
            seeds=plan.seeds,
            model=self.info.id,
            version=self.info.version,
            num_inference_steps=plan.num_inference_steps,
            guidance_scale=plan.guidance_scale,
            sampler=plan.sampler,
            warnings=tuple(self._cut_off("prompt", plan) + self._cut_off("negative_prompt", plan)),
        )

    def _cut_off(self, name: str, plan: Plan) -> list[str]:
        tokenizer = self.pipeline.tokenizer
        tokens = len(tokenizer(getattr(plan.job.fields, name), truncation=False).input_ids)
        limit = tokenizer.model_max_length
        return [f"{name}: {tokens} tokens cut to the text encoder's {limit}"] if tokens > limit else []

    def _fresh(self) -> bool:
        return time.monotonic() - self.engine.counters.last_forward < FRESH_S

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
        self.engine.counters.last_forward = time.monotonic()


@contextmanager
def _memory_errors() -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        raise MemoryShortageError("out of memory; try again later") from None

"""Ray Serve deployments: an ingress that checks requests, and replicas that hold the model.

Only replicas import torch, when they start, so that neither the ingress nor the command line waits for it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, aclosing, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from mmface.config import Serve
from mmface.errors import MMFaceError, ServiceError
from serve.deploy.watching import bind_watch, report_to
from serve.http.errors import ApiError
from serve.http.job import Generated

if TYPE_CHECKING:
    from fastapi import FastAPI

    from serve.engine.generator import Generator
    from serve.guards.access import Key
    from serve.http.job import Job, Progress
    from serve.http.requests import Modality
    from serve.http.schemas import ModelInfo, Readiness

UNSERVED = "serve.alias"  # field of the error that a replica without a model raises
PROBES = 8  # calls that a replica takes besides generations: readiness, models, conversions


class Replica:
    """Serves the versions that the aliases point to (:class:`serve.deploy.models.Models`), and exports metrics.

    It starts even if no model can be loaded; until one can, its calls raise a ServiceError that says why.

    Args:
        watch: gets what there is to know about requests if ``serve.canary.auto`` is set.
    """

    async def __init__(
        self,
        settings: Serve,
        threads: int,
        environment: dict[str, str],
        watch: DeploymentHandle[Any] | None = None,
    ) -> None:
        os.environ.update(environment)
        import torch
        from diffusers.utils.logging import disable_progress_bar

        from serve.canary.observer import Observer
        from serve.deploy.drift import DriftExport
        from serve.deploy.gauges import CanaryGauges, Gauges
        from serve.deploy.models import Models

        disable_progress_bar()  # loading would fill the log with it
        # Ray limits OpenMP to the CPUs that the actor reserves; denoising should use the whole machine.
        torch.set_num_threads(threads)
        self._gauges = Gauges()
        device = "cuda" if settings.use_gpu else "cpu"
        self._models = Models(settings, self._gauges.step, self._gauges.swap, device)
        await self._models.look()
        self._following = asyncio.create_task(self._models.follow())
        self._drift = DriftExport(settings, self._gauges.drift)
        self._exporting = asyncio.create_task(self._drift.follow())
        self._observer: Observer | None = None
        if watch is not None:
            self._observer = Observer(settings, report_to(watch), CanaryGauges().skipped)
            self._observing = asyncio.create_task(self._observer.run())

    async def generate(self, job: Job) -> Generated:
        """See :meth:`Generator.generate`."""
        generator = self._models.choose(job)
        self._drift.count(job.request.prompt)
        with self._gauges.request(job, generator), self._observed(job, generator) as answered:
            made = await generator.generate(job)
            answered(made)
            return made

    async def stream(self, job: Job) -> AsyncIterator[Progress | Generated]:
        """See :meth:`Generator.stream`."""
        generator = self._models.choose(job)
        self._drift.count(job.request.prompt)
        with self._gauges.request(job, generator), self._observed(job, generator, timed=False) as answered:
            async with aclosing(generator.stream(job)) as events:
                async for event in events:
                    if isinstance(event, Generated):
                        answered(event)
                    yield event

    async def convert(self, photo: bytes, modality: Modality) -> bytes:
        """See :meth:`Generator.convert`."""
        return await self._models.champion().convert(photo, modality)

    async def describe(self) -> list[ModelInfo]:
        """The served versions, the champion first."""
        self._models.champion()
        return [generator.info for generator in self._models.serving()]

    async def ready(self) -> Readiness:
        """See :meth:`Generator.ready`; ``refused`` names a champion that cannot be loaded."""
        readiness = await self._models.champion().ready()
        return readiness.model_copy(update={"refused": self._models.refused})

    def _observed(
        self, job: Job, generator: Generator, *, timed: bool = True
    ) -> AbstractContextManager[Callable[[Generated], None]]:
        if self._observer is None:
            return nullcontext(lambda made: None)
        return self._observer.request(job, generator, self._models.serving(), timed=timed)

    async def check_health(self) -> None:
        """See :meth:`Generator.check_health`; a replica without a model is healthy, only not ready."""
        if self._following.done():
            raise ServiceError("the task that follows the aliases has ended; see the replica's log")
        for generator in self._models.serving()[:1]:
            self._gauges.refused(generator.info.version, self._models.refused is not None)
        for generator in self._models.serving():
            await generator.check_health()


class Remote:
    """The replicas as a :class:`serve.http.backend.Backend`: translates Ray's errors and forwards cancellation."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self.handle = handle

    async def generate(self, job: Job) -> Generated:
        """See :meth:`Generator.generate`."""
        generated: Generated = await self._call("generate", job)
        return generated

    async def convert(self, photo: bytes, modality: Modality) -> bytes:
        """See :meth:`Generator.convert`."""
        picture: bytes = await self._call("convert", photo, modality)
        return picture

    async def stream(self, job: Job) -> AsyncIterator[Progress | Generated]:
        """See :meth:`Generator.stream`."""
        response = self.handle.options(stream=True).stream.remote(job)
        try:
            with _our_errors():
                async for event in response:
                    yield event
        finally:
            response.cancel()  # has no effect if the response is complete

    async def describe(self) -> list[ModelInfo]:
        """See :meth:`Replica.describe`."""
        infos: list[ModelInfo] = await self._call("describe")
        return infos

    async def ready(self) -> Readiness:
        """See :meth:`Generator.ready`."""
        readiness: Readiness = await self._call("ready")
        return readiness

    async def _call(self, method: str, *args: Any) -> Any:
        response = getattr(self.handle, method).remote(*args)
        try:
            with _our_errors():
                return await response
        except asyncio.CancelledError:
            response.cancel()
            raise


@contextmanager
def _our_errors() -> Iterator[None]:
    try:
        yield
    except BackPressureError:
        raise ApiError(429, "no replica can take more requests; try again later", retry_after_s=5) from None
    except RayTaskError as error:
        if isinstance(error.cause, MMFaceError):
            raise error.cause from None
        raise
    except (RayActorError, RayServeException) as error:
        message = f"the model's replica is unavailable ({type(error).__name__}); a new one is starting, try again later"
        raise ApiError(503, message, retry_after_s=5) from None


class Ingress:
    """The ASGI application; its routes are built in the process that runs them."""

    def __init__(self, handle: DeploymentHandle[Any], settings: Serve, keys: tuple[Key, ...] | None) -> None:
        self.backend = Remote(handle)
        self.settings = settings
        self.keys = keys

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The application; Ray Serve calls this after the constructor."""
        from serve.http.api import create_app

        return create_app(self.backend, self.settings, self.keys)


def build(settings: Serve, environment: dict[str, str], keys: tuple[Key, ...] | None = None) -> serve.Application:
    """The application for ``serve.run``.

    Credentials and keys are passed as constructor arguments, because Ray's dashboard shows an actor's ``runtime_env``.

    Args:
        settings: the recipe's ``serve``.
        environment: variables for the processes that load the model, such as the registry's address.
        keys: the accepted API keys; None if the ingress reads them from its own environment.
    """
    resources: dict[str, Any] = {"num_cpus": 1, "num_gpus": int(settings.use_gpu)}
    replica: Any = serve.deployment(
        Replica,
        name="Replica",
        **_scale(settings),
        # A replica bounds its queue itself, because only it knows how many requests wait. Serve's own bound applies
        # while no replica can take requests.
        max_ongoing_requests=settings.max_queued + 1 + PROBES,
        max_queued_requests=settings.max_queued,
        ray_actor_options=resources,
        health_check_timeout_s=60,
        graceful_shutdown_timeout_s=settings.timeout_s,
        graceful_shutdown_wait_loop_s=0.5,
        max_constructor_retry_count=2,
    )
    ingress: Any = serve.deployment(
        serve.ingress()(Ingress),
        name="Ingress",
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_wait_loop_s=0.5,
    )
    threads = max(1, len(os.sched_getaffinity(0)) // (settings.max_replicas or settings.replicas))
    watched = (bind_watch(settings, environment),) if settings.canary.auto else ()
    application: serve.Application = ingress.bind(
        replica.bind(settings, threads, environment, *watched), settings, keys
    )
    return application


def _scale(settings: Serve) -> dict[str, Any]:
    if settings.max_replicas is None:
        return {"num_replicas": settings.replicas}
    bounds = {"min_replicas": settings.replicas, "max_replicas": settings.max_replicas}
    return {"autoscaling_config": bounds | {"target_ongoing_requests": settings.max_batch}}

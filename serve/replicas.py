"""Ray Serve deployments: an ingress that checks requests, and replicas that hold the model."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import torch
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle
from ray.util.metrics import Histogram

from mmface.config import Recipe, Serve
from mmface.errors import MMFaceError
from mmface.registry import load_bundle
from serve.api import create_app
from serve.errors import ApiError
from serve.generator import Generator
from serve.schemas import Generated, Job, Modality, ModelInfo, Readiness

PROBES = 8  # places of a replica beside its generations: readiness, models, conversions
SECONDS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]


class Replica(Generator):
    """A Generator that loads the champion when it starts."""

    def __init__(self, settings: Serve, threads: int) -> None:
        # Ray limits OpenMP to the CPUs an actor reserves; denoising wants what the machine has.
        torch.set_num_threads(threads)
        bundle = load_bundle(settings.model_name, settings.alias)
        if torch.cuda.is_available():
            bundle.pipeline.to("cuda")
        super().__init__(bundle, settings)
        self._latency = Histogram(
            "mmface_generation_seconds",
            description="Time of a generation in its replica, with waiting.",
            boundaries=SECONDS,
            tag_keys=("modality", "version"),
        )

    async def generate(self, job: Job) -> Generated:
        """Measures what it inherits."""
        started = asyncio.get_running_loop().time()
        made = await super().generate(job)
        tags = {"modality": job.modality, "version": self.info.version}
        self._latency.observe(asyncio.get_running_loop().time() - started, tags=tags)
        return made


class Remote:
    """The replicas as a :class:`serve.api.Backend`: Ray's errors become ours, cancelling reaches the replica."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self.handle = handle

    async def generate(self, job: Job) -> Generated:
        """See :meth:`Generator.generate`."""
        made: Generated = await self._call("generate", job)
        return made

    async def convert(self, photo: bytes, modality: Modality) -> bytes:
        """See :meth:`Generator.convert`."""
        picture: bytes = await self._call("convert", photo, modality)
        return picture

    async def describe(self) -> ModelInfo:
        """See :meth:`Generator.describe`."""
        info: ModelInfo = await self._call("describe")
        return info

    async def ready(self) -> Readiness:
        """See :meth:`Generator.ready`."""
        readiness: Readiness = await self._call("ready")
        return readiness

    async def _call(self, method: str, *args: Any) -> Any:
        response = getattr(self.handle, method).remote(*args)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except BackPressureError:
            raise ApiError(429, "every replica is busy and the queue is full", retry_after_s=5) from None
        except RayTaskError as error:
            if isinstance(error.cause, MMFaceError):
                raise error.cause from None
            raise
        except (RayActorError, RayServeException) as error:
            message = f"the replica went away ({type(error).__name__}); a new one is starting"
            raise ApiError(503, message, retry_after_s=5) from None


class Ingress:
    """Builds the routes where they run."""

    def __init__(self, handle: DeploymentHandle, settings: Serve) -> None:
        self.backend = Remote(handle)
        self.settings = settings

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Ray Serve's late binding: called after the constructor."""
        return create_app(self.backend, self.settings)


def build(recipe: Recipe, environment: dict[str, str]) -> serve.Application:
    """The application for ``serve.run``.

    Args:
        recipe: its ``serve`` section counts.
        environment: variables of the processes that load the model, such as the registry's address.
    """
    settings = recipe.serve
    actor: dict[str, Any] = {"num_cpus": 1, "runtime_env": {"env_vars": environment}}
    if settings.use_gpu:
        actor["num_gpus"] = 1
    replica = serve.deployment(
        Replica,
        name="Replica",
        num_replicas=settings.replicas,
        # The replica bounds its own queue, because only it knows what waits in it. Serve's bound is for the time
        # when no replica can take anything.
        max_ongoing_requests=settings.max_queued + 1 + PROBES,
        max_queued_requests=settings.max_queued,
        ray_actor_options=actor,
        health_check_period_s=30,
        health_check_timeout_s=60,
        graceful_shutdown_timeout_s=settings.timeout_s,
        graceful_shutdown_wait_loop_s=0.5,
        max_constructor_retry_count=2,
    )
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        name="Ingress",
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_wait_loop_s=0.5,
    )
    threads = max(1, len(os.sched_getaffinity(0)) // settings.replicas)
    return ingress.bind(replica.bind(settings, threads), settings)

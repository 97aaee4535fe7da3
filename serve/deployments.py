"""Ray Serve deployments: an ingress that checks requests, and replicas that hold the model.

Torch is imported where a replica starts: neither the ingress nor the command line waits for it.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle
from ray.util.metrics import Histogram

from mmface.config import Serve
from mmface.errors import MMFaceError
from serve.errors import ApiError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from serve.schemas import Generated, Job, Modality, ModelInfo, Readiness

PROBES = 8  # places of a replica beside its generations: readiness, models, conversions
SECONDS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]


class Replica:
    """A :class:`serve.generator.Generator` with the model that the alias points to when it starts."""

    def __init__(self, settings: Serve, threads: int) -> None:
        import torch
        from diffusers.utils.logging import disable_progress_bar

        from mmface.registry import load_bundle
        from serve.generator import Generator

        disable_progress_bar()  # of loading, in a log
        # Ray limits OpenMP to the CPUs an actor reserves; denoising wants what the machine has.
        torch.set_num_threads(threads)
        bundle = load_bundle(settings.model_name, settings.alias)
        if settings.use_gpu:
            bundle.pipeline.to("cuda")
        self._generator = Generator(bundle, settings)
        self._seconds = Histogram(
            "mmface_generation_seconds",
            description="Time of a generation in its replica, with waiting.",
            boundaries=SECONDS,
            tag_keys=("modality", "version"),
        )

    async def generate(self, job: Job) -> Generated:
        """See :meth:`Generator.generate`."""
        started = asyncio.get_running_loop().time()
        made = await self._generator.generate(job)
        tags = {"modality": job.modality, "version": made.version}
        self._seconds.observe(asyncio.get_running_loop().time() - started, tags=tags)
        return made

    async def convert(self, photo: bytes, modality: Modality) -> bytes:
        """See :meth:`Generator.convert`."""
        return await self._generator.convert(photo, modality)

    async def describe(self) -> ModelInfo:
        """See :meth:`Generator.describe`."""
        return await self._generator.describe()

    async def ready(self) -> Readiness:
        """See :meth:`Generator.ready`."""
        return await self._generator.ready()

    async def check_health(self) -> None:
        """See :meth:`Generator.check_health`."""
        await self._generator.check_health()


class Remote:
    """The replicas as a :class:`serve.api.Backend`: Ray's errors become ours, cancelling reaches the replica."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
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
            raise ApiError(429, "no replica can take more requests; try again later", retry_after_s=5) from None
        except RayTaskError as error:
            if isinstance(error.cause, MMFaceError):
                raise error.cause from None
            raise
        except (RayActorError, RayServeException) as error:
            message = f"the model's replica went away ({type(error).__name__}); a new one is starting"
            raise ApiError(503, message, retry_after_s=5) from None


class Ingress:
    """Builds the routes where they run."""

    def __init__(self, handle: DeploymentHandle[Any], settings: Serve) -> None:
        self.backend = Remote(handle)
        self.settings = settings

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Ray Serve's late binding: called after the constructor."""
        from serve.api import create_app

        return create_app(self.backend, self.settings)


def build(settings: Serve, environment: dict[str, str]) -> serve.Application:
    """The application for ``serve.run``.

    Args:
        settings: where and within which limits.
        environment: variables of the processes that load the model, such as the registry's address.
    """
    resources: dict[str, Any] = {"num_cpus": 1, "num_gpus": int(settings.use_gpu)}
    replica: Any = serve.deployment(
        Replica,
        name="Replica",
        num_replicas=settings.replicas,
        # A replica bounds its own queue, because only it knows what waits in it. Serve's bound is for the time when
        # no replica can take anything.
        max_ongoing_requests=settings.max_queued + 1 + PROBES,
        max_queued_requests=settings.max_queued,
        ray_actor_options=resources | {"runtime_env": {"env_vars": environment}},
        health_check_period_s=30,
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
    threads = max(1, len(os.sched_getaffinity(0)) // settings.replicas)
    application: serve.Application = ingress.bind(replica.bind(settings, threads), settings)
    return application

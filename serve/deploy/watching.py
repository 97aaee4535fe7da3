"""The Ray Serve deployment that decides about the canary, and how replicas report to it.

One process beside the replicas, with a single thread for parsing and a low priority: it takes no CPU that painting
could use. Without it the service goes on, and no canary is decided about.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from mmface.config import Serve
from mmface.errors import ServiceError
from mmface.store import home

if TYPE_CHECKING:
    from serve.canary.observer import Observation

REPORT_S = 30.0  # longest time of a report
NICENESS = 10


class CanaryWatch:
    """Runs :class:`serve.canary.watcher.Watcher` in a thread; Ray Serve replaces it if the thread ends."""

    def __init__(self, settings: Serve, environment: dict[str, str]) -> None:
        os.environ.update(environment)
        os.nice(NICENESS)
        import torch

        from serve.canary.judge import Judge
        from serve.canary.watcher import EVENTS, Watcher
        from serve.deploy.gauges import CanaryGauges
        from serve.guards.access_log import log_to_stdout

        torch.set_num_threads(1)
        log_to_stdout(EVENTS)
        self._watcher = Watcher(settings, home(), Judge(settings.canary.parser), CanaryGauges())
        self._thread = threading.Thread(target=self._watcher.run, name="canary", daemon=True)
        self._thread.start()

    async def observe(self, batch: list[Observation]) -> None:
        """See :meth:`serve.canary.watcher.Watcher.observe`."""
        self._watcher.observe(batch)

    async def check_health(self) -> None:
        """Raises if the thread has ended."""
        if not self._thread.is_alive():
            raise ServiceError("the thread that decides about the canary has ended; see the replica's log")


def bind_watch(settings: Serve, environment: dict[str, str]) -> serve.Application:
    """The deployment, to be bound to the replicas. There is never more than one process of it."""
    deployment: Any = serve.deployment(
        CanaryWatch,
        name="CanaryWatch",
        num_replicas=1,
        max_ongoing_requests=100,
        max_queued_requests=100,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_wait_loop_s=0.5,
    )
    bound: serve.Application = deployment.bind(settings, environment)
    return bound


def report_to(watch: DeploymentHandle[Any]) -> Callable[[list[Observation]], Awaitable[None]]:
    """How a replica reports. The call raises a ServiceError if the report did not arrive."""

    async def report(batch: list[Observation]) -> None:
        try:
            async with asyncio.timeout(REPORT_S):
                await watch.observe.remote(batch)
        except (RayError, RayServeException, TimeoutError) as error:
            message = f"the process that decides about the canary does not answer ({type(error).__name__})"
            raise ServiceError(message, field="serve.canary") from error

    return report

"""What a replica tells Prometheus, through Ray's metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ray.util.metrics import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from serve.engine.generator import Generator
    from serve.http.job import Job

SECONDS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]
STEP_SECONDS = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]
# Ray sums the middles of buckets: around each whole number, the mean of up to 16 images is exact.
IMAGES = [0.5, *(count + 0.5 for count in range(1, 17)), 24, 32]


class Gauges:
    """Counters, gauges and histograms of one replica; ``version`` is the model's."""

    def __init__(self) -> None:
        self._seconds = Histogram(
            "mmface_generation_seconds",
            description="Time of a generation in its replica, with waiting.",
            boundaries=SECONDS,
            tag_keys=("modality", "version"),
        )
        self._step = Histogram(
            "mmface_step_seconds",
            description="Time of a denoising step.",
            boundaries=STEP_SECONDS,
            tag_keys=("version",),
        )
        self._images = Histogram(
            "mmface_step_images",
            description="Images that a denoising step moved on.",
            boundaries=IMAGES,
            tag_keys=("version",),
        )
        self._pending = Gauge(
            "mmface_pending_requests", description="Requests in a replica that are not finished.", tag_keys=("version",)
        )
        self._waiting = Gauge(
            "mmface_waiting_requests", description="Those for which there is no room yet.", tag_keys=("version",)
        )
        self._memory = Gauge(
            "mmface_memory_limit_bytes",
            description="Bytes that images under way may be predicted to take; lowered when memory runs out.",
            tag_keys=("version",),
        )
        self._ended = Counter(
            "mmface_generations_total",
            description="Generations by how they ended: completed, cancelled or failed.",
            tag_keys=("version", "outcome"),
        )
        self._swaps = Counter(
            "mmface_versions_total",
            description="What became of versions: serving, refused or retired.",
            tag_keys=("version", "outcome"),
        )

        self._refused = Gauge(
            "mmface_champion_refused",
            description="1 for the version that answers instead of a champion that cannot be loaded, else 0.",
            tag_keys=("version",),
        )

    def refused(self, version: str, refused: bool) -> None:
        """Whether ``version`` answers because the champion cannot be loaded."""
        self._refused.set(float(refused), tags={"version": version})

    def step(self, version: str, images: int, seconds: float) -> None:
        """After a denoising step."""
        self._step.observe(seconds, tags={"version": version})
        self._images.observe(images, tags={"version": version})

    def swap(self, version: str, outcome: str) -> None:
        """A version was taken, refused or retired."""
        self._swaps.inc(tags={"version": version, "outcome": outcome})
        if outcome == "retired":
            self.refused(version, False)

    @contextmanager
    def request(self, job: Job, generator: Generator) -> Iterator[None]:
        """Around a generation."""
        version, started = generator.info.version, time.monotonic()
        self._look(generator)
        outcome = "failed"
        try:
            yield
            outcome = "completed"
        except (asyncio.CancelledError, GeneratorExit):
            outcome = "cancelled"
            raise
        finally:
            self._look(generator)
            self._ended.inc(tags={"version": version, "outcome": outcome})
            self._seconds.observe(time.monotonic() - started, tags={"modality": job.modality, "version": version})

    def _look(self, generator: Generator) -> None:
        tags = {"version": generator.info.version}
        self._pending.set(generator.engine.pending, tags=tags)
        self._waiting.set(generator.engine.waiting(), tags=tags)
        self._memory.set(generator.engine.room.limit, tags=tags)

"""The metrics that a replica exports to Prometheus through Ray."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ray.util.metrics import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from serve.canary.trial import Trial
    from serve.engine.generator import Generator
    from serve.http.job import Job

SECONDS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]
STEP_SECONDS = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]
# Ray sums the middles of buckets. With bounds halfway between whole numbers, the mean of up to 16 images is exact.
IMAGES = [0.5, *(count + 0.5 for count in range(1, 17)), 24, 32]
_BY_VERSION = ("version",)
_BY_OUTCOME = ("version", "outcome")


class Gauges:
    """Counters, gauges and histograms of one replica, tagged with the model's version."""

    def __init__(self) -> None:
        self._create_step_metrics()
        self._create_request_metrics()
        self._create_version_metrics()
        self._create_drift_metrics()

    def _create_step_metrics(self) -> None:
        self._step = Histogram(
            "mmface_step_seconds", "Duration of a denoising step.", boundaries=STEP_SECONDS, tag_keys=_BY_VERSION
        )
        self._images = Histogram(
            "mmface_step_images", "Images that a denoising step advanced.", boundaries=IMAGES, tag_keys=_BY_VERSION
        )
        self._memory = Gauge(
            "mmface_memory_limit_bytes",
            "Most bytes that unfinished images may be predicted to take; lowered when memory runs out.",
            tag_keys=_BY_VERSION,
        )

    def _create_request_metrics(self) -> None:
        self._seconds = Histogram(
            "mmface_generation_seconds",
            "Duration of a generation in its replica, waiting included.",
            boundaries=SECONDS,
            tag_keys=("modality", "version"),
        )
        self._pending = Gauge("mmface_pending_requests", "Unfinished requests of a replica.", tag_keys=_BY_VERSION)
        self._waiting = Gauge(
            "mmface_waiting_requests", "Unfinished requests that have no room yet.", tag_keys=_BY_VERSION
        )
        self._ended = Counter(
            "mmface_generations_total", "Generations by outcome: completed, cancelled or failed.", tag_keys=_BY_OUTCOME
        )

    def _create_version_metrics(self) -> None:
        self._swaps = Counter(
            "mmface_versions_total",
            "Versions by what became of them: serving, refused or retired.",
            tag_keys=_BY_OUTCOME,
        )
        self._refused = Gauge(
            "mmface_champion_refused",
            "1 for a version that serves instead of a champion that cannot be loaded, else 0.",
            tag_keys=_BY_VERSION,
        )

    def _create_drift_metrics(self) -> None:
        self._distance = Gauge(
            "mmface_drift_distance",
            "Squared MMD of new photographs or prompts from the training set: 0 for none, at most 2.",
            tag_keys=("of",),
        )
        self._drifted = Gauge(
            "mmface_drift_detected", "1 if photographs or prompts have drifted, else 0.", tag_keys=("of",)
        )

    def drift(self, kind: str, distance: float, drifted: bool) -> None:
        """Records the latest comparison of ``photographs`` or ``prompts`` with the training set."""
        self._distance.set(distance, tags={"of": kind})
        self._drifted.set(float(drifted), tags={"of": kind})

    def refused(self, version: str, refused: bool) -> None:
        """Records whether ``version`` serves because the champion cannot be loaded."""
        self._refused.set(float(refused), tags={"version": version})

    def step(self, version: str, images: int, seconds: float) -> None:
        """Records a denoising step."""
        self._step.observe(seconds, tags={"version": version})
        self._images.observe(images, tags={"version": version})

    def swap(self, version: str, outcome: str) -> None:
        """Records that a version is serving, refused or retired."""
        self._swaps.inc(tags={"version": version, "outcome": outcome})
        if outcome == "retired":
            self.refused(version, False)

    @contextmanager
    def request(self, job: Job, generator: Generator) -> Iterator[None]:
        """Records the generation that the block does."""
        version, started = generator.info.version, time.monotonic()
        self._sample(generator)
        outcome = "failed"
        try:
            yield
            outcome = "completed"
        except (asyncio.CancelledError, GeneratorExit):
            outcome = "cancelled"
            raise
        finally:
            self._sample(generator)
            self._ended.inc(tags={"version": version, "outcome": outcome})
            self._seconds.observe(time.monotonic() - started, tags={"modality": job.modality, "version": version})

    def _sample(self, generator: Generator) -> None:
        tags = {"version": generator.info.version}
        self._pending.set(generator.engine.pending, tags=tags)
        self._waiting.set(generator.engine.waiting(), tags=tags)
        self._memory.set(generator.engine.room.limit, tags=tags)


class CanaryGauges:
    """Counters and gauges of the trial of a canary, in replicas and in the process that decides."""

    def __init__(self) -> None:
        self._requests = Gauge(
            "mmface_canary_requests", "Requests of a version that the running trial has counted.", tag_keys=_BY_VERSION
        )
        self._evidence = Gauge(
            "mmface_canary_evidence",
            "Share of the evidence that a decision about the canary needs, for `worse` and for `fine`; 1 is enough.",
            tag_keys=("version", "measure", "verdict"),
        )
        self._decisions = Counter(
            "mmface_canary_decisions_total",
            "Canaries by what became of them: promoted, withdrawn or undecided.",
            tag_keys=_BY_OUTCOME,
        )
        self._skipped = Counter(
            "mmface_canary_skipped_total",
            "Answers that the trial did not count (a repeated seed) or did not parse (load, full).",
            tag_keys=("version", "reason"),
        )

    def progress(self, trial: Trial) -> None:
        """Shows the counts of a trial."""
        errors = trial.evidence["errors"]
        for version, arm in ((trial.canary, errors.canary), (trial.champion, errors.champion)):
            self._requests.set(arm.n, tags={"version": version})
        for measure in trial.evidence:
            for verdict, share in zip(("worse", "fine"), trial.progress(measure), strict=True):
                tags = {"version": trial.canary, "measure": measure, "verdict": verdict}
                self._evidence.set(max(share, 0.0), tags=tags)

    def decided(self, version: str, outcome: str) -> None:
        """Records a decision."""
        self._decisions.inc(tags={"version": version, "outcome": outcome})

    def skipped(self, version: str, reason: str) -> None:
        """See :data:`serve.canary.observer.OnSkip`."""
        self._skipped.inc(tags={"version": version, "reason": reason})

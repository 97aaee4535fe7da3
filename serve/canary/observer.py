"""What a replica reports about the requests that canary and champion share, without prompts and beside the answers."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmface.config import Serve
from mmface.config.guidance import Guidance
from mmface.errors import MMFaceError
from serve.engine.threads import in_own_thread
from serve.http.errors import OverloadedError
from serve.http.job import Generated, Job
from serve.http.requests import Fit, size_of
from serve.pictures.drawings import fit_drawing

if TYPE_CHECKING:
    from serve.engine.generator import Generator
    from serve.http.schemas import ModelInfo

log = logging.getLogger(__name__)

FLUSH_S = 1.0  # time between two reports
MAX_OBSERVATIONS, MAX_SAMPLES = 2000, 8  # that wait for a report; a sample has a picture
NEAR_DEADLINE = 0.9  # a request that is cancelled after this share of its deadline has most likely exceeded it

Pixels = npt.NDArray[np.uint8]
OnSkip = Callable[[str, str], None]
"""Called with a version and why one of its answers is not counted or not parsed: "repeated", "load" or "full"."""


@dataclass(frozen=True)
class Sample:
    """A picture ``[H, W, 3]`` and the mask ``[H, W]`` that was given for it, which may have another size."""

    mask: Pixels
    picture: Pixels
    fit: Fit

    def fitted(self) -> Sample:
        """With the mask at the size of the picture, cropped or padded as it was for the model."""
        size = self.picture.shape[1], self.picture.shape[0]
        mask = Image.fromarray(fit_drawing(self.mask, "mask", size, self.fit))
        return replace(self, mask=np.asarray(mask.resize(size, Image.Resampling.NEAREST)))


@dataclass(frozen=True)
class Observation:
    """One request that either version could have got.

    Attributes:
        champion, canary: the versions that shared the requests.
        by_canary: which one answered.
        seed: the request's first seed, which chose the version.
        failed: whether the client got an error that is not due to load.
        duration: seconds for the work of a default picture of the champion; None if the replica was not idle.
        sample: the first picture of a request with a mask; None for most requests.
    """

    champion: str
    canary: str
    by_canary: bool
    seed: int
    failed: bool
    duration: float | None = None
    sample: Sample | None = None


class Observer:
    """Collects observations and reports them every second. What has no room is dropped and counted.

    Args:
        settings: share and deadline.
        send: delivers observations; a MMFaceError loses them.
        on_skip: see :data:`OnSkip`.
    """

    def __init__(self, settings: Serve, send: Callable[[list[Observation]], Awaitable[None]], on_skip: OnSkip) -> None:
        share = settings.canary.share
        self._parsed = min(1.0, share / (1 - share))  # as many pictures of the champion as of the canary
        self._timeout_s = settings.timeout_s
        self._send, self._on_skip = send, on_skip
        self._waiting: list[Observation] = []
        self._samples = 0

    @contextmanager
    def request(
        self, job: Job, generator: Generator, serving: Sequence[Generator], *, timed: bool = True
    ) -> Iterator[Callable[[Generated], None]]:
        """Observes the generation that the block does; the block hands over its answer.

        Args:
            serving: the generators of all served versions, the champion first.
            timed: whether the block ends as soon as the answer is complete.
        """
        answers: list[Generated] = []
        if len(serving) < 2 or job.version is not None:
            yield answers.append
            return
        idle = timed and not any(one.engine.pending for one in serving)
        champion, canary = serving[0].info, serving[1].info
        by_canary = generator.info.version == canary.version
        seen = Observation(champion.version, canary.version, by_canary, job.seeds[0], failed=True)
        started = time.monotonic()
        try:
            yield answers.append
        except OverloadedError:
            raise  # the champion has more requests, so it is overloaded more often
        except (asyncio.CancelledError, GeneratorExit):
            if time.monotonic() - started > NEAR_DEADLINE * self._timeout_s:
                self._keep(seen)
            raise
        except Exception:
            self._keep(seen)
            raise
        duration = (time.monotonic() - started) / work(job, champion) if idle else None
        self._keep(replace(seen, failed=False, duration=duration, sample=self._sample(job, answers, seen, serving)))

    async def run(self) -> None:
        """Reports for ever."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def flush(self) -> None:
        """Reports what there is."""
        batch, self._waiting, self._samples = self._waiting, [], 0
        if not batch:
            return
        ready = await in_own_thread(lambda: [_fitted(one) for one in batch])
        try:
            await self._send(ready)
        except MMFaceError as error:
            log.warning("canary: %d observations are lost: %s", len(ready), error)

    def _keep(self, seen: Observation) -> None:
        if len(self._waiting) >= MAX_OBSERVATIONS:
            self._on_skip(seen.canary if seen.by_canary else seen.champion, "full")
            return
        self._waiting.append(seen)

    def _sample(
        self, job: Job, answers: Sequence[Generated], seen: Observation, serving: Sequence[Generator]
    ) -> Sample | None:
        if job.modality != "mask" or not answers:
            return None
        if not seen.by_canary and hash_fraction(f"sample {seen.seed}") >= self._parsed:
            return None
        reason = "full" if self._samples >= MAX_SAMPLES else ""
        if any(one.engine.waiting() for one in serving):
            reason = "load"
        if reason:
            self._on_skip(seen.canary if seen.by_canary else seen.champion, reason)
            return None
        self._samples += 1
        return Sample(job.condition, answers[-1].images[0], job.request.fit)


def work(job: Job, info: ModelInfo) -> float:
    """The denoising that a request asks for, as a number of default pictures of the version ``info``."""
    request = job.request
    default_width, default_height = size_of(info.default_size)
    width, height = size_of(request.size or info.default_size)
    steps = request.num_inference_steps or info.num_inference_steps
    rows, default_rows = Guidance.of(info, request).mean_rows, Guidance.of(info).mean_rows
    area = width * height / (default_width * default_height)
    return len(job.seeds) * area * steps / info.num_inference_steps * rows / default_rows


def hash_fraction(text: object) -> float:
    """A number in [0, 1) that depends only on ``text``, evenly spread even over consecutive numbers."""
    return int.from_bytes(hashlib.sha256(str(text).encode()).digest()[:8], "big") / 2**64


def _fitted(seen: Observation) -> Observation:
    return seen if seen.sample is None else replace(seen, sample=seen.sample.fitted())

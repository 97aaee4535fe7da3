"""One denoising step of many images: which are evaluated together, and what happens to them when it fails."""

from __future__ import annotations

import copy
import itertools
import logging
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mmface.errors import MMFaceError
from mmface.networks.precision import rows_are_alike
from mmface.sampling import evaluate
from serve.engine.footprint import Load, Room, ran_out_of_memory
from serve.engine.painting import Image, Painting
from serve.engine.queue import PaintingQueue
from serve.http.errors import GenerationError, MemoryShortageError

if TYPE_CHECKING:
    from mmface.pipeline import MMFacePipeline

log = logging.getLogger(__name__)

OnStep = Callable[[int, float], None]
"""Called after each denoising step with the number of images advanced and its duration in seconds."""


@dataclass
class Counters:
    """What an engine has done since its start."""

    completed: int = 0
    cancelled: int = 0
    steps: int = 0
    last_forward: float = float("-inf")


class Denoiser:
    """Advances images by one step. An error ends only the paintings whose images it happened to.

    Args:
        pipeline: the model.
        room: how many images are evaluated at once.
        queue: holds the paintings; those that fail are ended there.
        counters: counts steps.
        on_step: see :data:`OnStep`.
    """

    def __init__(
        self, pipeline: MMFacePipeline, room: Room, queue: PaintingQueue, counters: Counters, on_step: OnStep
    ) -> None:
        self._transformer = pipeline.transformer
        self._device, self._bf16 = pipeline.transformer.device, pipeline.bf16
        self._room = room
        self._queue = queue
        self._counters = counters
        self._on_step = on_step

    def step(self, images: Sequence[Image]) -> None:
        """Advances ``images``, of any sizes, by one step."""
        for _, group in itertools.groupby(sorted(images, key=_size), key=_size):
            for batch in self._batches(list(group)):
                self._advance(batch)

    @contextmanager
    def isolated(self, painting: Painting) -> Iterator[None]:
        """An exception inside the block ends this painting and no other."""
        try:
            yield
            return
        except Exception as error:  # noqa: BLE001 - the caller gets it; other paintings continue
            failure = self._failure(error, [(painting, 0)])
        if not painting.ended:
            self._queue.end(painting, failure)

    def _batches(self, images: Sequence[Image]) -> Iterator[list[Image]]:
        """Images that the room allows to be evaluated together."""
        batch: list[Image] = []
        load = Load()
        for painting, image in images:
            if self._room.is_full(load, painting):
                yield batch
                batch, load = [], Load()
            batch.append((painting, image))
            self._room.add(load, painting)
        yield batch

    def _advance(self, images: list[Image]) -> None:
        """Advances images of one size by one step, in one evaluation if that changes none of their bits."""
        start = time.perf_counter()
        together = rows_are_alike(self._bf16, self._device)
        moved = sum(self._evaluate(batch) for batch in ([images] if together else [[one] for one in images]))
        if moved:
            self._counters.steps += 1
            self._counters.last_forward = time.monotonic()
            self._on_step(moved, time.perf_counter() - start)

    def _evaluate(self, batch: list[Image], *, retry: bool = True) -> int:
        """Evaluates the network, and once more in halves if memory ran out; returns the number of images advanced."""
        batch = [(painting, image) for painting, image in batch if not painting.ended]
        failure = self._attempt(batch) if batch else None
        if failure is None:
            return len(batch)
        if isinstance(failure, MemoryShortageError) and retry and len(batch) > 1:
            return sum(self._evaluate(half, retry=False) for half in self._batches(batch))
        for painting in dict.fromkeys(painting for painting, _ in batch):
            self._queue.end(painting, copy.copy(failure))
        return 0

    def _attempt(self, batch: list[Image]) -> MMFaceError | None:
        trajectories = [painting.trajectories[image] for painting, image in batch]
        try:
            predictions = evaluate(self._transformer, trajectories, bf16=self._bf16)
        except Exception as error:  # noqa: BLE001 - the callers of this batch get it; other paintings continue
            return self._failure(error, batch)
        for (painting, _), trajectory, prediction in zip(batch, trajectories, predictions, strict=True):
            with self.isolated(painting):
                trajectory.answer(prediction)
        return None

    def _failure(self, error: Exception, images: Sequence[Image]) -> MMFaceError:
        """The error for the callers of ``images``. It does not refer to ``error``, whose frames hold tensors.

        Raises:
            RuntimeError: the GPU is no longer usable.
        """
        if isinstance(error, MMFaceError):
            return copy.copy(error)
        ids = ", ".join(dict.fromkeys(painting.job.request_id for painting, _ in images))
        # The traceback as text: a log handler may keep its arguments, and frames with them.
        log.error("requests %s: a step failed\n%s", ids, "".join(traceback.format_exception(error)))
        if ran_out_of_memory(error):
            failed = images if len(images) > 1 else self._queue.images()
            self._room.learn(self._room.load(painting for painting, _ in failed))
            return MemoryShortageError("out of memory; try again later, or with a smaller size or n")
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # raises after an illegal memory access, as every later call does
        return GenerationError(f"a step failed ({type(error).__name__}); the replica's log has the traceback")


def _size(one: Image) -> tuple[int, int]:
    return one[0].height, one[0].width

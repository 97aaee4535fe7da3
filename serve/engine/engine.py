"""Continuous batching: one thread denoises whatever there is; images join and leave between two steps (§9).

Plain Python and torch. On the CPU an image's bytes depend on its own request alone, not on what is painted beside it.
"""

from __future__ import annotations

import copy
import itertools
import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmface.errors import MMFaceError, ServiceError
from mmface.networks.precision import rows_are_alike
from mmface.sampling import evaluate
from serve.engine.encodings import Encodings
from serve.engine.footprint import Load, Room, ran_out_of_memory
from serve.engine.painting import GenerationCancelled, Painting, Pixels
from serve.http.errors import GenerationError, MemoryShortageError

if TYPE_CHECKING:
    from mmface.pipeline import MMFacePipeline

log = logging.getLogger(__name__)

OnStep = Callable[[int, float], None]
"""Told how many images a denoising step moved on, and its seconds."""
Image = tuple[Painting, int]
"""An image under way: its request, and its place there."""
STOPPED = "the engine has stopped, see the replica's log; a new replica replaces this one"


@dataclass
class Counters:
    """What an engine has done since its start."""

    completed: int = 0
    cancelled: int = 0
    steps: int = 0
    last_forward: float = float("-inf")


class Engine:
    """Paints requests of any prompt, drawing, seed, size, sampler, step count and guidance together.

    An error ends the requests that it happened to and no others. One that leaves the GPU unusable ends the thread.

    Args:
        pipeline: the model.
        room: how many images are denoised at once.
        on_step: called from the engine's thread after each step.
    """

    def __init__(self, pipeline: MMFacePipeline, room: Room, on_step: OnStep) -> None:
        self.pipeline = pipeline
        self.room = room
        self.counters = Counters()
        self._on_step = on_step
        self._encodings = Encodings(pipeline)
        self._device, self._bf16 = pipeline.transformer.device, pipeline.bf16
        self._paintings: deque[Painting] = deque()  # in the order they came, begun or not
        self._changed = threading.Condition()
        self._closed = False
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="denoise", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread still works."""
        return self._thread.is_alive()

    @property
    def pending(self) -> int:
        """Requests that are not finished."""
        return len(self._paintings)

    def waiting(self) -> int:
        """Requests for which there is no room beside those that came before them."""
        load, waiting = Load(), 0
        for painting in self._queue():
            waiting += self.room.is_full(load, painting.plan)
            self.room.add(load, painting.plan, len(painting.plan.seeds))
        return waiting

    def submit(self, painting: Painting) -> None:
        """Queues a request.

        Raises:
            ServiceError: the thread has ended.
        """
        with self._changed:
            if self._stopped:
                raise ServiceError(STOPPED)
            self._paintings.append(painting)
            self._changed.notify()

    def close(self) -> None:
        """Ends the thread once everything that was submitted is finished."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        torch.set_num_threads(torch.get_num_threads())  # OpenMP keeps its number for each thread
        try:
            while self._wait():
                with torch.inference_mode():
                    self._admit()
                    self._step()
        finally:
            # A dead thread must leave nobody waiting; the replica's health check reports it.
            with self._changed:
                self._stopped = True
            for painting in self._queue():
                self._end(painting, ServiceError(STOPPED))

    def _wait(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._paintings or self._closed)
            return bool(self._paintings)

    def _queue(self) -> list[Painting]:
        with self._changed:
            return list(self._paintings)

    def _under_way(self) -> list[Image]:
        return [(painting, image) for painting in self._queue() for image in sorted(painting.trajectories)]

    def _admit(self) -> None:
        """Begins as many images as there is room for, first come first served; drops whom nobody waits for."""
        paintings, ahead = self._queue(), 0
        for painting in paintings:
            if painting.plan.left.is_set():
                self._leave(painting)
        load = self._load(self._under_way())
        for painting in paintings:
            if painting.ended:
                continue
            with self._ends_alone(painting):
                self._begin(painting, load)
                painting.tell_progress(ahead, self.pipeline.vae)
            ahead += not (painting.images or painting.ended)

    def _begin(self, painting: Painting, load: Load) -> None:
        while painting.begun < len(painting.plan.seeds):
            if self.room.is_full(load, painting.plan):
                load.images = self.room.max_images  # whoever came later waits too, even if there were room
                return
            image = painting.begun
            with painting.trace.phase("encode"):
                painting.trajectories[image] = self._encodings.trajectory(painting.plan, image)
            self.room.add(load, painting.plan)

    def _load(self, images: Sequence[Image]) -> Load:
        return self.room.load(painting.plan for painting, _ in images)

    def _step(self) -> None:
        active = self._under_way()
        for _, group in itertools.groupby(sorted(active, key=_size), key=_size):
            for part in self._parts(list(group)):
                self._advance(part)
        for painting in dict.fromkeys(painting for painting, _ in active):
            with self._ends_alone(painting):
                self._collect(painting)

    def _parts(self, images: Sequence[Image]) -> Iterator[list[Image]]:
        """Images that there is room to evaluate together."""
        part: list[Image] = []
        load = Load()
        for painting, image in images:
            if self.room.is_full(load, painting.plan):
                yield part
                part, load = [], Load()
            part.append((painting, image))
            self.room.add(load, painting.plan)
        yield part

    def _advance(self, images: list[Image]) -> None:
        """Moves images of one size on by one step, together where that changes none of their bits."""
        start = time.perf_counter()
        shared = rows_are_alike(self._bf16, self._device)
        moved = sum(self._evaluate(group) for group in ([images] if shared else [[one] for one in images]))
        if moved:
            self.counters.steps += 1
            self.counters.last_forward = time.monotonic()
            self._on_step(moved, time.perf_counter() - start)

    def _evaluate(self, group: list[Image], *, again: bool = True) -> int:
        """Asks the network once, and a second time in halves if that ran out of memory; how many images moved on."""
        group = [(painting, image) for painting, image in group if not painting.ended]
        failure = self._attempt(group) if group else None
        if failure is None:
            return len(group)
        if isinstance(failure, MemoryShortageError) and again and len(group) > 1:
            return sum(self._evaluate(part, again=False) for part in self._parts(group))
        for painting in dict.fromkeys(painting for painting, _ in group):
            self._end(painting, copy.copy(failure))
        return 0

    def _attempt(self, group: list[Image]) -> MMFaceError | None:
        trajectories = [painting.trajectories[image] for painting, image in group]
        try:
            predictions = evaluate(self.pipeline.transformer, trajectories, bf16=self._bf16)
        except Exception as error:  # noqa: BLE001 - those it happened to are told; the others go on
            return self._failure(error, group)
        for (painting, _), trajectory, prediction in zip(group, trajectories, predictions, strict=True):
            with self._ends_alone(painting):
                trajectory.answer(prediction)
        return None

    @contextmanager
    def _ends_alone(self, painting: Painting) -> Iterator[None]:
        """What goes wrong inside ends this request and no other."""
        try:
            yield
            return
        except Exception as error:  # noqa: BLE001 - likewise
            failure = self._failure(error, [(painting, 0)])
        if not painting.ended:
            self._end(painting, failure)

    def _failure(self, error: Exception, images: Sequence[Image]) -> MMFaceError:
        """What the callers of ``images`` are told. It does not refer to ``error``, whose frames hold tensors.

        Raises:
            RuntimeError: the GPU is of no use any more.
        """
        if isinstance(error, MMFaceError):
            return copy.copy(error)
        ids = ", ".join(dict.fromkeys(painting.plan.job.request_id for painting, _ in images))
        # As text: a handler may keep what it is given, and frames with it.
        log.error("requests %s: a step failed\n%s", ids, "".join(traceback.format_exception(error)))
        if ran_out_of_memory(error):
            self.room.learn(self._load(images if len(images) > 1 else self._under_way()))
            return MemoryShortageError("out of memory; try again later, or with a smaller size or n")
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # after an illegal access this and every later call raises
        return GenerationError(f"a step failed ({type(error).__name__}); the replica's log says where")

    def _collect(self, painting: Painting) -> None:
        painting.decode_finished(self.pipeline.vae)
        if len(painting.images) == len(painting.plan.seeds):
            self.counters.completed += 1
            self._end(painting, np.stack([painting.images[image] for image in range(len(painting.images))]))

    def _leave(self, painting: Painting) -> None:
        self.counters.cancelled += 1
        log.info("generation cancelled after step %d of %d", painting.done, painting.plan.evaluations)
        self._end(painting, GenerationCancelled())

    def _end(self, painting: Painting, result: Pixels | BaseException) -> None:
        with self._changed:
            self._paintings.remove(painting)
        painting.end(result)


def _size(one: Image) -> tuple[int, int]:
    return one[0].plan.height, one[0].plan.width

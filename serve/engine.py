"""Continuous batching: one thread denoises whatever there is; images join and leave between two steps (§9).

Plain Python and torch. On the CPU an image's bytes depend on its own request alone, not on what is painted beside it.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from mmface.data.pixels import to_pil
from mmface.errors import MMFaceError
from mmface.latents import decode
from mmface.sampling import Trajectory, advance
from serve.encodings import Encodings
from serve.plan import Plan
from serve.schemas import Progress
from serve.traces import UNTRACED, Trace

if TYPE_CHECKING:
    from mmface.pipeline import MMFacePipeline

log = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]
OnStep = Callable[[int, float], None]
"""Told how many images a denoising step moved on, and its seconds."""


class GenerationCancelled(Exception):
    """Nobody waits for the result any more."""


@dataclass(eq=False)
class Painting:
    """A request on its way; both callbacks are called from the engine's thread.

    Attributes:
        tell: gets each :class:`Progress`.
        finish: gets the images [n, H, W, 3], or what went wrong. Called once.
        trajectories: of the images that have begun, and not ended yet.
        images: those that are done.
        trace: is told when the request is encoded and decoded.
    """

    plan: Plan
    tell: Callable[[Progress], None]
    finish: Callable[[Pixels | BaseException], None]
    trace: Trace = UNTRACED
    trajectories: dict[int, Trajectory] = field(default_factory=dict)
    images: dict[int, Pixels] = field(default_factory=dict)
    told: Progress | None = None

    @property
    def begun(self) -> int:
        """Images that have begun; they do so in order."""
        return len(self.trajectories) + len(self.images)

    @property
    def done(self) -> int:
        """Steps that every image has done."""
        if self.begun < len(self.plan.seeds):
            return 0
        return min((one.done for one in self.trajectories.values()), default=self.plan.evaluations)


@dataclass
class Counters:
    """What an engine has done since its start."""

    completed: int = 0
    cancelled: int = 0
    steps: int = 0
    last_forward: float = float("-inf")


class Engine:
    """Paints requests of any prompt, drawing, seed, size, sampler, step count and guidance together.

    Args:
        pipeline: the model.
        max_images: how many are denoised at once.
        on_step: called from the engine's thread after each step.
    """

    def __init__(self, pipeline: MMFacePipeline, max_images: int, on_step: OnStep) -> None:
        self.pipeline = pipeline
        self.max_images = max_images
        self.counters = Counters()
        self._on_step = on_step
        self._encodings = Encodings(pipeline)
        self._paintings: deque[Painting] = deque()  # in the order they came, begun or not
        self._changed = threading.Condition()
        self._closed = False
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
        with self._changed:
            counts = [len(one.plan.seeds) for one in self._paintings]
        return sum(before >= self.max_images for before in itertools.accumulate(counts[:-1], initial=0) if counts)

    def submit(self, painting: Painting) -> None:
        """Queues a request."""
        with self._changed:
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
        except BaseException as error:
            # A dead thread must leave nobody waiting; the replica's health check reports it.
            for painting in list(self._paintings):
                self._end(painting, error)
            raise

    def _wait(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._paintings or self._closed)
            return bool(self._paintings)

    def _admit(self) -> None:
        """Begins as many images as there is room for, first come first served; drops whom nobody waits for."""
        with self._changed:
            paintings = list(self._paintings)
        room = self.max_images - sum(len(one.trajectories) for one in paintings)
        ahead = 0
        for painting in paintings:
            if painting.plan.left.is_set():
                room += len(painting.trajectories)
                self._leave(painting)
                continue
            try:
                while room > 0 and painting.begun < len(painting.plan.seeds):
                    image = painting.begun
                    with painting.trace.phase("encode"):
                        painting.trajectories[image] = self._encodings.trajectory(painting.plan, image)
                    room -= 1
            except MMFaceError as error:
                self._end(painting, error)
                continue
            self._tell(painting, ahead)
            ahead += not painting.images

    def _step(self) -> None:
        active = [(painting, image) for painting in self._paintings for image in sorted(painting.trajectories)]
        for _, group in itertools.groupby(sorted(active, key=_size), key=_size):
            trajectories = [painting.trajectories[image] for painting, image in group]
            start = time.perf_counter()
            advance(self.pipeline.transformer, trajectories, bf16=self.pipeline.bf16)
            self.counters.steps += 1
            self.counters.last_forward = time.monotonic()
            self._on_step(len(trajectories), time.perf_counter() - start)
        for painting in dict.fromkeys(painting for painting, _ in active):
            self._collect(painting)

    def _collect(self, painting: Painting) -> None:
        """Decodes what is finished."""
        for image in [image for image, one in painting.trajectories.items() if one.finished]:
            if painting.plan.left.is_set():
                return
            with painting.trace.phase("decode"):
                painting.images[image] = self._decode(painting.trajectories.pop(image).latents)
        if len(painting.images) == len(painting.plan.seeds):
            self.counters.completed += 1
            self._end(painting, np.stack([painting.images[image] for image in range(len(painting.images))]))

    def _tell(self, painting: Painting, ahead: int) -> None:
        plan = painting.plan
        told = Progress(0 if painting.begun else ahead, painting.done, plan.evaluations)
        if told == painting.told:
            return
        painting.told = told
        painting.tell(told)
        if told.step in plan.preview_steps:
            number = plan.preview_steps.index(told.step)
            painting.tell(replace(told, images=self._preview(painting), preview=number))

    def _preview(self, painting: Painting) -> Pixels:
        drawn = painting.images | {image: self._decode(one.estimate) for image, one in painting.trajectories.items()}
        return np.stack([drawn[image] for image in sorted(drawn)])

    def _decode(self, latents: torch.Tensor) -> Pixels:
        # One by one: in a batch the last bits would depend on the others.
        return np.asarray(to_pil(decode(self.pipeline.vae, latents))[0])

    def _leave(self, painting: Painting) -> None:
        self.counters.cancelled += 1
        log.info("generation cancelled after step %d of %d", painting.done, painting.plan.evaluations)
        self._end(painting, GenerationCancelled())

    def _end(self, painting: Painting, result: Pixels | BaseException) -> None:
        with self._changed:
            self._paintings.remove(painting)
        painting.finish(result)


def _size(one: tuple[Painting, int]) -> tuple[int, int]:
    return one[0].plan.height, one[0].plan.width

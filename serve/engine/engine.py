"""Continuous batching: one thread denoises all unfinished images; images join and leave between two steps (§9).

Plain Python and torch. On the CPU an image's bytes depend only on its own request, not on the images painted with it.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import numpy as np
import torch

from serve.engine.denoiser import Counters, Denoiser, OnStep
from serve.engine.encodings import Encodings
from serve.engine.footprint import Load, Room
from serve.engine.painting import GenerationCancelled, Painting
from serve.engine.queue import PaintingQueue

if TYPE_CHECKING:
    from mmface.pipeline import MMFacePipeline

log = logging.getLogger(__name__)


class Engine:
    """Paints requests of any prompt, drawing, seed, size, sampler, step count and guidance together.

    An error ends only the requests that it happened to. One that leaves the GPU unusable ends the thread.

    Args:
        pipeline: the model.
        room: how many images are denoised at once.
        on_step: called from the engine's thread, see :data:`OnStep`.
    """

    def __init__(self, pipeline: MMFacePipeline, room: Room, on_step: OnStep) -> None:
        self.pipeline = pipeline
        self.room = room
        self.counters = Counters()
        self._encodings = Encodings(pipeline)
        self._queue = PaintingQueue()
        self._denoiser = Denoiser(pipeline, room, self._queue, self.counters, on_step)
        self._thread = threading.Thread(target=self._run, name="denoise", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    @property
    def pending(self) -> int:
        """Number of requests that are not finished."""
        return len(self._queue)

    def waiting(self) -> int:
        """Number of requests for which there is no room beside the earlier ones."""
        load, waiting = Load(), 0
        for painting in self._queue.paintings():
            waiting += self.room.is_full(load, painting)
            self.room.add(load, painting, len(painting.job.seeds))
        return waiting

    def submit(self, painting: Painting) -> None:
        """Queues a request.

        Raises:
            ServiceError: the thread has ended.
        """
        self._queue.add(painting)

    def close(self) -> None:
        """Ends the thread once every submitted request is finished."""
        self._queue.close()

    def _run(self) -> None:
        torch.set_num_threads(torch.get_num_threads())  # OpenMP keeps its number for each thread
        try:
            while self._queue.wait():
                with torch.inference_mode():
                    self._admit()
                    self._step()
        finally:
            # If the thread dies, no caller may wait for ever; the replica's health check reports it.
            self._queue.stop()

    def _admit(self) -> None:
        """Begins as many images as there is room for, in order of arrival; ends the requests whose caller has left."""
        paintings, ahead = self._queue.paintings(), 0
        for painting in paintings:
            if painting.cancelled.is_set():
                self._cancel(painting)
        load = self.room.load(painting for painting, _ in self._queue.images())
        for painting in paintings:
            if painting.ended:
                continue
            with self._denoiser.isolated(painting):
                self._begin(painting, load)
                painting.report(ahead, self.pipeline.vae)
            ahead += not (painting.images or painting.ended)

    def _begin(self, painting: Painting, load: Load) -> None:
        while painting.begun < len(painting.job.seeds):
            if self.room.is_full(load, painting):
                load.images = self.room.max_images  # later requests wait too, even if they would fit
                return
            image = painting.begun
            with painting.trace.phase("encode"):
                painting.trajectories[image] = self._encodings.trajectory(painting, image)
            self.room.add(load, painting)

    def _step(self) -> None:
        images = self._queue.images()
        self._denoiser.step(images)
        for painting in dict.fromkeys(painting for painting, _ in images):
            with self._denoiser.isolated(painting):
                self._collect(painting)

    def _collect(self, painting: Painting) -> None:
        painting.decode_finished(self.pipeline.vae)
        if len(painting.images) == len(painting.job.seeds):
            self.counters.completed += 1
            self._queue.end(painting, np.stack([painting.images[image] for image in range(len(painting.images))]))

    def _cancel(self, painting: Painting) -> None:
        self.counters.cancelled += 1
        log.info("generation cancelled after step %d of %d", painting.done, painting.evaluations)
        self._queue.end(painting, GenerationCancelled())

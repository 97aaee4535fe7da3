"""A job while the engine paints it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch

from mmface.config import Sampler
from mmface.config.guidance import Guidance
from mmface.imaging.pixels import to_pil
from mmface.networks.vae import Autoencoder, decode
from mmface.sampling import Trajectory
from serve.engine.traces import UNTRACED, Trace
from serve.http.job import Job, Progress

Pixels = npt.NDArray[np.uint8]


class GenerationCancelled(Exception):
    """The caller has left, so the job was not finished."""


@dataclass(eq=False)
class Painting:
    """A job with the model's defaults filled in, and how far its images are.

    The engine's thread calls both callbacks.

    Attributes:
        on_progress: gets each :class:`Progress`.
        on_end: gets the images [n, H, W, 3] or the error. Called once.
        cancelled: set by the caller when it no longer wants the result.
        trace: notified when an image is encoded or decoded.
        trajectories: of the images that have begun and are not finished, by index.
        images: the finished images, by index.
        progress: what ``on_progress`` got last.
        ended: whether ``on_end`` was called.
    """

    job: Job
    width: int
    height: int
    num_inference_steps: int
    guidance: Guidance
    sampler: Sampler
    on_progress: Callable[[Progress], None]
    on_end: Callable[[Pixels | BaseException], None]
    cancelled: threading.Event = field(default_factory=threading.Event)
    trace: Trace = UNTRACED
    trajectories: dict[int, Trajectory] = field(default_factory=dict)
    images: dict[int, Pixels] = field(default_factory=dict)
    progress: Progress | None = None
    ended: bool = False

    @property
    def evaluations(self) -> int:
        """Network evaluations of each image; clients see them as steps."""
        return 2 * self.num_inference_steps - 1 if self.sampler == "heun" else self.num_inference_steps

    @property
    def preview_steps(self) -> list[int]:
        """The evaluations after which a preview is due: evenly spread, never the last one."""
        count = min(self.job.request.partial_images, self.evaluations - 1)
        return [(i + 1) * self.evaluations // (count + 1) for i in range(count)]

    @property
    def begun(self) -> int:
        """Number of images that have begun; they begin in order."""
        return len(self.trajectories) + len(self.images)

    @property
    def done(self) -> int:
        """Number of steps that every image has completed."""
        if self.begun < len(self.job.seeds):
            return 0
        return min((one.done for one in self.trajectories.values()), default=self.evaluations)

    def report(self, ahead: int, vae: Autoencoder) -> None:
        """Reports steps and queue position if they have changed, and any preview that is due."""
        progress = Progress(0 if self.begun else ahead, self.done, self.evaluations)
        if progress == self.progress:
            return
        self.progress = progress
        self.on_progress(progress)
        if progress.step in self.preview_steps:
            number = self.preview_steps.index(progress.step)
            self.on_progress(replace(progress, images=self._preview(vae), preview=number))

    def decode_finished(self, vae: Autoencoder) -> None:
        """Decodes the trajectories that have done their last step.

        Raises:
            FloatingPointError: latents that are not finite.
        """
        for image in [image for image, one in self.trajectories.items() if one.finished]:
            if self.cancelled.is_set():
                return
            latents = self.trajectories.pop(image).latents
            if not torch.isfinite(latents).all():
                raise FloatingPointError("latents are not finite")
            with self.trace.phase("decode"):
                self.images[image] = _decoded(latents, vae)

    def end(self, result: Pixels | BaseException) -> None:
        """Frees the tensors and hands over the result."""
        self.ended = True
        self.trajectories.clear()
        self.images.clear()
        self.on_end(result)

    def _preview(self, vae: Autoencoder) -> Pixels:
        images = self.images | {image: _decoded(one.estimate, vae) for image, one in self.trajectories.items()}
        return np.stack([images[image] for image in sorted(images)])


Image = tuple[Painting, int]
"""An unfinished image: its painting, and its index there."""


def _decoded(latents: torch.Tensor, vae: Autoencoder) -> Pixels:
    # One by one, because in a batch the last bits would depend on the other images.
    return np.asarray(to_pil(decode(vae, latents))[0])

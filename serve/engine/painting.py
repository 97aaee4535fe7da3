"""A request while it is painted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch

from mmface.imaging.pixels import to_pil
from mmface.networks.vae import Autoencoder, decode
from mmface.sampling import Trajectory
from serve.engine.defaults import Plan
from serve.engine.traces import UNTRACED, Trace
from serve.http.schemas import Progress

Pixels = npt.NDArray[np.uint8]


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
        ended: whether ``finish`` was called.
    """

    plan: Plan
    tell: Callable[[Progress], None]
    finish: Callable[[Pixels | BaseException], None]
    trace: Trace = UNTRACED
    trajectories: dict[int, Trajectory] = field(default_factory=dict)
    images: dict[int, Pixels] = field(default_factory=dict)
    told: Progress | None = None
    ended: bool = False

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

    def tell_progress(self, ahead: int, vae: Autoencoder) -> None:
        """Tells steps and place in the queue if they have changed, and the previews that are due."""
        told = Progress(0 if self.begun else ahead, self.done, self.plan.evaluations)
        if told == self.told:
            return
        self.told = told
        self.tell(told)
        if told.step in self.plan.preview_steps:
            number = self.plan.preview_steps.index(told.step)
            self.tell(replace(told, images=self._preview(vae), preview=number))

    def decode_finished(self, vae: Autoencoder) -> None:
        """Turns the trajectories that are at their end into images.

        Raises:
            FloatingPointError: one has numbers that are not finite.
        """
        for image in [image for image, one in self.trajectories.items() if one.finished]:
            if self.plan.left.is_set():
                return
            latents = self.trajectories.pop(image).latents
            if not torch.isfinite(latents).all():
                raise FloatingPointError("latents are not finite")
            with self.trace.phase("decode"):
                self.images[image] = _decoded(latents, vae)

    def _preview(self, vae: Autoencoder) -> Pixels:
        drawn = self.images | {image: _decoded(one.estimate, vae) for image, one in self.trajectories.items()}
        return np.stack([drawn[image] for image in sorted(drawn)])

    def end(self, result: Pixels | BaseException) -> None:
        """Frees what it holds and hands over the result."""
        self.ended = True
        self.trajectories.clear()
        self.images.clear()
        self.finish(result)


def _decoded(latents: torch.Tensor, vae: Autoencoder) -> Pixels:
    # One by one: in a batch the last bits would depend on the others.
    return np.asarray(to_pil(decode(vae, latents))[0])

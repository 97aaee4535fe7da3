"""Trajectories from noise to clean latents, and the network evaluation that advances several of them together.

Guidance is classifier-free (§4; Ho & Salimans, arXiv 2207.12598): ``uncond + s · (cond - uncond)``.

Shapes: B images of one trajectory, C latent channels, H W latent size, R rows of a network evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn

from mmface.model import Conditioning, predict
from mmface.networks.precision import rows_are_alike
from mmface.sampling.schedulers import Solver


class Trajectory:
    """The denoising of B images that share sampler, steps and guidance.

    Args:
        scheduler: from :func:`mmface.sampling.make_scheduler`, for the objective of the network; it is copied.
        noise: [B, C, H, W] standard normal.
        conditioning: the conditions; the network runs in the dtype of its ``condition``.
        negative: the same drawings with the empty or negative prompt, for guidance; required unless
            ``guidance_scale`` is 1.
        num_inference_steps: steps of the scheduler.
        guidance_scale: s; at exactly 1 the negative half has no influence and is not computed.

    Attributes:
        latents: [B, C, H, W] fp32, after ``done`` of ``steps`` network evaluations.
        estimate: [B, C, H, W] the clean latents that the last evaluation implies; noise before the first.
    """

    def __init__(
        self,
        scheduler: SchedulerMixin,
        noise: Tensor,
        conditioning: Conditioning,
        negative: Conditioning | None = None,
        *,
        num_inference_steps: int = 20,
        guidance_scale: float = 1.0,
    ) -> None:
        self._solver = Solver(scheduler, num_inference_steps, noise.device)
        self._guidance_scale = guidance_scale
        self._guided = negative is not None and guidance_scale != 1
        self._conditioning = conditioning
        if negative is not None and self._guided:
            self._conditioning = Conditioning.cat(negative, conditioning)
        self.latents = self.estimate = self._solver.start(noise.float())
        self.steps = len(self._solver)
        self.done = 0

    @property
    def rows(self) -> int:
        """Rows of a network evaluation: B, or 2B with guidance."""
        return len(self._conditioning.modality)

    @property
    def finished(self) -> bool:
        """Whether all evaluations are done, so that the latents are clean."""
        return self.done == self.steps

    def ask(self) -> tuple[Tensor, Tensor, Conditioning]:
        """The input of the next network evaluation: latents [R, C, H, W], time [R] and conditions."""
        latents, time = self._solver.network_input(self.done, self.latents)
        latents = latents.to(self._conditioning.condition.dtype)
        if self._guided:
            latents, time = torch.cat([latents, latents]), torch.cat([time, time])
        return latents, time, self._conditioning

    def answer(self, prediction: Tensor) -> None:
        """Advances by one evaluation with the network's ``prediction`` [R, C, H, W]."""
        prediction = prediction.float()
        if self._guided:
            uncond, cond = prediction.chunk(2)
            prediction = uncond + self._guidance_scale * (cond - uncond)
        self.estimate = self._solver.estimate(self.done, prediction, self.latents)
        self.latents = self._solver.step(self.done, prediction, self.latents)
        self.done += 1


@torch.no_grad()
def advance(transformer: nn.Module, trajectories: Sequence[Trajectory], *, bf16: bool = False) -> None:
    """Advances every trajectory by one evaluation.

    Trajectories share a network evaluation if :func:`~mmface.networks.precision.rows_are_alike`; so on a CPU the result
    of a trajectory never depends on the others.

    Args:
        transformer: the network.
        trajectories: unfinished, all of one latent size.
        bf16: multiply matrices in bfloat16.
    """
    shared = rows_are_alike(bf16, trajectories[0].latents.device)
    for group in [trajectories] if shared else [[one] for one in trajectories]:
        for one, prediction in zip(group, evaluate(transformer, group, bf16=bf16), strict=True):
            one.answer(prediction)


@torch.no_grad()
def evaluate(transformer: nn.Module, trajectories: Sequence[Trajectory], *, bf16: bool = False) -> Sequence[Tensor]:
    """The network's prediction for each trajectory, in one evaluation; does not advance the trajectories."""
    latents, times, conditions = zip(*(one.ask() for one in trajectories), strict=True)
    conditioning = conditions[0] if len(conditions) == 1 else Conditioning.cat(*conditions)
    with torch.autocast(latents[0].device.type, torch.bfloat16, enabled=bf16):
        prediction = predict(transformer, torch.cat(latents), torch.cat(times), conditioning)
    return torch.split(prediction, [one.rows for one in trajectories])

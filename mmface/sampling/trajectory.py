"""Images on their way from noise to clean latents, and the network evaluation that moves any number of them on.

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
    """Images that share sampler, steps and guidance.

    Args:
        scheduler: of :func:`mmface.sampling.make_scheduler`, for the objective the network was trained with. It is not
            changed.
        noise: [B, C, H, W] standard normal.
        conditioning: what is wanted; the network runs in the dtype of its ``condition``.
        negative: what is steered away from: the same drawings under the empty or negative prompt; needed when
            ``guidance_scale`` is not 1, and then evaluated beside what is wanted.
        num_inference_steps: steps of the scheduler.
        guidance_scale: s; at exactly 1 the negative half has no influence and is not computed.

    Attributes:
        latents: [B, C, H, W] fp32, after ``done`` of ``steps`` network evaluations.
        estimate: [B, C, H, W] the clean latents that the last evaluation pointed to; noise before the first.
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
        """Whether the latents are clean."""
        return self.done == self.steps

    def ask(self) -> tuple[Tensor, Tensor, Conditioning]:
        """What the network is to be asked next: latents [R, C, H, W], its time [R] and the conditions."""
        latents, time = self._solver.network_input(self.done, self.latents)
        latents = latents.to(self._conditioning.condition.dtype)
        if self._guided:
            latents, time = torch.cat([latents, latents]), torch.cat([time, time])
        return latents, time, self._conditioning

    def answer(self, prediction: Tensor) -> None:
        """Takes the network's answer [R, C, H, W] and moves on by one evaluation."""
        prediction = prediction.float()
        if self._guided:
            uncond, cond = prediction.chunk(2)
            prediction = uncond + self._guidance_scale * (cond - uncond)
        self.estimate = self._solver.estimate(self.done, prediction, self.latents)
        self.latents = self._solver.step(self.done, prediction, self.latents)
        self.done += 1


@torch.no_grad()
def advance(transformer: nn.Module, trajectories: Sequence[Trajectory], *, bf16: bool = False) -> None:
    """Moves every trajectory on by one step of its own.

    They share a network evaluation where :func:`~mmface.networks.precision.rows_are_alike`: on the CPU a trajectory's
    result never depends on who travels with it.

    Args:
        transformer: the network.
        trajectories: unfinished, of one latent size.
        bf16: multiply matrices in bfloat16.
    """
    shared = rows_are_alike(bf16, trajectories[0].latents.device)
    for group in [trajectories] if shared else [[one] for one in trajectories]:
        for one, prediction in zip(group, evaluate(transformer, group, bf16=bf16), strict=True):
            one.answer(prediction)


@torch.no_grad()
def evaluate(transformer: nn.Module, trajectories: Sequence[Trajectory], *, bf16: bool = False) -> Sequence[Tensor]:
    """What the network answers each trajectory, in one evaluation; the trajectories stay as they are."""
    latents, times, conditions = zip(*(one.ask() for one in trajectories), strict=True)
    conditioning = conditions[0] if len(conditions) == 1 else Conditioning.cat(*conditions)
    with torch.autocast(latents[0].device.type, torch.bfloat16, enabled=bf16):
        prediction = predict(transformer, torch.cat(latents), torch.cat(times), conditioning)
    return torch.split(prediction, [one.rows for one in trajectories])

"""Trajectories from noise to clean latents, and the network evaluation that advances several of them together.

Guidance is classifier-free, towards the prompt (Ho & Salimans, arXiv 2207.12598) and towards the drawing, both of which
are dropped in training; it can be limited to an interval of the steps (Kynkäänniemi et al., arXiv 2404.07724).

Shapes: B images of one trajectory, C latent channels, H W latent size, R rows of a network evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn

from mmface.config.guidance import Guidance
from mmface.model import Conditioning, predict
from mmface.networks.precision import rows_are_alike
from mmface.sampling.schedulers import Solver

UNGUIDED = Guidance()


class Trajectory:
    """The denoising of B images that share sampler, steps and guidance.

    Args:
        scheduler: from :func:`mmface.sampling.make_scheduler`, for the objective of the network; it is copied.
        noise: [B, C, H, W] standard normal.
        conditioning: the conditions; the network runs in the dtype of its ``condition``.
        negative: the same drawings with the empty or negative prompt; required for guidance towards the prompt.
        num_inference_steps: steps of the scheduler.
        guidance: towards prompt and drawing; none by default.

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
        guidance: Guidance = UNGUIDED,
    ) -> None:
        self._solver = Solver(scheduler, num_inference_steps, noise.device)
        self._guidance = guidance
        self._conditioning = self._guided = conditioning
        if guidance.rows > 1:
            self._guided = guided_inputs(guidance, conditioning, negative)
        self.latents = self.estimate = self._solver.start(noise.float())
        self.steps = len(self._solver)
        self.done = 0

    @property
    def rows(self) -> int:
        """Rows of the next network evaluation: B, or a multiple of it if the evaluation is guided."""
        return len(self._next.modality)

    @property
    def _next(self) -> Conditioning:
        return self._guided if self._guidance.applies(self.done, self.steps) else self._conditioning

    @property
    def finished(self) -> bool:
        """Whether all evaluations are done, so that the latents are clean."""
        return self.done == self.steps

    def ask(self) -> tuple[Tensor, Tensor, Conditioning]:
        """The input of the next network evaluation: latents [R, C, H, W], time [R] and conditions."""
        latents, time = self._solver.network_input(self.done, self.latents)
        latents = latents.to(self._conditioning.condition.dtype)
        copies = self.rows // len(latents)
        if copies > 1:
            latents, time = torch.cat([latents] * copies), torch.cat([time] * copies)
        return latents, time, self._next

    def answer(self, prediction: Tensor) -> None:
        """Advances by one evaluation with the network's ``prediction`` [R, C, H, W]."""
        prediction = prediction.float()
        if self._guidance.applies(self.done, self.steps):
            prediction = guide(self._guidance, prediction)
        self.estimate = self._solver.estimate(self.done, prediction, self.latents)
        self.latents = self._solver.step(self.done, prediction, self.latents)
        self.done += 1


def guided_inputs(guidance: Guidance, conditioning: Conditioning, negative: Conditioning | None) -> Conditioning:
    """The conditions of a guided evaluation: without prompt, with both, without drawing; first and last if needed.

    Args:
        conditioning: [B] prompt and drawing.
        negative: [B] the same drawings with the empty or negative prompt.
    """
    parts = [conditioning]
    if guidance.guidance_scale != 1:
        assert negative is not None, "guidance needs a negative prompt"
        parts.insert(0, negative)
    if guidance.drawing_guidance_scale != 1:
        parts.append(replace(conditioning, condition=torch.zeros_like(conditioning.condition)))
    return Conditioning.cat(*parts)


def guide(guidance: Guidance, prediction: Tensor) -> Tensor:
    """The guided prediction [B, C, H, W] from those of :func:`guided_inputs`.

    ``uncond + s · (cond - uncond) + (d - 1) · (cond - undrawn)`` with the scales s of the prompt and d of the drawing.
    """
    parts = list(prediction.chunk(guidance.rows))
    cond = parts[1] if guidance.guidance_scale != 1 else parts[0]
    guided = cond
    if guidance.guidance_scale != 1:
        guided = parts[0] + guidance.guidance_scale * (cond - parts[0])
    if guidance.drawing_guidance_scale != 1:
        guided = guided + (guidance.drawing_guidance_scale - 1) * (cond - parts[-1])
    return guided


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

"""The schedulers of diffusers for the objectives, and the only place that converts between their conventions (§4).

MMFace: flow time runs 0 = noise → 1 = data, the velocity is data - noise, the network sees 999·t; DDPM sees its step.
diffusers: flow sigma runs 1 = noise → 0 = data, the velocity is noise - data, timesteps are 1000·sigma.
"""

from __future__ import annotations

import copy
import math
from typing import Any, Literal, cast

import numpy as np
import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_heun_discrete import FlowMatchHeunDiscreteScheduler
from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from mmface.errors import RecipeError
from mmface.objectives import ObjectiveName
from mmface.objectives.ddpm import SCHEDULE
from mmface.objectives.flow import network_time

SamplerName = Literal["euler", "heun", "dpmpp", "unipc"]

_FLOW_SIGMAS = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
_SD21 = {**SCHEDULE, "steps_offset": 1}

_CHOICES: dict[tuple[str, str], tuple[type[Any], dict[str, Any]]] = {
    ("flow", "euler"): (FlowMatchEulerDiscreteScheduler, {}),
    ("flow", "heun"): (FlowMatchHeunDiscreteScheduler, {}),
    ("flow", "dpmpp"): (DPMSolverMultistepScheduler, _FLOW_SIGMAS),
    ("flow", "unipc"): (UniPCMultistepScheduler, _FLOW_SIGMAS),
    ("ddpm", "euler"): (EulerDiscreteScheduler, _SD21),
    ("ddpm", "heun"): (HeunDiscreteScheduler, _SD21),
    ("ddpm", "dpmpp"): (DPMSolverMultistepScheduler, _SD21),
    ("ddpm", "unipc"): (UniPCMultistepScheduler, _SD21),
}


def make_scheduler(objective: ObjectiveName, sampler: SamplerName) -> SchedulerMixin:
    """The scheduler of diffusers that samples a model trained with ``objective``.

    Raises:
        RecipeError: the sampler does not exist for this objective.
    """
    if (objective, sampler) not in _CHOICES:
        known = ", ".join(sorted({name for _, name in _CHOICES}))
        raise RecipeError(f"no sampler {sampler!r} for objective {objective!r}; known: {known}", field="sampler")
    scheduler_class, options = _CHOICES[objective, sampler]
    scheduler: SchedulerMixin = scheduler_class(**options)
    return scheduler


def objective_of(scheduler: SchedulerMixin) -> ObjectiveName:
    """The objective of the models that a scheduler samples; in a bundle only the scheduler tells it."""
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler | FlowMatchHeunDiscreteScheduler):
        return "flow"
    return "flow" if getattr(scheduler, "config", {}).get("use_flow_sigmas") else "ddpm"


class Solver:
    """A run of a scheduler over ``num_inference_steps``, in the conventions of MMFace.

    Works on a copy of the scheduler, since schedulers have state and one pipeline may serve several requests at once.

    Args:
        scheduler: from :func:`make_scheduler`.
        num_inference_steps: n, as in diffusers; Heun evaluates the network 2n - 1 times.
        device: the device of the latents.
    """

    def __init__(self, scheduler: SchedulerMixin, num_inference_steps: int, device: torch.device) -> None:
        self._scheduler = cast(Any, copy.deepcopy(scheduler))
        self._flow = objective_of(scheduler) == "flow"
        if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
            # Uniform steps; the default of diffusers spends the last step on sigma 0.001 → 0.
            sigmas = np.linspace(1.0, 1.0 / num_inference_steps, num_inference_steps)
            self._scheduler.set_timesteps(sigmas=sigmas.tolist(), device=device)
        else:
            self._scheduler.set_timesteps(num_inference_steps, device=device)
        # Otherwise the scheduler searches its table for the first timestep, which synchronises a GPU.
        self._scheduler.set_begin_index(0)

    def __len__(self) -> int:
        """Number of network evaluations."""
        return len(self._scheduler.timesteps)

    def start(self, noise: Tensor) -> Tensor:
        """Standard normal noise → the latents before the first step."""
        return noise * float(getattr(self._scheduler, "init_noise_sigma", 1.0))

    def network_input(self, index: int, latents: Tensor) -> tuple[Tensor, Tensor]:
        """The network's input at evaluation ``index``: latents and time [B] fp32."""
        if self._flow:
            # From the sigmas, because the multistep schedulers round `timesteps` to integers.
            time = network_time(1.0 - self._scheduler.sigmas[index])
        else:
            timestep = self._scheduler.timesteps[index]
            latents, time = self._scheduler.scale_model_input(latents, timestep), timestep.float()
        return latents, time.to(latents.device).expand(len(latents))

    def estimate(self, index: int, prediction: Tensor, latents: Tensor) -> Tensor:
        """The clean latents that ``prediction`` implies for ``latents`` at evaluation ``index``."""
        alpha, sigma = 1.0, float(self._scheduler.sigmas[index])
        if self._flow:
            return latents + sigma * prediction
        if isinstance(self._scheduler, DPMSolverMultistepScheduler | UniPCMultistepScheduler):
            # These schedulers scale latents to unit variance; the others do not scale the data.
            alpha = 1 / math.sqrt(1 + sigma**2)
        return (latents - alpha * sigma * prediction) / alpha

    def step(self, index: int, prediction: Tensor, latents: Tensor) -> Tensor:
        """The latents after evaluation ``index`` with ``prediction`` (velocity data - noise, or ε)."""
        if self._flow:
            prediction = -prediction
        stepped = self._scheduler.step(prediction, self._scheduler.timesteps[index], latents, return_dict=False)
        latents = stepped[0]
        return latents

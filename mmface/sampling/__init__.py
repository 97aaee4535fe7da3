"""Sampling latents from noise: the schedulers of diffusers, guidance, and the loop over denoising steps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from diffusers.models.cache_utils import CacheMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn

from mmface.config.guidance import Guidance
from mmface.model import Conditioning
from mmface.sampling.schedulers import SamplerName, make_scheduler, objective_of
from mmface.sampling.trajectory import UNGUIDED, Trajectory, advance, evaluate

OnStep = Callable[[int, int, Tensor], None]
"""Called as (i, n, latents [B, C, H, W]) after network evaluation i of n; may raise an exception to cancel."""


@torch.no_grad()
def sample(
    transformer: nn.Module,
    scheduler: SchedulerMixin,
    noise: Tensor,
    conditioning: Conditioning,
    negative: Conditioning | None = None,
    *,
    num_inference_steps: int = 20,
    guidance: Guidance = UNGUIDED,
    bf16: bool = False,
    on_step: OnStep | None = None,
) -> Tensor:
    """Denoises ``noise`` to clean latents; deterministic. :class:`Trajectory` documents the other arguments.

    Args:
        bf16: multiply matrices in bfloat16.
        on_step: callback for progress, previews and cancellation.

    Returns:
        [B, C, H, W] fp32 normalised latents.
    """
    trajectory = Trajectory(
        scheduler,
        noise,
        conditioning,
        negative,
        num_inference_steps=num_inference_steps,
        guidance=guidance,
    )
    while not trajectory.finished:
        with _cache_context(transformer, trajectory):
            advance(transformer, [trajectory], bf16=bf16)
        if on_step is not None:
            on_step(trajectory.done, trajectory.steps, trajectory.latents)
    return trajectory.latents


def _cache_context(transformer: nn.Module, trajectory: Trajectory) -> AbstractContextManager[None]:
    """The context in which the caches of diffusers keep their state; does nothing if no cache is enabled.

    Evaluations with another number of rows have another state, because some may be guided and others not.
    """
    if not isinstance(transformer, CacheMixin) or not transformer.is_cache_enabled:
        return nullcontext()
    if trajectory.done == 0:
        transformer._reset_stateful_cache()
    name = f"{trajectory.rows} rows"
    context: AbstractContextManager[None] = transformer.cache_context(name, step_index=trajectory.done)
    return context


__all__ = [
    "OnStep",
    "SamplerName",
    "Trajectory",
    "advance",
    "evaluate",
    "make_scheduler",
    "objective_of",
    "sample",
]

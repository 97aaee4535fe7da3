"""From noise to latents: diffusers' schedulers, guidance, and the loop that joins them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from diffusers.models.cache_utils import CacheMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn

from mmface.model import Conditioning
from mmface.sampling.guidance import guided
from mmface.sampling.schedulers import SamplerName, Solver, make_scheduler, objective_of

OnStep = Callable[[int, int, Tensor], None]
"""Called after evaluation i of n with the latents [B, C, H, W]; it may raise to cancel."""


@torch.no_grad()
def sample(
    transformer: nn.Module,
    scheduler: SchedulerMixin,
    noise: Tensor,
    conditioning: Conditioning,
    negative: Conditioning | None = None,
    *,
    num_inference_steps: int = 20,
    guidance_scale: float = 1.0,
    on_step: OnStep | None = None,
) -> Tensor:
    """Integrates from noise to clean latents; deterministic.

    Args:
        transformer: the network; it runs in the dtype of ``conditioning.condition``.
        scheduler: of :func:`make_scheduler`, for the objective the network was trained with. It is not changed.
        noise: [B, C, H, W] standard normal.
        conditioning: what is wanted.
        negative: the same drawings under the empty or negative prompt; needed when ``guidance_scale`` is not 1.
        num_inference_steps: steps of the scheduler.
        guidance_scale: strength of the text.
        on_step: hook for progress, previews and cancellation.

    Returns:
        [B, C, H, W] fp32 normalised latents.
    """
    solver = Solver(scheduler, num_inference_steps, noise.device)
    dtype = conditioning.condition.dtype
    latents = solver.start(noise.float())
    for index in range(len(solver)):
        network_latents, timestep = solver.network_input(index, latents)
        with _cache_context(transformer, index):
            prediction = guided(
                transformer, network_latents.to(dtype), timestep, conditioning, negative, guidance_scale
            )
        latents = solver.step(index, prediction, latents)
        if on_step is not None:
            on_step(index + 1, len(solver), latents)
    return latents


def _cache_context(transformer: nn.Module, index: int) -> AbstractContextManager[None]:
    """What diffusers' caches key their state by; without a cache it does nothing."""
    if not isinstance(transformer, CacheMixin) or not transformer.is_cache_enabled:
        return nullcontext()
    if index == 0:
        transformer._reset_stateful_cache()
    context: AbstractContextManager[None] = transformer.cache_context("guided", step_index=index)
    return context


__all__ = ["OnStep", "SamplerName", "guided", "make_scheduler", "objective_of", "sample"]

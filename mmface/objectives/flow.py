"""Rectified flow (§4, §5; Liu et al., arXiv 2209.03003; logit-normal time: Esser et al., arXiv 2403.03206).

Time runs from 0 = noise to 1 = data, the velocity is data - noise, and the network sees 999·t.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mmface.errors import RecipeError
from mmface.model import Conditioning, predict
from mmface.objectives.objective import SampleLoss, squared_error

TimestepSampling = Literal["uniform", "logit_normal"]


def network_time(t: Tensor) -> Tensor:
    """Flow time in [0, 1] → what the network's embedding sees; always fp32."""
    return 999.0 * t.float()


class RectifiedFlow:
    """The rectified flow objective: on paths ``x_t = (1 - t)·noise + t·latents`` the network predicts the velocity
    ``latents - noise``.

    Raises:
        RecipeError: unknown ``timestep_sampling``.
    """

    def __init__(self, timestep_sampling: TimestepSampling = "logit_normal") -> None:
        if timestep_sampling not in ("uniform", "logit_normal"):
            raise RecipeError(
                f"unknown density {timestep_sampling!r}; known: uniform, logit_normal",
                field="objective.timestep_sampling",
            )
        self.timestep_sampling = timestep_sampling

    def timesteps(self, u: Tensor) -> Tensor:
        """[B] uniform numbers → [B] fp32 flow times: unchanged, or sigmoid(Φ⁻¹(u)), whose logit is normal."""
        if self.timestep_sampling == "uniform":
            return u.float()
        return torch.sigmoid(torch.special.ndtri(u.double())).float()

    def add_noise(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The point at time ``t`` [B] on the straight path from noise to latents."""
        return torch.lerp(noise, latents, t.to(latents.dtype)[:, None, None, None])

    def __call__(
        self, transformer: nn.Module, latents: Tensor, noise: Tensor, t: Tensor, conditioning: Conditioning
    ) -> SampleLoss:
        """Squared error of the velocity, per sample; see :class:`~mmface.objectives.objective.Objective`."""
        noisy = self.add_noise(latents, noise, t)
        mse = squared_error(predict(transformer, noisy, network_time(t), conditioning), latents - noise)
        return SampleLoss(loss=mse, mse=mse)

"""The interface of an objective.

Shapes: B batch, C latent channels, H W latent size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from mmface.model import Conditioning


@dataclass(frozen=True)
class SampleLoss:
    """The loss of each sample.

    Attributes:
        loss: [B] fp32, weighted; training minimises its mean.
        mse: [B] fp32, the unweighted squared error of the prediction, comparable between weightings.
    """

    loss: Tensor
    mse: Tensor


class Objective(Protocol):
    """Adds noise to clean latents and scores the transformer's prediction. Draws no random numbers itself."""

    def timesteps(self, u: Tensor) -> Tensor:
        """[B] uniform numbers in (0, 1) → [B] times in the objective's convention; a pure function."""

    def add_noise(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Clean latents and noise [B, C, H, W], times [B] → noisy latents [B, C, H, W]."""

    def __call__(
        self, transformer: nn.Module, latents: Tensor, noise: Tensor, t: Tensor, conditioning: Conditioning
    ) -> SampleLoss:
        """The loss of each sample.

        Args:
            transformer: the network.
            latents: [B, C, H, W] clean, normalised.
            noise: [B, C, H, W] standard normal.
            t: [B] from :meth:`timesteps`.
            conditioning: the conditions of the batch.
        """


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error per sample, in fp32: [B, …] → [B]."""
    return (prediction.float() - target.float()).square().flatten(1).mean(1)

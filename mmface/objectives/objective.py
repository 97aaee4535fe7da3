"""What every objective offers.

Shapes: B batch, C latent channels, H W latent size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from mmface.model import Conditioning


@dataclass(frozen=True)
class SampleLoss:
    """Loss per sample.

    Attributes:
        loss: [B] fp32, weighted: what training minimises the mean of.
        mse: [B] fp32, the plain squared error of the prediction, comparable between weightings.
    """

    loss: Tensor
    mse: Tensor


class Objective(Protocol):
    """Noises clean latents, asks the transformer, and scores its answer. Draws no random numbers of its own."""

    def timesteps(self, u: Tensor) -> Tensor:
        """[B] uniform numbers in (0, 1) → [B] times in the objective's own convention; a pure function."""

    def add_noise(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """[B, C, H, W] clean latents and noise at times [B] → noised latents."""

    def __call__(
        self, transformer: nn.Module, latents: Tensor, noise: Tensor, t: Tensor, conditioning: Conditioning
    ) -> SampleLoss:
        """Loss of each sample.

        Args:
            transformer: the network.
            latents: [B, C, H, W] clean, normalised.
            noise: [B, C, H, W] standard normal.
            t: [B] from :meth:`timesteps`.
            conditioning: what the pictures are conditioned on.
        """


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """[B, …] → [B], mean over everything but the batch, in fp32."""
    return (prediction.float() - target.float()).square().flatten(1).mean(1)

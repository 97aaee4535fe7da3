"""DDPM with the schedule of Stable Diffusion 2.1, ε-prediction and Min-SNR weights (§5; Hang et al., arXiv 2303.09556).

Time is the integer step 0 … 999, where 999 is nearly pure noise; the network sees the step unscaled.
"""

from __future__ import annotations

from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from mmface.model import Conditioning, predict
from mmface.objectives.objective import SampleLoss, squared_error

STEPS = 1000
SCHEDULE = {
    "num_train_timesteps": STEPS,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
}
"""Arguments of the schedulers of diffusers, for training and for sampling."""


class DDPM:
    """The DDPM objective: the network predicts the noise in ``x_t = √ᾱ·latents + √(1-ᾱ)·noise``.

    Args:
        min_snr_gamma: g of the weight ``min(SNR, g) / SNR`` with ``SNR = ᾱ / (1-ᾱ)``; ``None``: all steps weigh 1.
    """

    def __init__(self, min_snr_gamma: float | None = 5.0) -> None:
        self.min_snr_gamma = min_snr_gamma
        self.alphas_cumprod: Tensor = DDPMScheduler(**SCHEDULE).alphas_cumprod

    def timesteps(self, u: Tensor) -> Tensor:
        """[B] uniform numbers → [B] int64 steps, each equally likely."""
        # A float32 u just below 1 can round up to 1000.
        return (u.double() * STEPS).long().clamp_(0, STEPS - 1)

    def add_noise(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The noisy latents at steps ``t`` [B]."""
        alpha = self._alpha_bar(t)[:, None, None, None]
        return (alpha.sqrt() * latents + (1 - alpha).sqrt() * noise).to(latents.dtype)

    def weights(self, t: Tensor) -> Tensor:
        """Min-SNR weights [B] of steps ``t`` [B] for ε-prediction, fp32."""
        alpha = self._alpha_bar(t)
        snr = alpha / (1 - alpha)
        return snr.clamp(max=self.min_snr_gamma) / snr

    def __call__(
        self, transformer: nn.Module, latents: Tensor, noise: Tensor, t: Tensor, conditioning: Conditioning
    ) -> SampleLoss:
        """Weighted squared error of the noise, per sample; see :class:`~mmface.objectives.objective.Objective`."""
        mse = squared_error(predict(transformer, self.add_noise(latents, noise, t), t, conditioning), noise)
        loss = mse if self.min_snr_gamma is None else mse * self.weights(t)
        return SampleLoss(loss=loss, mse=mse)

    def _alpha_bar(self, t: Tensor) -> Tensor:
        return self.alphas_cumprod.to(t.device)[t]

"""Classifier-free guidance (§4; Ho & Salimans, arXiv 2207.12598).

Shapes: B batch, C latent channels, H W latent size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmface.model import Conditioning, predict


def guided(
    transformer: nn.Module,
    latents: Tensor,
    timestep: Tensor,
    conditioning: Conditioning,
    negative: Conditioning | None,
    guidance_scale: float,
) -> Tensor:
    """``uncond + s · (cond - uncond)``, from one forward pass of 2B.

    Args:
        transformer: the network.
        latents: [B, C, H, W].
        timestep: [B] network time.
        conditioning: what is wanted.
        negative: what is steered away from: the same drawing under the empty or negative prompt. ``None`` switches
            guidance off.
        guidance_scale: s; at exactly 1 the negative half has no influence and is not computed.

    Returns:
        [B, C, H, W] fp32.
    """
    if negative is None or guidance_scale == 1:
        return predict(transformer, latents, timestep, conditioning).float()
    both = predict(
        transformer,
        torch.cat([latents, latents]),
        torch.cat([timestep, timestep]),
        Conditioning.cat(negative, conditioning),
    )
    uncond, cond = both.float().chunk(2)
    return uncond + guidance_scale * (cond - uncond)

"""Embedders: pixels, time and text to vectors of the hidden width (§4).

Shapes: B batch, C channels, h w patches per side, p patch side, N = h·w tokens, D text width, H hidden.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

FREQUENCIES = 256


class PatchEmbed(nn.Module):
    """Non-overlapping patches: [B, C, h·p, w·p] → [B, N, H]."""

    def __init__(self, in_channels: int, patch_size: int, hidden_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, hidden_size, kernel_size=patch_size, stride=patch_size)

    def forward(self, latents: Tensor) -> Tensor:
        tokens: Tensor = self.proj(latents).flatten(2).transpose(1, 2)
        return tokens


def sinusoids(timestep: Tensor, size: int = FREQUENCIES) -> Tensor:
    """[B] → [B, size]: cosines, then sines, of the timestep at geometric frequencies 1 … 1/10000; fp32."""
    half = size // 2
    steps = torch.arange(half, device=timestep.device, dtype=torch.float32)
    angles = timestep.float()[:, None] * torch.exp(-math.log(10000.0) * steps / half)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimestepEmbedder(nn.Module):
    """Network time [B], 0 … 999, → [B, H]. The objectives scale their time to this range (§4)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))

    def forward(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        embedding: Tensor = self.mlp(sinusoids(timestep).to(dtype))
        return embedding


class PooledTextEmbedder(nn.Module):
    """Pooled text [B, D] → [B, H].

    ``null_feature_pooled`` is unused, because dropped text is the empty prompt (§4); the released state dict has it.
    """

    def __init__(self, text_embed_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.proj = nn.Linear(text_embed_dim, hidden_size)
        self.null_feature_pooled = nn.Parameter(torch.zeros(text_embed_dim), requires_grad=False)

    def forward(self, pooled: Tensor) -> Tensor:
        embedding: Tensor = self.proj(pooled)
        return embedding


def unpatchify(tokens: Tensor, height: int, width: int, patch_size: int) -> Tensor:
    """[B, N, p·p·C] with inner order (p, q, c) → [B, C, h·p, w·p]; ``height`` and ``width`` count patches."""
    grid = tokens.reshape(len(tokens), height, width, patch_size, patch_size, -1)  # [B, h, w, p, q, C]
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)

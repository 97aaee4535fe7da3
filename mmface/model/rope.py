"""Rotary position embedding: axial for image patches, one-dimensional or none for text (§4; paper, shared attention).

Shapes: B batch, N = h·w image tokens, L text tokens, S any number of tokens, A heads, E head width.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

THETA = 10000.0

TextRope = Literal["zero", "sequential"]


class Rotations(NamedTuple):
    """Rotations as unit complex numbers, per token and channel pair; ``None``: tokens are not rotated."""

    image: Tensor | None  # [N, E/2] complex64
    text: Tensor | None  #  [L, E/2] complex64


def axial_rotations(rows: Tensor, columns: Tensor, head_dim: int) -> Tensor:
    """``exp(i · position · θ^(-2k / (E/2)))``: rows rotate the first half of a head, columns the second.

    Args:
        rows, columns: [S] positions.
        head_dim: E, divisible by 4 (two halves of interleaved pairs).

    Returns:
        [S, E/2] complex64.
    """
    half = head_dim // 2
    exponents = torch.arange(0, half, 2, device=rows.device, dtype=torch.float32) / half
    frequencies = 1.0 / THETA**exponents  #                          [E/4]
    positions = torch.stack([rows, columns], dim=-1).float()  #      [S, 2]
    angles = (positions[:, :, None] * frequencies).flatten(1)  #     [S, E/2]
    return torch.polar(torch.ones_like(angles), angles)


def build_rotations(
    height: int, width: int, text_length: int, head_dim: int, text_rope: TextRope, device: torch.device
) -> Rotations:
    """Rotations for an image of ``height`` x ``width`` patches and ``text_length`` text tokens.

    ``text_rope="zero"`` puts every text token at (0, 0), so text is not rotated. ``"sequential"`` puts token l at
    (l, l): both halves of the head see the 1-D position, and attention between text tokens depends only on distance.
    """
    rows = torch.arange(height, device=device).repeat_interleave(width)
    columns = torch.arange(width, device=device).repeat(height)
    image = axial_rotations(rows, columns, head_dim)
    if text_rope == "zero":
        return Rotations(image, None)
    positions = torch.arange(text_length, device=device)
    return Rotations(image, axial_rotations(positions, positions, head_dim))


def rotate(x: Tensor, rotation: Tensor | None) -> Tensor:
    """Rotates interleaved channel pairs of ``x`` [B, S, A, E] by ``rotation`` [S, E/2]; computed in fp32."""
    if rotation is None:
        return x
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rotation[:, None]).flatten(-2).type_as(x)

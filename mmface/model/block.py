"""The transformer block: adaptive norm → joint attention → gate, adaptive norm → MLP → gate (§4; paper, figure 2).

Shapes: B batch, N image tokens, L text tokens, H hidden. Blocks take and return both streams, as the cache hooks of
diffusers expect.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmface.model.attention import DualStreamAttention, SingleStreamAttention
from mmface.model.rope import Rotations


class Modulation(NamedTuple):
    """Shift, scale and gate of one sub-layer of one stream, each [B, 1, H]."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


def modulate(tokens: Tensor, modulation: Modulation) -> Tensor:
    """The adaptive norm: LayerNorm without parameters, then ``x · (1 + scale) + shift``."""
    normed = F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
    return torch.addcmul(modulation.shift, normed, 1 + modulation.scale)


def add_gated(tokens: Tensor, modulation: Modulation, update: Tensor) -> Tensor:
    """The gated residual: ``x + gate · update``."""
    return torch.addcmul(tokens, modulation.gate, update)


class AdaLN(nn.Sequential):
    """Condition vector [B, H] → ``count`` modulations, by SiLU and one linear that is initialised to zero."""

    def __init__(self, hidden_size: int, count: int) -> None:
        super().__init__(nn.SiLU(), nn.Linear(hidden_size, 3 * count * hidden_size))
        self.count = count

    def modulations(self, vector: Tensor) -> list[Modulation]:
        """The modulations in the order of the released weights: attention, then MLP; image, then text."""
        parts = self(vector)[:, None].chunk(3 * self.count, dim=-1)
        return [Modulation(*parts[i : i + 3]) for i in range(0, len(parts), 3)]


def feed_forward(hidden_size: int, mlp_ratio: float) -> nn.Sequential:
    """The MLP: linear, GELU (tanh), linear."""
    inner = int(hidden_size * mlp_ratio)
    return nn.Sequential(nn.Linear(hidden_size, inner), nn.GELU(approximate="tanh"), nn.Linear(inner, hidden_size))


class DualStreamBlock(nn.Module):
    """A block with separate norms, gates and MLPs for image and text, joined by attention.

    Args:
        hidden_size, num_heads, mlp_ratio: sizes.
        last: whether this is the last block, whose text result is discarded. Text keys and values still take part in
            attention, but its query, output projection and MLP are not computed, and their parameters are frozen, since
            DDP would wait for their gradients forever. They stay in the state dict (§4).
    """

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float, *, last: bool = False) -> None:
        super().__init__()
        self.attn = DualStreamAttention(hidden_size, num_heads, text_output=not last)
        self.mlp_i = feed_forward(hidden_size, mlp_ratio)
        self.mlp_t = feed_forward(hidden_size, mlp_ratio)
        self.adaLN_modulation = AdaLN(hidden_size, count=4)
        if last:
            for unread in (self.attn.to_q_t, self.attn.to_out_t, self.mlp_t):
                unread.requires_grad_(False)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        vector: Tensor,
        rotations: Rotations,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Image [B, N, H], text [B, L, H], condition vector [B, H], mask of keys [B, 1, 1, S] → image, text."""
        image, text = hidden_states, encoder_hidden_states
        image_attn, image_mlp, text_attn, text_mlp = self.adaLN_modulation.modulations(vector)

        update, update_t = self.attn(modulate(image, image_attn), modulate(text, text_attn), rotations, mask)
        image = add_gated(image, image_attn, update)
        image = add_gated(image, image_mlp, self.mlp_i(modulate(image, image_mlp)))
        if update_t is None:
            return image, text
        text = add_gated(text, text_attn, update_t)
        text = add_gated(text, text_mlp, self.mlp_t(modulate(text, text_mlp)))
        return image, text


class SingleStreamBlock(nn.Module):
    """A block with the same weights for image and text tokens (ablation ``dual_stream=False``)."""

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.attn = SingleStreamAttention(hidden_size, num_heads)
        self.mlp_i = feed_forward(hidden_size, mlp_ratio)
        self.adaLN_modulation = AdaLN(hidden_size, count=2)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        vector: Tensor,
        rotations: Rotations,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Image [B, N, H], text [B, L, H], condition vector [B, H] → image, text."""
        length = hidden_states.shape[1]
        tokens = torch.cat([hidden_states, encoder_hidden_states], dim=1)
        attn, mlp = self.adaLN_modulation.modulations(vector)

        tokens = add_gated(tokens, attn, self.attn(modulate(tokens, attn), length, rotations, mask))
        tokens = add_gated(tokens, mlp, self.mlp_i(modulate(tokens, mlp)))
        return tokens[:, :length], tokens[:, length:]


class FinalLayer(nn.Module):
    """Adaptive norm (shift, scale), then a linear to the values of a patch: [B, N, H] → [B, N, p·p·C]."""

    def __init__(self, hidden_size: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, out_features)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))

    def forward(self, tokens: Tensor, vector: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(vector)[:, None].chunk(2, dim=-1)
        normed = F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
        output: Tensor = self.linear(torch.addcmul(shift, normed, 1 + scale))
        return output

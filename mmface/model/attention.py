"""Joint attention: image and text tokens attend to each other in one softmax (§4; paper, shared RoPE attention).

Shapes: B batch, N image tokens, L text tokens, S = N + L, Q queries, A heads, E head width, H = A·E hidden.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmface.model.rope import Rotations, rotate


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """[B, S, H] → [B, S, A, E]."""
    return x.reshape(*x.shape[:-1], num_heads, -1)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax attention: [B, Q, A, E], [B, S, A, E], [B, S, A, E] → [B, Q, H]; keys with a false mask are ignored."""
    query, key, value = (one.transpose(1, 2) for one in (query, key, value))
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return mixed.transpose(1, 2).flatten(2)


class DualStreamAttention(nn.Module):
    """Joint attention with separate projections for image and text; all tokens see the keys and values of both.

    Tokens are ordered image, then text.

    Args:
        hidden_size: H.
        num_heads: A.
        text_output: whether to compute the text result. The last block's is not used, so text has no query there; the
            projections ``to_q_t`` and ``to_out_t`` stay in the state dict.
    """

    def __init__(self, hidden_size: int, num_heads: int, *, text_output: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.text_output = text_output
        self.to_q = nn.Linear(hidden_size, hidden_size, bias=False)
        self.to_k = nn.Linear(hidden_size, hidden_size, bias=False)
        self.to_v = nn.Linear(hidden_size, hidden_size, bias=False)
        self.to_out = nn.Linear(hidden_size, hidden_size, bias=False)
        self.to_q_t = nn.Linear(hidden_size, hidden_size, bias=False)
        self.to_k_t = nn.Linear(hidden_size, hidden_size, bias=False)
        self.to_v_t = nn.Linear(hidden_size, hidden_size, bias=False)
        self.to_out_t = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(
        self, image: Tensor, text: Tensor, rotations: Rotations, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """[B, N, H] and [B, L, H] → the same shapes; the text result is ``None`` without ``text_output``."""
        heads, (turn, turn_t) = self.num_heads, rotations
        query = rotate(split_heads(self.to_q(image), heads), turn)  #       [B, N, A, E]
        key = rotate(split_heads(self.to_k(image), heads), turn)  #         [B, N, A, E]
        key_t = rotate(split_heads(self.to_k_t(text), heads), turn_t)  #    [B, L, A, E]
        value = split_heads(self.to_v(image), heads)  #                     [B, N, A, E]
        value_t = split_heads(self.to_v_t(text), heads)  #                  [B, L, A, E]
        keys, values = torch.cat([key, key_t], dim=1), torch.cat([value, value_t], dim=1)
        if not self.text_output:
            return self.to_out(attend(query, keys, values, mask)), None
        query_t = rotate(split_heads(self.to_q_t(text), heads), turn_t)  #  [B, L, A, E]
        queries = torch.cat([query, query_t], dim=1)  #                      [B, S, A, E]
        mixed = attend(queries, keys, values, mask)  #                       [B, S, H]
        length = image.shape[1]
        return self.to_out(mixed[:, :length]), self.to_out_t(mixed[:, length:])


class SingleStreamAttention(nn.Module):
    """Joint attention with one set of projections for image and text tokens (ablation)."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(hidden_size, hidden_size, bias=False)
        self.to_k = nn.Linear(hidden_size, hidden_size, bias=False)
        self.to_v = nn.Linear(hidden_size, hidden_size, bias=False)
        self.to_out = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, tokens: Tensor, num_image: int, rotations: Rotations, mask: Tensor | None = None) -> Tensor:
        """``tokens`` [B, S, H], the first ``num_image`` of which are the image's → [B, S, H]."""
        query, key, value = (split_heads(to(tokens), self.num_heads) for to in (self.to_q, self.to_k, self.to_v))
        query, key = (self._rotate(x, num_image, rotations) for x in (query, key))
        output: Tensor = self.to_out(attend(query, key, value, mask))
        return output

    @staticmethod
    def _rotate(x: Tensor, num_image: int, rotations: Rotations) -> Tensor:
        parts = rotate(x[:, :num_image], rotations.image), rotate(x[:, num_image:], rotations.text)
        return torch.cat(parts, dim=1)

"""Prompts → text conditions, one way for stages, training and sampling (§4).

Shapes: B prompts, L = ``tokenizer.model_max_length``, D text width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer


@torch.no_grad()
def encode_text(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, prompts: list[str]) -> tuple[Tensor, Tensor]:
    """Encodes prompts, padded or cut to the tokenizer's length; padding is attended to, as in the released models.

    Returns:
        Sequence [B, L, D], the last-but-one layer without the final norm; pooled [B, D], ``pooler_output``.
    """
    tokens = tokenizer(
        prompts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    output = text_encoder(tokens.input_ids.to(text_encoder.device), output_hidden_states=True)
    return output.hidden_states[-2], output.pooler_output

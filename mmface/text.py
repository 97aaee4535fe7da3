"""Prompts → text conditions, one way for stages, training and sampling (§4).

CLIP's text encoder is causal and masks no padding: a padding token sees the prompt before it, so the states there
differ from prompt to prompt and nothing short of the encoder gives them back. ``padding`` says what becomes of it:

- ``"exact"``: it is attended to like words, as in the released models;
- ``"masked"``: nobody attends to it, so it need not be stored and a batch need be no longer than its longest prompt. A
  model must be sampled with what it was trained with.

Shapes: B prompts, L = ``tokenizer.model_max_length``, D text width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from mmface.config import TextPadding


class EncodedText(NamedTuple):
    """Prompts as the transformer takes them.

    Attributes:
        sequence: [B, L, D], the last-but-one layer without the final norm; zeros where ``mask`` is false.
        pooled: [B, D], ``pooler_output``.
        mask: [B, L] bool, true for a prompt's own tokens; ``None`` where all are attended to.
    """

    sequence: Tensor
    pooled: Tensor
    mask: Tensor | None


@torch.no_grad()
def encode_text(
    tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, prompts: list[str], padding: TextPadding = "exact"
) -> EncodedText:
    """Encodes prompts, padded or cut to the tokenizer's length."""
    tokens = tokenizer(
        prompts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    output = text_encoder(tokens.input_ids.to(text_encoder.device), output_hidden_states=True)
    sequence, pooled = output.hidden_states[-2], output.pooler_output
    if padding == "exact":
        return EncodedText(sequence, pooled, None)
    mask = tokens.attention_mask.to(sequence.device, torch.bool)
    return EncodedText(sequence * mask[..., None], pooled, mask)

"""Prompts → text conditions, one way for stages, training and sampling (§4).

CLIP's text encoder is causal and masks no padding: a padding token sees the prompt before it, so the states there
differ from prompt to prompt and nothing short of the encoder gives them back. ``padding`` says what stands there:

- ``"exact"``: the prompt's own states, as in the released models;
- ``"trimmed"``: from the first padding token on, the states of the empty prompt, which need not be stored with every
  caption. A model must be sampled with what it was trained with.

Shapes: B prompts, L = ``tokenizer.model_max_length``, D text width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from mmface.config import TextPadding


@torch.no_grad()
def encode_text(
    tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, prompts: list[str], padding: TextPadding = "exact"
) -> tuple[Tensor, Tensor]:
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
    sequence, pooled = output.hidden_states[-2], output.pooler_output
    if padding == "exact":
        return sequence, pooled
    # By itself: its states must not depend on the prompts beside it.
    empty, _ = encode_text(tokenizer, text_encoder, [""])
    said = tokens.attention_mask.to(sequence.device, torch.bool)
    return torch.where(said[..., None], sequence, empty), pooled

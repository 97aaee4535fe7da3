"""Encodes prompts for the transformer; used by stages, training and sampling alike (§4).

CLIP's text encoder is causal and does not mask padding: a padding token attends to the prompt before it, so its state
depends on the prompt and can only be recomputed by the encoder. ``padding`` says how padding tokens are used:

- ``"exact"``: the transformer attends to them like to words, as in the released models;
- ``"masked"``: the transformer ignores them, so they need not be stored, and a batch is only as long as its longest
  prompt.

A model must be sampled with the ``padding`` that it was trained with.

Shapes: B prompts, L = ``tokenizer.model_max_length``, D text width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from mmface.config import TextPadding


class EncodedText(NamedTuple):
    """Encoded prompts, as the transformer takes them.

    Attributes:
        sequence: [B, L, D], the last layer but one without the final norm; zeros where ``mask`` is false.
        pooled: [B, D], ``pooler_output``.
        mask: [B, L] bool, true for a prompt's own tokens; ``None`` if all tokens are attended to.
    """

    sequence: Tensor
    pooled: Tensor
    mask: Tensor | None


def misfit(tokenizer: CLIPTokenizer, config: Any) -> str | None:
    """Why a tokenizer does not match a text encoder with this ``CLIPTextConfig``; ``None`` if it may match.

    The encoder pools the state at the first ``eos_token_id`` or, if its config has the 2 of early checkpoints, at the
    highest token id (huggingface/transformers#24773). If the tokenizer ends prompts with another token, every prompt is
    pooled at the same position.
    """
    length, positions = tokenizer.model_max_length, config.max_position_embeddings
    if length > positions:
        return f"the tokenizer's model_max_length is {length:g}, the text encoder has {positions} positions"
    highest = max(tokenizer.get_vocab().values())
    if highest >= config.vocab_size:
        return f"the tokenizer has token ids up to {highest}, the text encoder a vocabulary of {config.vocab_size}"
    end = highest if config.eos_token_id == 2 else config.eos_token_id
    if tokenizer.eos_token_id != end:
        return f"the tokenizer ends prompts with token {tokenizer.eos_token_id}, the text encoder expects {end}"
    begin = config.bos_token_id
    if begin not in (None, 0, tokenizer.bos_token_id):  # 0 in early checkpoints
        return f"the tokenizer begins prompts with token {tokenizer.bos_token_id}, the text encoder expects {begin}"
    return None


@torch.no_grad()
def encode_text(
    tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, prompts: list[str], padding: TextPadding = "exact"
) -> EncodedText:
    """Encodes prompts, padded or truncated to the tokenizer's length."""
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

"""Prompts → text conditions, one way for stages, training and sampling (§4).

CLIP's text encoder is causal and masks no padding: a padding token sees the prompt before it, so the states there
differ from prompt to prompt and nothing short of the encoder gives them back. ``padding`` says what becomes of it:

- ``"exact"``: it is attended to like words, as in the released models;
- ``"masked"``: nobody attends to it, so it need not be stored and a batch need be no longer than its longest prompt. A
  model must be sampled with what it was trained with.

Shapes: B prompts, L = ``tokenizer.model_max_length``, D text width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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


def misfit(tokenizer: CLIPTokenizer, config: Any) -> str | None:
    """Why a tokenizer is not that of a text encoder with this ``CLIPTextConfig``; ``None`` if it may be.

    The encoder pools the state of the first ``eos_token_id``, or, where its config has the 2 of early checkpoints, of
    the highest token id (huggingface/transformers#24773): with another token there every prompt is pooled alike.
    """
    length, positions = tokenizer.model_max_length, config.max_position_embeddings
    if length > positions:
        return f"the tokenizer's model_max_length is {length:g}, the text encoder has {positions} positions"
    highest = max(tokenizer.get_vocab().values())
    if highest >= config.vocab_size:
        return f"the tokenizer has token ids up to {highest}, the text encoder a vocabulary of {config.vocab_size}"
    end = highest if config.eos_token_id == 2 else config.eos_token_id
    if tokenizer.eos_token_id != end:
        return f"the tokenizer ends prompts with token {tokenizer.eos_token_id}, the text encoder looks for {end}"
    begin = config.bos_token_id
    if begin not in (None, 0, tokenizer.bos_token_id):  # 0 in early checkpoints
        return f"the tokenizer begins prompts with token {tokenizer.bos_token_id}, the encoder with {begin}"
    return None


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

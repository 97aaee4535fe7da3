"""Encoding prompts for the transformer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmface.networks.text_encoder import encode_text
from tests import tiny


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    return tiny.tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_last_but_one_layer_without_norm(tokenizer) -> None:
    encoder = tiny.text_encoder()
    sequence, pooled, _ = encode_text(tokenizer, encoder, ["red hair", ""])
    assert sequence.shape == (2, tiny.TOKENS, tiny.TEXT_WIDTH)
    assert pooled.shape == (2, tiny.TEXT_WIDTH)

    seen: list[torch.Tensor] = []
    encoder.encoder.layers[-1].register_forward_pre_hook(lambda _, args, kwargs: seen.append(args[0]), with_kwargs=True)
    ids = tokenizer(["red hair", ""], padding="max_length", max_length=tiny.TOKENS, return_tensors="pt").input_ids
    with torch.no_grad():
        output = encoder(ids)
    torch.testing.assert_close(sequence, seen[0])
    ends = (ids == tokenizer.eos_token_id).int().argmax(1)
    torch.testing.assert_close(pooled, output.last_hidden_state[torch.arange(2), ends])


def test_masked_padding_is_zero_and_false_in_the_mask(tokenizer) -> None:
    encoder = tiny.text_encoder()
    prompts = ["red hair", "a hat", ""]
    exact, pooled, none = encode_text(tokenizer, encoder, prompts)
    masked, same, mask = encode_text(tokenizer, encoder, prompts, "masked")
    assert none is None
    assert torch.equal(pooled, same)
    for i, prompt in enumerate(prompts):
        said = len(tokenizer(prompt).input_ids)
        assert mask[i].tolist() == [place < said for place in range(tiny.TOKENS)]
        assert torch.equal(masked[i, :said], exact[i, :said])
        assert not masked[i, said:].any()


def test_long_prompts_are_truncated_and_do_not_affect_others_in_the_batch(tokenizer) -> None:
    encoder = tiny.text_encoder()
    long = "a face with red hair and green eyes"
    both, _, _ = encode_text(tokenizer, encoder, [long, "hat"])
    alone, _, _ = encode_text(tokenizer, encoder, ["hat"])
    assert both.shape[1] == tiny.TOKENS
    torch.testing.assert_close(both[1:], alone)


def test_a_reloaded_tokenizer_gives_the_same_ids(tmp_path: Path) -> None:
    made = tiny.tokenizer(tmp_path)
    assert made("ab").input_ids == [52, 0, 27, 53]

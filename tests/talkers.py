"""Tiny InternVL and Qwen3 models of the real classes: random, or trained for a second to give a few fixed answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SIDE = 28
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<IMG_CONTEXT>\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NAMED = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
TOWER = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}


def tokenizer(corpus: Sequence[str]) -> Qwen2Tokenizer:
    """A byte-level tokenizer, which can encode any text, with whole tokens for the words of ``corpus``."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(corpus, vocab_size=700, min_frequency=1, special_tokens=["<|endoftext|>", "<|im_end|>"])
    tree = json.loads(trained.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=tree["vocab"],
        merges=[tuple(merge) for merge in tree["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=NAMED,
        chat_template=CHAT,
    )


def internvl(folder: Path, answers: Mapping[str, str]) -> str:
    """An InternVL that gives each prompt its answer, independent of the image; random without answers."""
    torch.manual_seed(11)
    words = tokenizer([*answers, *answers.values()])
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size={"height": SIDE, "width": SIDE}),
        words,
        InternVLVideoProcessor(size={"height": SIDE, "width": SIDE}),
        image_seq_length=1,
        chat_template=CHAT,
    )
    config = InternVLConfig(
        vision_config={**TOWER, "image_size": [SIDE, SIDE], "patch_size": [14, 14]},
        text_config={"model_type": "qwen2", **_language(words)},
        image_token_id=words.context_image_token_id,
        image_seq_length=1,
    )
    model = InternVLForConditionalGeneration(config)
    picture = Image.new("RGB", (SIDE, SIDE), "gray")
    chats = [[{"role": "user", "content": _content(picture, prompt)}] for prompt in answers]
    _teach(model, words, [_inputs(processor, chat) for chat in chats], list(answers.values()))
    return _save(folder, model, words, processor)


def qwen3(folder: Path, answers: Mapping[str, str]) -> str:
    """A Qwen3 that gives each instruction its answer; random without answers."""
    torch.manual_seed(12)
    words = tokenizer([*answers, *answers.values()])
    model = Qwen3ForCausalLM(Qwen3Config(**_language(words), head_dim=32))
    chats = [[{"role": "user", "content": instruction}] for instruction in answers]
    _teach(model, words, [_inputs(words, chat) for chat in chats], list(answers.values()))
    return _save(folder, model, words)


def _language(words: Qwen2Tokenizer) -> dict[str, Any]:
    tokens = {"vocab_size": len(words), "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    return {**TOWER, **tokens, "bos_token_id": None, "num_key_value_heads": 2}


def _content(picture: Image.Image, prompt: str) -> list[dict[str, Any]]:
    return [{"type": "image", "image": picture}, {"type": "text", "text": prompt}]


def _inputs(templated: Any, chat: list[dict[str, Any]]) -> Any:
    return templated.apply_chat_template(
        [chat], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


def _teach(model: Any, words: Qwen2Tokenizer, asked: Sequence[Any], answers: Sequence[str]) -> None:
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(200):
        losses = []
        for inputs, answer in zip(asked, answers, strict=True):
            said = words(answer + words.eos_token, return_tensors="pt").input_ids
            ids = torch.cat([inputs["input_ids"], said], 1)
            labels = torch.cat([torch.full_like(inputs["input_ids"], -100), said], 1)
            # A new random image each time, so that the answer does not depend on it.
            pictures = {"pixel_values": torch.randn_like(inputs["pixel_values"])} if "pixel_values" in inputs else {}
            losses.append(model(input_ids=ids, labels=labels, **pictures).loss)
        if not losses or max(losses).item() < 0.01:
            return
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()


def _save(folder: Path, model: Any, *parts: Any) -> str:
    model.generation_config.eos_token_id = model.config.get_text_config().eos_token_id
    for part in (model, *parts):
        part.save_pretrained(folder)
    return str(folder)

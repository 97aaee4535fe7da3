"""Train the zoo CLIP: portraits and their captions, one contrastive batch after another."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from mmface.zoo.drawn import HELD_OUT_SEED, TRAIN_SEED, Drawn, drawn

TOKENS, PIXELS, WIDTH = 40, 64, 128
_BOS, _EOS = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(captions: list[str], vocabulary: int = 1200) -> CLIPTokenizer:
    """A CLIP tokenizer whose merges are learned from ``captions``; any text tokenizes, down to single bytes."""
    letters = _byte_letters()
    base = {token: i for i, token in enumerate([*letters, *(f"{one}</w>" for one in letters), _BOS, _EOS])}
    untrained: Any = CLIPTokenizer(vocab=base, merges=[])
    trained = untrained.train_new_from_iterator(captions, vocabulary, show_progress=False)
    merges = [tuple(pair) for pair in json.loads(trained.backend_tokenizer.to_str())["model"]["merges"]]
    tokens = [*letters, *(f"{one}</w>" for one in letters)]
    tokens += [token for token in dict.fromkeys(a + b for a, b in merges) if token not in set(tokens)]
    vocab = {token: i for i, token in enumerate([*tokens, _BOS, _EOS])}
    build: Any = CLIPTokenizer
    tokenizer: CLIPTokenizer = build(vocab=vocab, merges=merges, model_max_length=TOKENS)
    return tokenizer


def _byte_letters() -> list[str]:
    """The 256 printable letters that byte-level BPE writes for bytes."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def build_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    """A CLIP of 1.6 M parameters; the picture is seen as 4 by 4 patches."""
    tower = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 4, "projection_dim": WIDTH}
    text = tower | {"num_hidden_layers": 3, "vocab_size": len(tokenizer), "max_position_embeddings": TOKENS}
    text |= {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    vision = tower | {"num_hidden_layers": 4, "image_size": PIXELS, "patch_size": 16}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))


def image_processor() -> CLIPImageProcessor:
    """Resizes and crops to 64 px, normalises to -1..1."""
    square = {"height": PIXELS, "width": PIXELS}
    half = [0.5, 0.5, 0.5]
    return CLIPImageProcessor(size={"shortest_edge": PIXELS}, crop_size=square, image_mean=half, image_std=half)


def _tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    # Padding is attended to, as the pipeline does (mmface.text).
    ids: Tensor = tokenizer(
        texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
    ).input_ids
    return ids


def _resize(pixels: Tensor, side: int) -> Tensor:
    return F.interpolate(pixels, size=(side, side), mode="bicubic", antialias=True)


def _augment(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Blur, noise and small shifts; no colour changes, the captions name colours."""
    side = int(rng.choice([32, 48, 64, 96, 128]))
    out = _resize(_resize(pixels, side), PIXELS)
    dx, dy = (int(v) for v in rng.integers(-4, 5, 2))
    out = F.pad(out, (4, 4, 4, 4), mode="replicate")[:, :, 4 + dy : 4 + dy + PIXELS, 4 + dx : 4 + dx + PIXELS]
    return (out * rng.uniform(0.9, 1.1) + 0.02 * torch.randn_like(out)).clamp(0, 1) * 2 - 1


def _batches(data: Drawn, rng: np.random.Generator, batch: int) -> Iterator[tuple[Tensor, list[str]]]:
    while True:
        at = rng.choice(len(data.images), batch, replace=False)
        texts = [data.captions[i][int(rng.integers(10))] for i in at]
        # Half sentences keep single words meaningful.
        for k in np.flatnonzero(rng.random(batch) < 0.15):
            parts = texts[k].rstrip(".").replace(";", ",").split(",")
            texts[k] = (
                parts[0].strip() if len(parts) == 1 else ", ".join(p.strip() for p in parts[: 1 + len(parts) // 2])
            )
        yield _augment(data.pixels(at), rng), texts


def train(out: Path, *, minutes: float = 10, portraits: int = 3000, seed: int = 0, batch: int = 64) -> None:
    """Train for ``minutes`` on one thread's worth of batches and save model, tokenizer and processor in ``out``."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    data = drawn(portraits, TRAIN_SEED)
    tokenizer = build_tokenizer([text for one in data.captions for text in one])
    model = build_model(tokenizer).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, betas=(0.9, 0.98))
    start = time.process_time()
    for step, (pixels, texts) in enumerate(_batches(data, rng, batch)):
        done = (time.process_time() - start) / (60 * minutes)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * done))
        ids = _tokens(tokenizer, texts)
        # Attention is causal, so what follows the end token cannot reach it: leave out columns of padding only.
        used = int((ids != tokenizer.pad_token_id).sum(1).max()) + 1
        result = model(input_ids=ids[:, :used], pixel_values=pixels, return_loss=True)
        optimizer.zero_grad()
        result.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.logit_scale.data.clamp_(max=math.log(100))
        if step % 50 == 0:
            print(f"clip step {step} loss {result.loss.item():.3f}", flush=True)
    save(out, model, tokenizer)
    print(f"clip retrieval among 32: {retrieval(model.eval(), tokenizer, drawn(256, HELD_OUT_SEED)):.3f}")


def save(out: Path, model: CLIPModel, tokenizer: CLIPTokenizer) -> None:
    """fp16 safetensors, tokenizer and processor in one folder."""
    half: Any = copy.deepcopy(model)
    half.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    image_processor().save_pretrained(out)


@torch.inference_mode()
def image_features(model: CLIPModel, images: NDArray[np.uint8]) -> Tensor:
    """Unit vectors [N, D] of pictures uint8 [N, S, S, 3]."""
    pixels = _resize(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, PIXELS).clamp(0, 1) * 2 - 1
    return F.normalize(model.visual_projection(model.vision_model(pixels).pooler_output), dim=-1)


@torch.inference_mode()
def text_features(model: CLIPModel, tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Unit vectors [N, D] of texts."""
    pooled = model.text_model(_tokens(tokenizer, texts)).pooler_output
    return F.normalize(model.text_projection(pooled), dim=-1)


def retrieval(model: CLIPModel, tokenizer: CLIPTokenizer, data: Drawn, among: int = 32, seed: int = 0) -> float:
    """Share of images whose own caption (one of ten, drawn) is the most similar of ``among``."""
    rng = np.random.default_rng(seed)
    hits = []
    for first in range(0, len(data.images) - among + 1, among):
        at = np.arange(first, first + among)
        texts = [data.captions[i][int(rng.integers(10))] for i in at]
        scores = image_features(model, data.images[at]) @ text_features(model, tokenizer, texts).T
        hits.append((scores.argmax(1) == torch.arange(among)).float().mean().item())
    return float(np.mean(hits))

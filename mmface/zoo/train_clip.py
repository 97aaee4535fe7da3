"""Trains the zoo CLIP on portraits and their captions, with a contrastive loss and an attribute loss."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from mmface.zoo.drawn import HELD_OUT_SEED, TRAIN_SEED, Drawn, drawn
from mmface.zoo.fit import Plan, fit

# The longest caption of a portrait has 27 tokens; each additional token would cost as much time per step as a patch.
TOKENS, PIXELS, WIDTH = 28, 64, 128
_SIDES = re.compile(r"\b(left|right)\b")
# Patterns that show that a caption mentions an attribute.
_MENTIONED = {
    name: re.compile(pattern, re.IGNORECASE)
    for name, pattern in {
        "person": r"\b(woman|man|lady|gentleman|he|she)\b",
        "age": r"\b(young|middle-aged|old)\b",
        "skin": r"\bskin\b",
        "hair_colour": r".",
        "hair_length": r".",
        "hair_texture": r"\b(straight|wavy|curly|bald)\b",
        "hair_do": r"\b(bangs|ponytail|bun)\b",
        "eyes": r"\beyes\b",
        "expression": r"\b(smiling|neutral|open)\b",
        "beard": r"\b(beard|stubble|goatee|moustache)\b",
        "lipstick": r"\blipstick\b",
        "hat": r"\b(beanie|cap|hat)\b",
        "hat_colour": r"\b(beanie|cap|hat)\b",
        "glasses": r"glasses\b",
        "earrings": r"\bearrings\b",
        "necklace": r"\b(chain|necklace|pendant)\b",
        "cloth_colour": r"\b(shirt|v-neck|turtleneck|top)\b",
        "background": r"\bbackground\b",
        "light": r"\blight\b",
        "pose": r"\b(turned|facing)\b",
    }.items()
}
_BOS, _EOS = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(captions: list[str], vocabulary: int = 1200) -> CLIPTokenizer:
    """A byte-level CLIP tokenizer with merges learned from ``captions``; it can encode any text."""
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
    """The 256 printable characters that stand for bytes in byte-level BPE."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def build_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    """An untrained CLIP with 1.6 M parameters that sees an image as 4 by 4 patches."""
    tower = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 4, "projection_dim": WIDTH}
    text = tower | {"num_hidden_layers": 3, "vocab_size": len(tokenizer), "max_position_embeddings": TOKENS}
    text |= {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    vision = tower | {"num_hidden_layers": 4, "image_size": PIXELS, "patch_size": 16}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))


def image_processor() -> CLIPImageProcessor:
    """A processor that resizes and crops to 64 px and normalises to -1..1."""
    square = {"height": PIXELS, "width": PIXELS}
    half = [0.5, 0.5, 0.5]
    return CLIPImageProcessor(size={"shortest_edge": PIXELS}, crop_size=square, image_mean=half, image_std=half)


def _tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    # No attention mask: padding tokens take part, as in the pipeline (mmface.networks.text_encoder).
    ids: Tensor = tokenizer(
        texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
    ).input_ids
    return ids


def _resize(pixels: Tensor, side: int) -> Tensor:
    return F.interpolate(pixels, size=(side, side), mode="bicubic", antialias=True)


def _augment(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Blurs, shifts and adds noise to [B, 3, 64, 64]; colours stay, because captions name them."""
    side = int(rng.choice([32, 48, PIXELS, PIXELS]))
    out = pixels if side == PIXELS else _resize(_resize(pixels, side), PIXELS)
    dx, dy = (int(v) for v in rng.integers(-4, 5, 2))
    out = F.pad(out, (4, 4, 4, 4), mode="replicate")[:, :, 4 + dy : 4 + dy + PIXELS, 4 + dx : 4 + dx + PIXELS]
    return (out * rng.uniform(0.93, 1.07) + 0.015 * torch.randn_like(out)).clamp(0, 1) * 2 - 1


def _mirrored_words(text: str) -> str:
    """Exchanges the words left and right."""
    return _SIDES.sub(lambda found: "right" if found.group() == "left" else "left", text)


def _part_of(text: str) -> str:
    """The first half of the phrases, so that the model also learns short texts."""
    phrases = [phrase.strip() for phrase in text.rstrip(".").replace(";", ",").split(",")]
    return ", ".join(phrases[: (len(phrases) + 1) // 2])


@dataclass(frozen=True)
class _Batch:
    pixels: Tensor  # [B, 3, 64, 64] in -1..1
    texts: list[str]
    words: Tensor  # [B, attributes], index of each attribute's word


class _AttributeClassifier(nn.Module):
    """A classifier of the attributes, shared by image vectors and text vectors.

    A contrastive loss alone would need far more images to learn which features matter. The shared classifier also
    brings the vectors of both towers closer. Texts are trained only on the attributes that they mention.
    """

    def __init__(self, table: list[dict[str, str]]) -> None:
        super().__init__()
        self.words = {name: sorted({row[name] for row in table}) for name in _MENTIONED}
        self.sizes = [len(words) for words in self.words.values()]
        self.head = nn.Linear(WIDTH, sum(self.sizes))

    def index(self, rows: list[dict[str, str]], mirrored: bool) -> Tensor:
        """The index of each attribute's word, [B, attributes]."""
        swap = _mirrored_words if mirrored else str
        return torch.tensor([[words.index(swap(row[name])) for name, words in self.words.items()] for row in rows])

    @staticmethod
    def mentioned(texts: list[str]) -> Tensor:
        """[B, attributes], True where a text mentions the attribute."""
        return torch.tensor([[bool(pattern.search(text)) for pattern in _MENTIONED.values()] for text in texts])

    def forward(self, embedded: Tensor, words: Tensor) -> Tensor:
        """Mean cross-entropy of unit vectors [B, D] over the attributes; index -100 is ignored."""
        parts = self.head(embedded * math.sqrt(WIDTH)).split(self.sizes, dim=1)
        losses = [F.cross_entropy(part, words[:, i], reduction="sum") for i, part in enumerate(parts)]
        return torch.stack(losses).sum() / (words >= 0).sum()


def _batches(data: Drawn, classifier: _AttributeClassifier, rng: np.random.Generator, batch: int) -> Iterator[_Batch]:
    small = torch.cat([_resize(data.pixels(at), PIXELS) for at in np.array_split(np.arange(len(data.images)), 40)])
    while True:
        at = rng.choice(len(small), batch, replace=False)
        pixels, texts = small[torch.from_numpy(at)], [data.captions[i][int(rng.integers(10))] for i in at]
        if mirrored := rng.random() < 0.5:
            pixels, texts = pixels.flip(-1), [_mirrored_words(text) for text in texts]
        texts = [_part_of(text) if rng.random() < 0.1 else text for text in texts]
        yield _Batch(_augment(pixels, rng), texts, classifier.index([data.attributes[i] for i in at], mirrored))


def train(out: Path, *, steps: int = 2000, portraits: int = 3000, seed: int = 0, batch: int = 48) -> None:
    """Trains and saves model, tokenizer and processor in ``out``."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    data = drawn(portraits, TRAIN_SEED)
    tokenizer = build_tokenizer([text for one in data.captions for text in one])
    model, classifier = build_model(tokenizer).train(), _AttributeClassifier(data.attributes)
    batches = _batches(data, classifier, rng, batch)

    def loss(_: int) -> Tensor:
        model.logit_scale.data.clamp_(max=math.log(100))
        one = next(batches)
        ids = _tokens(tokenizer, one.texts)
        # Attention is causal: tokens after the end token do not affect it, so columns with only padding are dropped.
        used = int((ids != tokenizer.pad_token_id).sum(1).max()) + 1
        result = model(input_ids=ids[:, :used], pixel_values=one.pixels, return_loss=True)
        asked = one.words.masked_fill(~classifier.mentioned(one.texts), -100)
        total: Tensor = result.loss + classifier(result.image_embeds, one.words) + classifier(result.text_embeds, asked)
        return total

    plan = Plan(steps, rate=1.2e-3, warm=50, weight_decay=0.05, beta2=0.98)
    fit("clip", nn.ModuleList([model, classifier]), loss, plan)
    save(out, model, tokenizer)
    print(f"clip retrieval among 32: {retrieval(model.eval(), tokenizer, drawn(256, HELD_OUT_SEED)):.3f}")


def save(out: Path, model: CLIPModel, tokenizer: CLIPTokenizer) -> None:
    """Saves fp16 safetensors, tokenizer and processor in one folder."""
    half: Any = copy.deepcopy(model)
    half.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    image_processor().save_pretrained(out)


@torch.inference_mode()
def image_features(model: CLIPModel, images: NDArray[np.uint8]) -> Tensor:
    """Unit vectors [N, D] of images uint8 [N, S, S, 3]."""
    pixels = _resize(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, PIXELS).clamp(0, 1) * 2 - 1
    return F.normalize(model.visual_projection(model.vision_model(pixels).pooler_output), dim=-1)


@torch.inference_mode()
def text_features(model: CLIPModel, tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Unit vectors [N, D] of texts."""
    pooled = model.text_model(_tokens(tokenizer, texts)).pooler_output
    return F.normalize(model.text_projection(pooled), dim=-1)


def retrieval(model: CLIPModel, tokenizer: CLIPTokenizer, data: Drawn, among: int = 32, seed: int = 0) -> float:
    """The share of images whose own caption, a random one of ten, is the most similar of ``among`` captions."""
    rng = np.random.default_rng(seed)
    hits = []
    for first in range(0, len(data.images) - among + 1, among):
        at = np.arange(first, first + among)
        texts = [data.captions[i][int(rng.integers(10))] for i in at]
        scores = image_features(model, data.images[at]) @ text_features(model, tokenizer, texts).T
        hits.append((scores.argmax(1) == torch.arange(among)).float().mean().item())
    return float(np.mean(hits))

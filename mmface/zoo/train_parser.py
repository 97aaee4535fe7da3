"""Trains the zoo face parser: a small SegFormer, on portraits augmented so that it also works on photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

from mmface.imaging.labels import LABELS, MIRRORED
from mmface.zoo.drawn import HELD_OUT_SEED, TRAIN_SEED, Drawn, drawn, photographs
from mmface.zoo.fit import Plan, fit

PIXELS = 128
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build_model() -> SegformerForSemanticSegmentation:
    """An untrained SegFormer with 1.2 M parameters and logits for cells of 2x2 pixels.

    SegFormer's usual cells of 4x4 pixels are wider than the brows and lips of a 128 px portrait.
    """
    config = SegformerConfig(
        depths=[1, 1, 2, 2],
        hidden_sizes=[16, 48, 96, 160],
        mlp_ratios=[1, 2, 4, 4],
        num_attention_heads=[1, 2, 4, 8],
        strides=[2, 2, 2, 2],
        decoder_hidden_size=48,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        classifier_dropout_prob=0.0,
        drop_path_rate=0.0,
        id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
    )
    return SegformerForSemanticSegmentation(config)


def image_processor() -> SegformerImageProcessor:
    """A processor that resizes images of any size to 128 px, the scale of training."""
    side = {"height": PIXELS, "width": PIXELS}
    return SegformerImageProcessor(size=side, image_mean=list(_MEAN), image_std=list(_STD), do_reduce_labels=False)


def normalise(pixels: Tensor) -> Tensor:
    """Pixels [B, 3, H, W] in 0..1 → the network's input [B, 3, 128, 128]; the same as the processor's output."""
    pixels = F.interpolate(pixels, size=(PIXELS, PIXELS), mode="bilinear", antialias=True)
    return (pixels - pixels.new_tensor(_MEAN).view(3, 1, 1)) / pixels.new_tensor(_STD).view(3, 1, 1)


def disturb(pixels: Tensor, labels: Tensor, backdrops: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Augments pixels [B, 3, S, S] in 0..1 and labels [B, S, S]: background, position, colour, blur, noise."""
    n = len(pixels)
    swap = torch.from_numpy(rng.random(n) < 0.4).view(n, 1, 1, 1) & (labels[:, None] == 0)
    pixels = torch.where(swap, backdrops, pixels)
    if rng.random() < 0.5:
        pixels, labels = pixels.flip(-1), torch.from_numpy(MIRRORED)[labels.flip(-1)]
    angle, scale = rng.normal(0, 0.14, n), np.exp(rng.uniform(-0.3, 0.25, n))
    shift = rng.uniform(-0.15, 0.15, (n, 2))
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    theta = np.stack([np.stack([cos, -sin, shift[:, 0]], 1), np.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = F.affine_grid(torch.from_numpy(theta).float(), [n, 3, *pixels.shape[2:]], align_corners=False)
    pixels = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    near = F.grid_sample(labels[:, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False)
    return _recolour(pixels, rng), near[:, 0].long()


def _recolour(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    n, side = len(pixels), pixels.shape[-1]
    blurred = int(rng.choice([48, 64, 96, side, side, side, side, side]))
    if blurred < side:
        small = F.interpolate(pixels, size=(blurred, blurred), mode="bilinear", antialias=True)
        pixels = F.interpolate(small, size=(side, side), mode="bilinear")

    def each(low: float, high: float, channels: int = 1) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (n, channels, 1, 1))).float()

    grey = pixels.mean(1, keepdim=True)
    pixels = grey + (pixels - grey) * each(0.4, 1.3)
    pixels = (pixels - 0.5) * each(0.7, 1.3) + 0.5 + each(-0.15, 0.15)
    pixels = pixels * each(0.85, 1.15, 3)
    across = torch.linspace(-1, 1, side).view(1, 1, 1, side)
    pixels = pixels * (1 + each(-0.3, 0.3) * across)
    return (pixels + each(0, 0.05) * torch.randn_like(pixels)).clamp(0, 1)


def _weights(masks: NDArray[np.uint8]) -> Tensor:
    """Loss weights of the labels: rare ones weigh more, by their share to the power -0.3."""
    share = np.bincount(masks.reshape(-1), minlength=len(LABELS)) / masks.size
    weights = np.clip(share, 1e-5, None) ** -0.3
    return torch.from_numpy(weights / (weights * share).sum()).float()


def overlap_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - soft Dice of logits [B, C, S, S] and labels [B, S, S], averaged over the labels in the batch.

    With cross-entropy alone, the network misses labels of a few pixels: earrings, necklaces, brows.
    """
    found = logits.softmax(1)
    truth = torch.zeros_like(found).scatter_(1, labels[:, None], 1)
    both, either = (found * truth).sum((0, 2, 3)), (found + truth).sum((0, 2, 3))
    there = truth.sum((0, 2, 3)) > 0
    return 1 - (2 * both[there] / either[there]).mean()


def train(
    out: Path,
    *,
    steps: int = 5000,
    portraits: int = 4000,
    seed: int = 0,
    batch: int = 8,
    cache: Path | None = None,
    data: Drawn | None = None,
    held_out: Drawn | None = None,
) -> None:
    """Trains and saves weights and processor in ``out``; photographs (:mod:`mmface.zoo.photos`) are the backgrounds.

    Args:
        data, held_out: photographs to train and to measure on, instead of drawn portraits; then ``data`` also provides
            the backgrounds.

    Raises:
        ServiceError: a package of photographs could not be downloaded into ``cache``.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    behind = data.images if data else photographs(cache, seed)
    data, held_out = data or drawn(portraits, TRAIN_SEED), held_out or drawn(256, HELD_OUT_SEED)
    model, weights = build_model().train(), _weights(data.masks)

    def loss(_: int) -> Tensor:
        at = rng.integers(0, len(data.images), batch)
        back = torch.from_numpy(behind[rng.integers(0, len(behind), batch)]).permute(0, 3, 1, 2).float() / 255
        pixels, labels = disturb(data.pixels(at), data.labels(at), back, rng)
        logits = F.interpolate(model(normalise(pixels)).logits, size=labels.shape[1:], mode="bilinear")
        return F.cross_entropy(logits, labels, weight=weights) + overlap_loss(logits, labels)

    fit("parser", model, loss, Plan(steps, rate=1.5e-3))
    model.half().save_pretrained(out)
    model.float()
    image_processor().save_pretrained(out)
    ious = per_label_iou(predict(model.eval(), held_out.images), held_out.masks)
    print(f"parser mIoU: {np.nanmean(ious):.3f}")


@torch.inference_mode()
def predict(model: Any, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Labels [N, S, S] of images uint8 [N, S, S, 3]."""
    found = []
    for part in np.array_split(images, max(1, len(images) // 16)):
        pixels = torch.from_numpy(part).permute(0, 3, 1, 2).float() / 255
        logits = F.interpolate(model(normalise(pixels)).logits, size=part.shape[1:3], mode="bilinear")
        found.append(logits.argmax(1).numpy().astype(np.uint8))
    return np.concatenate(found)


def per_label_iou(found: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Intersection over union of each label over all pixels of all images; NaN for labels not in the truth."""
    n = len(LABELS)
    table = np.bincount(truth.reshape(-1).astype(np.int64) * n + found.reshape(-1), minlength=n * n).reshape(n, n)
    inside = np.diag(table).astype(np.float64)
    union = table.sum(0) + table.sum(1) - inside
    return np.where(table.sum(1) > 0, inside / np.maximum(union, 1), np.nan)

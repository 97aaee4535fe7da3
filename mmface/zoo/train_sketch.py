"""Trains the zoo sketcher: a U²-Net-lite that draws pencil sketches, dark lines on white.

The target of a portrait combines the borders between its labels (outline, hairline, eyes, lips) and the fine lines that
an extended difference of Gaussians finds in the image (XDoG, Winnemoeller 2012). Photographs have no labels: their
target has only the fine lines.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmface.networks.u2net import LITE, U2Net
from mmface.zoo.drawn import TRAIN_SEED, drawn, photographs
from mmface.zoo.fit import Plan, fit

_CROP = 80


def _blur(grey: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of [B, 1, H, W]."""
    reach = math.ceil(3 * sigma)
    at = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(grey, (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))


def xdog(pixels: Tensor, sigma: float = 0.8, sharpness: float = 14.0, threshold: float = 0.012) -> Tensor:
    """Dark lines of images [B, 3, H, W] in 0..1 as ink [B, 1, H, W], 1 = black line."""
    grey = (pixels * pixels.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    fine, coarse = _blur(grey, sigma), _blur(grey, 2.2 * sigma)
    # Relative to the surroundings: lines on dark skin count as much as lines on fair skin.
    difference = (coarse - fine) / (0.15 + coarse)
    return torch.tanh(sharpness * (difference - threshold).clamp(min=0))


def borders(labels: Tensor) -> Tensor:
    """Ink [B, 1, H, W] along the borders between labels [B, H, W]."""
    # Nose and skin have no visible border.
    value = labels.clone()
    value[labels == 2] = 1
    right = (value[:, :, 1:] != value[:, :, :-1]).float()
    down = (value[:, 1:, :] != value[:, :-1, :]).float()
    ink = F.pad(right, (0, 1)) + F.pad(down, (0, 0, 0, 1))
    return _blur(ink.clamp(max=1)[:, None], 0.7).mul(1.25).clamp(max=1)


def target(pixels: Tensor, labels: Tensor | None) -> Tensor:
    """The sketch to learn, as ink [B, 1, H, W]."""
    lines = xdog(pixels)
    if labels is None:
        return lines
    hair, behind = (labels == 13)[:, None], (labels == 0)[:, None]
    lines = lines * torch.where(hair, 0.45, torch.where(behind, 0.15, 1.0))
    return torch.maximum(lines, 0.6 * borders(labels))


def _disturb(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Changes exposure and colour and adds noise; the target stays the same."""
    n = len(pixels)

    def each(low: float, high: float, channels: int = 1) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (n, channels, 1, 1))).float()

    grey = pixels.mean(1, keepdim=True)
    pixels = grey + (pixels - grey) * each(0.0, 1.3)
    pixels = (pixels - 0.5) * each(0.6, 1.3) + 0.5 + each(-0.12, 0.12)
    return (pixels * each(0.9, 1.1, 3) + each(0, 0.03) * torch.randn_like(pixels)).clamp(0, 1)


def _crops(pixels: Tensor, labels: Tensor | None, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Images and their targets, randomly scaled and cropped to the training size."""
    side = int(rng.integers(_CROP, 161))
    pixels = F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)
    if labels is not None:
        labels = F.interpolate(labels[:, None].float(), size=(side, side), mode="nearest")[:, 0].long()
    ink = target(pixels, labels)
    x, y = (int(v) for v in rng.integers(0, side - _CROP + 1, 2))
    window = np.s_[:, :, y : y + _CROP, x : x + _CROP]
    return pixels[window], ink[window]


def train(
    out: Path,
    *,
    steps: int = 300,
    portraits: int = 3000,
    seed: int = 0,
    batch: int = 8,
    cache: Path | None = None,
) -> None:
    """Trains and saves the weights in ``out``; every third batch has crops of photographs (:mod:`mmface.zoo.photos`).

    Raises:
        ServiceError: a package of photographs could not be downloaded into ``cache``.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    data = drawn(portraits, TRAIN_SEED)
    model = U2Net(plan=LITE).train()
    photos = photographs(cache, seed)

    def loss(step: int) -> Tensor:
        if step % 3 == 2:
            chosen = torch.from_numpy(photos[rng.integers(0, len(photos), batch)])
            pixels, ink = _crops(chosen.permute(0, 3, 1, 2).float() / 255, None, rng)
        else:
            at = rng.integers(0, len(data.images), batch)
            pixels, ink = _crops(data.pixels(at), data.labels(at), rng)
        maps = model.logits(_disturb(pixels, rng))
        # Deep supervision as in the paper: every side map is trained on the target, too.
        every = torch.stack([F.binary_cross_entropy_with_logits(one, ink) for one in maps]).sum()
        return every + 2 * F.l1_loss(torch.sigmoid(maps[0]), ink)

    fit("sketch", model, loss, Plan(steps, rate=2e-3, warm=20, weight_decay=1e-4))
    model.half().save_pretrained(out)

"""Metrics of generated images: pure functions on tensors, with one value per image unless stated otherwise.

Shapes: B images, H x W pixels, D features, n samples. Images are float in [-1, 1]. Networks live in ``judges.py``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from mmface.data.captions import SEEN
from mmface.data.colour import nearest_word
from mmface.data.portraits.palette import HAIR_COLOURS
from mmface.errors import InputError
from mmface.imaging.labels import LABELS

MS_SSIM_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, finest first
WINDOW = 11  # pixels of the Gaussian window, sigma 1.5
MS_SSIM_SIDE = 2 * WINDOW  # fewest pixels for two scales


class LabelCounts(NamedTuple):
    """Pixels of each of the 19 labels in B images, int64 [B, 19] each.

    Attributes:
        hit: with the label in the given mask and in the predicted one.
        given: with the label in the given mask.
        found: with the label in the predicted mask.
    """

    hit: Tensor
    given: Tensor
    found: Tensor


def slug(component: str) -> str:
    """A component id as part of a metric's name: ``zoo:clip`` -> ``zoo-clip``, ``owner/model`` -> ``model``."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", component.rstrip("/").rsplit("/", 1)[-1])


def short_hash(*texts: str) -> str:
    """The first 8 hex digits of the SHA-256 of ``texts``."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]


def label_counts(predicted: Tensor, given: Tensor) -> LabelCounts:
    """Counts the pixels of each label. Integer labels [B, H, W] twice.

    Raises:
        InputError: the shapes differ, or a label is not one of the 19.
    """
    if predicted.shape != given.shape:
        raise InputError(f"masks of {list(predicted.shape)} and {list(given.shape)} pixels differ", field="mask")
    low, high = (getattr(torch.stack([predicted.long(), given.long()]), name)() for name in ("min", "max"))
    if low < 0 or high >= len(LABELS):
        raise InputError(f"labels are 0 to {len(LABELS) - 1}, not {int(low)} to {int(high)}", field="mask")
    # The label of a pixel outside the counted set is one past the last.
    hits = torch.where(predicted == given, given.long(), len(LABELS))
    return LabelCounts(*(_per_label(one) for one in (hits, given.long(), predicted.long())))


def mask_accuracy(counts: LabelCounts) -> Tensor:
    """Fraction of pixels with the given label -> [B]."""
    return counts.hit.sum(1).double() / counts.given.sum(1)


def mask_iou(counts: LabelCounts) -> Tensor:
    """Mean intersection over union of each image, over the labels **present in its given mask** -> [B].

    A label that occurs only in the prediction is not a class; its pixels lower the IoU of the labels they cover.
    """
    present = counts.given > 0
    union = counts.given + counts.found - counts.hit
    iou = torch.where(present, counts.hit.double() / union.clamp_min(1), 0.0)
    return iou.sum(1) / present.sum(1)


def _per_label(labels: Tensor) -> Tensor:
    """[B, H, W] with labels 0 … 19 -> [B, 19]: the number of pixels of each label but the last."""
    image = torch.arange(len(labels), device=labels.device)[:, None, None] * (len(LABELS) + 1)
    counted = torch.bincount((labels + image).flatten(), minlength=len(labels) * (len(LABELS) + 1))
    return counted.view(len(labels), -1)[:, : len(LABELS)]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of paired embeddings: [B, D] twice -> [B]."""
    return F.cosine_similarity(a.float(), b.float(), dim=-1)


def clip_score(images: Tensor, texts: Tensor) -> Tensor:
    """100 x cosine of CLIP image and text embeddings [B, D] -> [B]; not clipped at 0."""
    return 100 * cosine(images, texts)


def feature_distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Perceptual distance like LPIPS (arXiv 1801.03924, eq. 1), but with unit weights -> [B].

    Normalises features to unit length over channels, then averages their squared difference over positions and stages.

    Args:
        a, b: feature maps of the stages of one network, [B, C_i, H_i, W_i] each.
    """
    stages = [
        (F.normalize(x.float(), dim=1) - F.normalize(y.float(), dim=1)).square().sum(1).mean(dim=(1, 2))
        for x, y in zip(a, b, strict=True)
    ]
    return torch.stack(stages).mean(0)


def ssim(images: Tensor, sources: Tensor) -> Tensor:
    """Structural similarity to the source, [B, 3, H, W] twice -> [B]."""
    value = structural_similarity_index_measure(images, sources, data_range=2.0, reduction="none")
    assert isinstance(value, Tensor)
    return value.reshape(len(images))


def ms_ssim_exponents(side: int) -> tuple[float, ...]:
    """The exponents of the scales of multi-scale SSIM for images of ``side`` pixels, with a Gaussian window of 11.

    All five of Wang et al. 2003 from 176 pixels, the first four from 99, three from 44, two from 22, always scaled to a
    sum of 1. The limits are those of torchmetrics; a smaller image has no pixel left at the coarsest scale.

    Raises:
        InputError: fewer than 22 pixels.
    """
    fitting = [scales for scales in (2, 3, 4, 5) if min(side // (scales - 1) ** 2, side >> (scales - 1)) >= WINDOW]
    if not fitting:
        raise InputError(f"multi-scale SSIM needs at least {MS_SSIM_SIDE} pixels, not {side}", field="resolution")
    chosen = MS_SSIM_EXPONENTS[: fitting[-1]]
    return tuple(one / sum(chosen) for one in chosen)


def ms_ssim(images: Tensor, sources: Tensor) -> Tensor:
    """Multi-scale structural similarity to the source, [B, 3, H, W] twice -> [B]; see :func:`ms_ssim_exponents`."""
    value = multiscale_structural_similarity_index_measure(
        images, sources, data_range=2.0, betas=ms_ssim_exponents(min(images.shape[-2:])), reduction="none"
    )
    return value.reshape(len(images))


def edge_agreement(drawn: Tensor, given: Tensor, *, tolerance: int = 2, threshold: float = 0.5) -> Tensor:
    """F1 of the lines of two sketches, grey [B, H, W] in 0..1 (dark lines on white) -> [B].

    A line pixel (darker than ``threshold``) matches if the other sketch has a line pixel within ``tolerance`` pixels
    (in a square neighbourhood). Two empty sketches give 1; an empty sketch and one with lines give 0.
    """
    drawn_lines, given_lines = ((x < threshold).float()[:, None] for x in (drawn, given))

    def found(lines: Tensor, among: Tensor) -> Tensor:
        near = F.max_pool2d(among, 2 * tolerance + 1, stride=1, padding=tolerance)
        return (lines * near).sum(dim=(1, 2, 3)) / lines.sum(dim=(1, 2, 3)).clamp_min(1)

    precision, recall = found(drawn_lines, given_lines), found(given_lines, drawn_lines)
    f1 = 2 * precision * recall / (precision + recall).clamp_min(1e-12)
    both_empty = drawn_lines.sum(dim=(1, 2, 3)) + given_lines.sum(dim=(1, 2, 3)) == 0
    return torch.where(both_empty, 1.0, f1)


def hair_word(image: Tensor, mask: Tensor) -> str | None:
    """The word of ``HAIR_COLOURS`` nearest (CIELAB) to the mean colour of the hair; None if there is too little hair.

    Args:
        image: [3, H, W] in [-1, 1].
        mask: [H, W] labels of the **given** mask, not of the parser.

    Raises:
        InputError: a colour is not a finite number.
    """
    hair = mask == LABELS.index("hair")
    if hair.float().mean() <= SEEN:
        return None
    if not image.isfinite().all():
        raise InputError("the image has colours that are not finite numbers", field="image")
    return nearest_word((image[:, hair].double().mean(1).cpu().numpy() + 1) / 2, HAIR_COLOURS)


def prompted_hair(prompt: str) -> str | None:
    """The hair colour in a prompt ("short brown hair", "hair: long wavy blonde"); None if it names none."""
    text = prompt.lower().replace("blonde", "blond").replace("gray", "grey")
    words = "|".join(HAIR_COLOURS)
    named = re.search(rf"\b({words})\s+hair\b", text) or re.search(rf"\bhair(?::| is)[^;,.]*?\b({words})\b", text)
    return named[1] if named else None

"""Metrics of generated images: pure functions on tensors, with one value per image unless stated otherwise.

Shapes: B images, H x W pixels, D features, n samples. Images are float in [-1, 1]. Networks live in ``judges.py``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from mmface.data.captions import SEEN
from mmface.data.colour import nearest_word
from mmface.data.portraits.palette import HAIR_COLOURS
from mmface.imaging.labels import LABELS


def slug(component: str) -> str:
    """A component id as part of a metric's name: ``zoo:clip`` -> ``zoo-clip``, ``owner/model`` -> ``model``."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", component.rstrip("/").rsplit("/", 1)[-1])


def short_hash(*texts: str) -> str:
    """The first 8 hex digits of the SHA-256 of ``texts``."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]


def mask_accuracy(predicted: Tensor, given: Tensor) -> Tensor:
    """Fraction of pixels with the given label. Integer labels [B, H, W] twice -> [B]."""
    return (predicted == given).float().mean(dim=(1, 2))


def mask_iou(predicted: Tensor, given: Tensor, labels: int = len(LABELS)) -> Tensor:
    """Mean intersection over union of each image, over the labels **present in its given mask** -> [B].

    A label that occurs only in the prediction is not a class; its pixels lower the IoU of the labels they cover.
    """
    hit, in_given, in_predicted = (counts.float() for counts in label_counts(predicted, given, labels))
    present = in_given > 0
    iou = torch.where(present, hit / (in_given + in_predicted - hit).clamp_min(1), 0.0)
    return iou.sum(1) / present.sum(1)


def label_counts(predicted: Tensor, given: Tensor, labels: int = len(LABELS)) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels of each label, int64 [B, labels] each: in both masks, in the given one, in the predicted one."""
    pairs = given.long() * labels + predicted.long()
    confusion = torch.stack([torch.bincount(p.flatten(), minlength=labels**2) for p in pairs])
    confusion = confusion.view(-1, labels, labels)  # [B, given, predicted]
    return confusion.diagonal(dim1=1, dim2=2), confusion.sum(2), confusion.sum(1)


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


def frechet(a: Tensor, b: Tensor) -> float:
    """Fréchet distance between the Gaussians of two feature sets [n, D] and [m, D], n and m at least 2.

    tr (S_a S_b)^(1/2) is the nuclear norm of A B^T, where A and B are the centred features over sqrt(n - 1). This is
    also exact for n < D, where the covariances are singular and a matrix square root is inaccurate.
    """
    a, b = a.double(), b.double()
    centred_a = (a - a.mean(0)) / (len(a) - 1) ** 0.5
    centred_b = (b - b.mean(0)) / (len(b) - 1) ** 0.5
    root_a = torch.linalg.qr(centred_a, mode="r").R
    root_b = torch.linalg.qr(centred_b, mode="r").R
    overlap = torch.linalg.svdvals(root_a @ root_b.T).sum()
    spread = centred_a.square().sum() + centred_b.square().sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + spread - 2 * overlap
    return max(0.0, float(distance))


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
    """
    hair = mask == LABELS.index("hair")
    if hair.float().mean() <= SEEN:
        return None
    return nearest_word((image[:, hair].double().mean(1).cpu().numpy() + 1) / 2, HAIR_COLOURS)


def prompted_hair(prompt: str) -> str | None:
    """The hair colour in a prompt ("short brown hair", "hair: long wavy blonde"); None if it names none."""
    text = prompt.lower().replace("blonde", "blond").replace("gray", "grey")
    words = "|".join(HAIR_COLOURS)
    named = re.search(rf"\b({words})\s+hair\b", text) or re.search(rf"\bhair(?::| is)[^;,.]*?\b({words})\b", text)
    return named[1] if named else None

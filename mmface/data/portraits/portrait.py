"""Draws one portrait: paints the layers from back to front, then makes image, mask and captions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmface.data.portraits.accessories import EARRING, paint_earrings, paint_glasses, paint_hat
from mmface.data.portraits.attributes import Attributes, sample_attributes, sample_shape
from mmface.data.portraits.canvas import Canvas
from mmface.data.portraits.description import captions
from mmface.data.portraits.face import paint_head
from mmface.data.portraits.hair import Hair
from mmface.data.portraits.head import Head
from mmface.data.portraits.scene import CLOTH, NECKLACE, paint_background, paint_body, paint_ears
from mmface.errors import InputError
from mmface.imaging.labels import LABELS

_SUPERSAMPLE = 1.25
_VISIBLE = 3e-4  # captions leave out what covers a smaller share of the image


@dataclass(frozen=True)
class Portrait:
    """One drawn person.

    ``image`` uint8 [S, S, 3], ``mask`` uint8 [S, S] of label indices (§6), ten ``captions``, and the ``attributes``
    that the captions describe.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    captions: tuple[str, ...]
    attributes: dict[str, str]


def draw(seed: int, size: int) -> Portrait:
    """Draws the portrait of a seed; every size shows the same person.

    Raises:
        InputError: ``size`` is outside 32..1024 or ``seed`` is negative.
    """
    if not 32 <= size <= 1024:
        raise InputError(f"{size} is outside 32..1024: give a size in that range", field="size")
    if seed < 0:
        raise InputError(f"{seed} is negative: give a seed of 0 or more", field="seed")
    who, brush, grain = (np.random.default_rng([seed, k]) for k in range(3))
    a = sample_attributes(who)
    s = sample_shape(who, a)
    head, c = Head(s), Canvas.blank(round(_SUPERSAMPLE * size))
    paint_background(brush, c, a)
    hair = Hair(brush, c, head, a)
    hair.paint_back(c, brush)
    paint_body(brush, c, head, a)
    paint_ears(brush, c, head, a)
    paint_head(brush, c, head, a)
    hair.shadow(c)
    hair.paint_front(c)
    if a.glasses != "none":
        paint_glasses(brush, c, head, a)
    if a.hat != "none":
        paint_hat(brush, c, head, a)
    if a.earrings != "none":
        paint_earrings(brush, c, head, a)
    a = _only_visible(a, c.label)
    return Portrait(_develop(c, size, s.warmth, grain), _labels(c, size), captions(a, who), a.words())


def _only_visible(a: Attributes, label: NDArray[np.uint8]) -> Attributes:
    """The attributes without what hair, hat or image border hide, so that captions stay true."""
    share = np.bincount(label.reshape(-1), minlength=len(LABELS)) / label.size
    return replace(
        a,
        earrings=a.earrings if share[EARRING] > _VISIBLE else "none",
        necklace=a.necklace if share[NECKLACE] > _VISIBLE else "none",
        cloth=a.cloth if share[CLOTH] > 10 * _VISIBLE else "none",
    )


def _develop(c: Canvas, size: int, warmth: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Scales the supersampled image down; adds the warmth of the light and a little grain."""
    full = Image.fromarray((np.clip(c.rgb, 0, 1) * 255 + 0.5).astype(np.uint8))
    rgb = np.asarray(full.resize((size, size), Image.Resampling.BOX), np.float32)
    rgb = rgb * np.array([1 + warmth, 1, 1 - warmth], np.float32)
    rgb += rng.standard_normal(rgb.shape[:2], dtype=np.float32)[..., None] * np.float32(1.5)
    return np.asarray(np.clip(rgb + 0.5, 0, 255), np.uint8)


def _labels(c: Canvas, size: int) -> NDArray[np.uint8]:
    """The label at the centre of each pixel."""
    return np.asarray(Image.fromarray(c.label).resize((size, size), Image.Resampling.NEAREST))

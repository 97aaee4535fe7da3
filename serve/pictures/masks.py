"""Reads clients' masks: exact ones, and those with the soft edges that drawing programs make."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmface.errors import InputError
from mmface.imaging.labels import LABELS, PALETTE, mask_from_image, match_palette

# Largest share of pixels without a palette colour. In face masks, anti-aliasing and scaling (to a quarter, or
# eightfold) blur at most 32 % of the pixels, all at edges. JPEG changes at least 37 %, everywhere; in a photograph at
# least 83 % are outside the palette.
MAX_SOFT = 1 / 3
_REACH = 2  # pixels; a soft pixel takes a label that occurs within this distance
_NOTHING = len(LABELS)
_CHUNK = 1 << 16

Labels = npt.NDArray[np.uint8]


def read_mask(image: Image.Image) -> tuple[Labels, tuple[str, ...]]:
    """Label indices [H, W] of a decoded picture, and warnings about what was adjusted.

    Label indices (grey or palette) and exact palette colours are used as they are. In a colour picture, transparent
    parts become background, and pixels of other colours take the nearest label, provided that they are few
    (:data:`MAX_SOFT`), as soft edges are.

    Raises:
        InputError: unknown labels, an image mode that cannot be a mask, or too many other colours.
    """
    try:
        return mask_from_image(image), ()
    except InputError:
        if image.mode not in ("P", "RGB", "RGBA"):
            raise
    rgba = image.convert("RGBA")
    transparent = rgba.getchannel("A").histogram()[0]
    solid = Image.alpha_composite(Image.new("RGBA", rgba.size, "black"), rgba).convert("RGB")
    if transparent == rgba.width * rgba.height:
        raise InputError("all of the picture is transparent, so it has no mask; send an opaque one", field="mask")
    labels, soft = _nearest(np.asarray(solid))
    counts = (
        (soft, "were no palette colour and took the nearest label"),
        (transparent, "were transparent: background"),
    )
    return labels, tuple(f"{count} pixels ({_percent(count / labels.size)}) {what}" for count, what in counts if count)


def _nearest(rgb: Labels) -> tuple[Labels, int]:
    """Labels of ``rgb`` [H, W, 3], and the number of pixels without a palette colour."""
    labels, known = match_palette(rgb)
    soft = int(known.size - known.sum())
    if soft == 0:
        return labels, 0
    # A soft edge lies between two labels. With fewer labels it is no mask but, say, a white line on black.
    if soft > MAX_SOFT * known.size or len(np.unique(labels[known])) < 2:
        share = f"{_percent(soft / known.size)} of the pixels have no colour of the 19 labels' palette"
        remedy = f"at most {_percent(MAX_SOFT)} are accepted, for soft edges; save the mask as PNG"
        raise InputError(f"{share}; {remedy}", field="mask")
    rows, columns = np.nonzero(~known)
    around = np.pad(np.where(known, labels, np.uint8(_NOTHING)), _REACH, constant_values=_NOTHING)
    for first in range(0, soft, _CHUNK):
        at = rows[first : first + _CHUNK], columns[first : first + _CHUNK]
        labels[at] = _closest(rgb[at], _labels_near(around, *at))
    return labels, soft


def _labels_near(around: Labels, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """[K, 19]: the labels within :data:`_REACH` of each pixel; all labels if there is none."""
    offsets = np.arange(2 * _REACH + 1)
    near = around[rows[:, None, None] + offsets[:, None], columns[:, None, None] + offsets].reshape(len(rows), -1)
    present = np.zeros((len(rows), _NOTHING + 1), bool)
    present[np.arange(len(rows))[:, None], near] = True
    present = present[:, :_NOTHING]
    return present | ~present.any(axis=1, keepdims=True)


def _closest(colours: Labels, allowed: npt.NDArray[np.bool_]) -> Labels:
    difference = colours[:, None].astype(np.int32) - PALETTE.astype(np.int32)
    distance = np.where(allowed, (difference**2).sum(axis=2), np.iinfo(np.int32).max)
    nearest: Labels = distance.argmin(axis=1).astype(np.uint8)
    return nearest


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"

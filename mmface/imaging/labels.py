"""The 19 face labels of CelebAMask-HQ with their colours, and reading and writing masks as PNG files (§6)."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmface.errors import InputError
from mmface.imaging.decode import decode

LABELS: tuple[str, ...] = (
    "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear",
    "mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)  # fmt: skip

PALETTE: NDArray[np.uint8] = np.array(
    [
        (0, 0, 0), (204, 0, 0), (76, 153, 0), (204, 204, 0), (51, 51, 255), (204, 0, 204), (0, 255, 255),
        (255, 204, 204), (102, 51, 0), (255, 0, 0), (102, 204, 0), (255, 255, 0), (0, 0, 153), (0, 0, 204),
        (255, 51, 153), (0, 204, 204), (0, 51, 0), (255, 153, 51), (0, 204, 0),
    ],
    np.uint8,
)  # fmt: skip

# Label of each label in a mirrored image: the left eye becomes the right eye.
MIRRORED: NDArray[np.intp] = np.arange(len(LABELS))
MIRRORED[[4, 5, 6, 7, 8, 9]] = [5, 4, 7, 6, 9, 8]

_MAX_MEGAPIXELS = 4096 * 4096 / 1e6
_REMEDY = "give a palette or grey PNG of label indices 0..18, or an RGB PNG in the CelebAMask-HQ palette"


def mask_to_rgb(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Palette colours [H, W, 3] of a label mask [H, W]."""
    return PALETTE[mask]


def mask_to_png(mask: NDArray[np.uint8]) -> bytes:
    """A palette PNG whose pixel values are the label indices of ``mask`` [H, W].

    Raises:
        InputError: a value is not a label.
    """
    if mask.ndim != 2 or (mask.size and int(mask.max()) >= len(LABELS)):
        message = f"a mask must be [H, W] with labels 0..{len(LABELS) - 1}, got shape {list(mask.shape)}"
        raise InputError(message, field="mask")
    image = Image.fromarray(np.ascontiguousarray(mask, dtype=np.uint8))
    image.putpalette(PALETTE.reshape(-1).tolist())
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def mask_from_png(data: bytes) -> NDArray[np.uint8]:
    """Decodes a mask file to label indices [H, W].

    The file is a palette image, a grey image of indices, or an RGB image of exact palette colours or grey indices. It
    is turned by its EXIF orientation, like its photograph.

    Raises:
        InputError: not a jpg, png or webp image of at most 16 megapixels, another colour mode, or a colour or label
            that is not among the 19.
    """
    try:
        image = decode(data, _MAX_MEGAPIXELS, field="mask")
    except InputError as error:
        raise InputError(f"not a readable image ({error.message}): {_REMEDY}", field="mask") from None
    return mask_from_image(image)


def mask_from_image(image: Image.Image) -> NDArray[np.uint8]:
    """Label indices [H, W] of a decoded mask; see :func:`mask_from_png`.

    Raises:
        InputError: another colour mode, or a colour or label that is not among the 19.
    """
    if image.mode == "RGB":
        return _from_rgb(np.asarray(image))
    if image.mode == "P":
        return _from_palette(image)
    if image.mode != "L":
        raise InputError(f"image mode {image.mode} is not a mask: {_REMEDY}", field="mask")
    return _checked(np.asarray(image, np.uint8))


def _checked(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if mask.size and int(mask.max()) >= len(LABELS):
        raise InputError(f"label {int(mask.max())} is not among 0..{len(LABELS) - 1}: {_REMEDY}", field="mask")
    return mask


def _from_palette(image: Image.Image) -> NDArray[np.uint8]:
    """Uses the indices if the file's palette is :data:`PALETTE`; otherwise matches by colour."""
    index = np.asarray(image, np.uint8)
    given = np.asarray(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    used = np.unique(index)
    if int(used.max(initial=0)) < min(len(LABELS), len(given)) and np.array_equal(given[used], PALETTE[used]):
        return index
    return _from_rgb(np.asarray(image.convert("RGB")))


def _from_rgb(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # Black is the only grey colour of the palette, so grey pixels must be label indices.
    if (rgb == rgb[..., :1]).all():
        return _checked(rgb[..., 0])
    mask, known = match_palette(rgb)
    if not known.all():
        colour = tuple(int(v) for v in rgb[~known][0])
        raise InputError(f"colour {colour} is not in the palette of the 19 labels: {_REMEDY}", field="mask")
    return mask


def match_palette(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Labels [H, W] of the pixels of ``rgb`` [H, W, 3], and a mask [H, W] of the pixels that have a palette colour."""
    codes = rgb.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
    known = PALETTE.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
    order = np.argsort(known)
    at = np.clip(np.searchsorted(known[order], codes), 0, len(known) - 1)
    mask = order[at].astype(np.uint8)
    return mask, known[mask] == codes

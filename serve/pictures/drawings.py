"""Clients' drawings: decoding, recognising masks and sketches, and fitting to an aspect ratio (§9)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageStat

from mmface.errors import InputError
from mmface.imaging.decode import decode
from serve.http.errors import ApiError
from serve.http.requests import Fit, Modality
from serve.pictures.masks import read_mask

MAX_SIDE = 2048  # longest side of a drawing in a job, in pixels; larger than the images of any model
PAPER = {"mask": 0, "sketch": 255}  # value of padding: background, white paper

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Drawing:
    """A decoded drawing: ``pixels`` [H, W], labels of a mask or grey of a sketch, and what was adjusted."""

    pixels: Pixels
    modality: Modality
    warnings: tuple[str, ...]


def read_drawing(data: bytes, modality: Modality | None, max_megapixels: float, field: str = "condition") -> Drawing:
    """Decodes a drawing. Without ``modality``, a valid mask of at least two labels is a mask, all else a sketch.

    Raises:
        ApiError: 400 if it cannot be decoded or has more than ``max_megapixels``, which its header alone decides.
        InputError: a mask with unknown labels or colours.
    """
    try:
        image = decode(data, max_megapixels, field=field)
    except InputError as error:
        raise ApiError(400, error.message, param=field, code="invalid_image") from None
    if modality != "sketch":
        try:
            labels, warnings = read_mask(_bounded(image, Image.Resampling.NEAREST))
            if modality == "mask" or len(np.unique(labels)) > 1:
                return Drawing(labels, "mask", warnings)
        except InputError as error:
            if modality == "mask":
                raise InputError(error.message, field=field) from None
    return _sketch(image)


def fit_drawing(drawing: Pixels, modality: Modality, size: tuple[int, int], fit: Fit) -> Pixels:
    """Brings a drawing to the aspect ratio of the image to be generated.

    Args:
        drawing: [h, w] labels of a mask or grey of a sketch.
        modality: decides the value of padding and the method of resizing.
        size: (width, height) of the image in pixels; only ``stretch`` resizes to it.
        fit: ``crop`` keeps the middle at the drawing's own resolution, ``pad`` surrounds it with background or
            paper, ``stretch`` resizes it, masks by nearest and sketches by Lanczos.

    Returns:
        [h', w'] with the ratio of ``size``, up to whole pixels.
    """
    height, width = drawing.shape
    if width * size[1] == height * size[0]:
        return drawing
    if fit == "stretch":
        method = Image.Resampling.NEAREST if modality == "mask" else Image.Resampling.LANCZOS
        return np.asarray(Image.fromarray(drawing).resize(size, method))
    too_wide = width * size[1] > height * size[0]
    if too_wide == (fit == "crop"):
        width = max(1, round(height * size[0] / size[1]))
    else:
        height = max(1, round(width * size[1] / size[0]))
    if fit == "crop":
        top, left = (drawing.shape[0] - height) // 2, (drawing.shape[1] - width) // 2
        return np.ascontiguousarray(drawing[top : top + height, left : left + width])
    padded = np.full((height, width), PAPER[modality], np.uint8)
    top, left = (height - drawing.shape[0]) // 2, (width - drawing.shape[1]) // 2
    padded[top : top + drawing.shape[0], left : left + drawing.shape[1]] = drawing
    return padded


def _sketch(image: Image.Image) -> Drawing:
    """A sketch as grey, dark lines on white.

    The paper is what most pixels are: darker or lighter than the middle between the darkest and the lightest grey. A
    sketch on dark paper is inverted. Transparent parts become white paper, or black paper if most of the picture is
    transparent and the drawn part is light.
    """
    grey = np.asarray(_bounded(_on_paper(image), Image.Resampling.LANCZOS))
    darkest, lightest = int(grey.min()), int(grey.max())
    # If there is only one grey, it counts as dark below mid-grey.
    middle = (darkest + lightest) / 2 if darkest < lightest else 127.5
    if (grey < middle).mean() <= 0.5:
        return Drawing(grey, "sketch", ())
    return Drawing(255 - grey, "sketch", ("the sketch is light on dark; it was inverted to dark lines on white paper",))


def _on_paper(image: Image.Image) -> Image.Image:
    if image.mode == "I;16":
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB").convert("L")
    grey, alpha = image.convert("RGBA").convert("LA").split()
    mostly_clear = alpha.histogram()[0] > grey.width * grey.height / 2
    ink = ImageStat.Stat(grey, alpha).mean[0] if alpha.getextrema()[1] else 0.0
    return Image.composite(grey, Image.new("L", grey.size, 0 if mostly_clear and ink > 127 else 255), alpha)


def _bounded(picture: Image.Image, method: Image.Resampling) -> Image.Image:
    if max(picture.size) <= MAX_SIDE:
        return picture
    scale = MAX_SIDE / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), method)

"""Converts PIL images, masks and sketches to network tensors in [-1, 1] and back (§4); used by stages, evaluation and
serving alike.

Shapes: H W target size in pixels. Images are centre-cropped to the target's aspect ratio, then resized.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mmface.imaging.labels import mask_to_rgb

Size = int | tuple[int, int]
MaskResize = Literal["nearest", "lanczos"]


def center_square(image: Image.Image) -> Image.Image:
    """The largest centred square of an image, not resized."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def to_tensor(image: Image.Image, size: Size) -> Tensor:
    """A photograph of any colour mode → [3, H, W] in [-1, 1], resized by LANCZOS, which averages when shrinking."""
    return _normalise(_fit(image.convert("RGB"), size, Image.Resampling.LANCZOS))


def mask_to_tensor(mask: npt.NDArray[np.uint8], size: Size, resize: MaskResize = "nearest") -> Tensor:
    """A label-index mask [h, w] → its RGB palette image [3, H, W] in [-1, 1].

    Args:
        mask: labels 0 … 18 (§6).
        size: target size.
        resize: ``"nearest"`` keeps palette colours pure; ``"lanczos"`` reproduces the released models' input.
    """
    method = Image.Resampling.NEAREST if resize == "nearest" else Image.Resampling.LANCZOS
    return _normalise(_fit(Image.fromarray(mask_to_rgb(mask)), size, method))


def sketch_to_tensor(sketch: Image.Image, size: Size) -> Tensor:
    """A sketch of any colour mode → three equal grey channels [3, H, W] in [-1, 1]."""
    return _normalise(_fit(sketch.convert("L"), size, Image.Resampling.LANCZOS).convert("RGB"))


def to_pil(images: Tensor) -> list[Image.Image]:
    """Image tensors [B, 3, H, W] in [-1, 1] → PIL images in RGB."""
    pixels = images.float().clamp(-1, 1).add(1).mul(127.5).round().byte()
    return [Image.fromarray(array) for array in pixels.permute(0, 2, 3, 1).cpu().numpy()]


def resize_mask(mask: npt.NDArray[np.uint8], size: Size) -> npt.NDArray[np.uint8]:
    """A label-index mask [h, w] → [H, W], cropped and resized (nearest) as in :func:`mask_to_tensor`."""
    return np.asarray(_fit(Image.fromarray(mask), size, Image.Resampling.NEAREST))


def _fit(image: Image.Image, size: Size, method: Image.Resampling) -> Image.Image:
    height, width = (size, size) if isinstance(size, int) else size
    if image.size == (width, height):
        return image
    return ImageOps.fit(image, (width, height), method=method)


def _normalise(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1)
    return pixels.float().div_(127.5).sub_(1)

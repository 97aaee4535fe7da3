"""Reads batches of an evaluation set: drawings and photographs at the resolution of the evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mmface.config import Recipe
from mmface.data.conditions import square_picture
from mmface.imaging.labels import mask_from_png
from mmface.imaging.pixels import resize_mask, sketch_to_tensor, to_pil, to_tensor

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Inputs:
    """A batch of B rows of one modality, H x W pixels."""

    rows: list[Row]
    masks: NDArray[np.uint8]  # [B, H, W]
    sketches: Tensor  # [B, H, W] grey in 0..1
    sources: list[Image.Image]

    @property
    def modality(self) -> str:
        """``"mask"``, ``"sketch"`` or ``"unconditional"``."""
        return str(self.rows[0]["modality"])

    @property
    def prompts(self) -> list[str]:
        """The prompt of each row."""
        return [str(row["prompt"]) for row in self.rows]


def read_inputs(rows: list[Row], recipe: Recipe) -> Inputs:
    """Decodes the columns image, mask and sketch of rows from :func:`mmface.evaluate.evalset.requests`.

    Args:
        recipe: gives the resolution (of its last phase) and the limits of decoding.
    """
    size = recipe.phases[-1].resolution
    pictures = [square_picture(row["image"], recipe.data.max_megapixels, recipe.picture_side) for row in rows]
    masks, sketches = read_drawings(rows, size)
    sources = to_pil(torch.stack([to_tensor(picture, size) for picture in pictures]))
    return Inputs(rows, masks, sketches, sources)


def read_drawings(rows: Sequence[Row], size: int) -> tuple[NDArray[np.uint8], Tensor]:
    """Labels [B, H, W] of the masks, and sketches [B, H, W] as grey in 0..1 (dark lines on white)."""
    masks = np.stack([resize_mask(mask_from_png(row["mask"]), size) for row in rows])
    sketches = [sketch_to_tensor(Image.open(BytesIO(row["sketch"])), size) for row in rows]
    return masks, (torch.stack(sketches)[:, 0] + 1) / 2


def batches(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    """Splits rows into batches of one modality each; keeps the order of rows within a modality."""
    for modality in dict.fromkeys(row["modality"] for row in rows):
        same = [row for row in rows if row["modality"] == modality]
        yield from (same[start : start + size] for start in range(0, len(same), size))
